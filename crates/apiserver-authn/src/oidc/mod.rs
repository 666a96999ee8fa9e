//! ID tokens of OpenID Connect issuers. Upstream: apiserver/plugin/pkg/authenticator/token/oidc, 1.36.
//!
//! [`OidcTokens`] judges the tokens of one issuer as [`JwtAuthenticator`] says. The issuer is asked when the first of its
//! tokens is shown, and again when one is signed with a key that is not known; while nobody shows tokens, nothing is
//! fetched.
mod claims;
mod config;
mod issuer;
mod jwk;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;

pub use config::{
    AnonymousSetting, AuthenticationConfiguration, ClaimRule, ConfigError, JwtAuthenticator, Mapping,
    OidcFlags, SIGNING_ALGORITHMS,
};

use crate::http_client::SharedHttpClient;
use crate::{AuthnError, Now, TokenAuthenticator, TokenUser, unix_seconds};
use issuer::Issuer;

/// Tokens longer than this are not looked at.
const LONGEST_TOKEN: usize = 64 * 1024;

/// Judges the tokens of one issuer.
pub struct OidcTokens {
    config: JwtAuthenticator,
    issuer: Issuer,
    api_audiences: Vec<String>,
    now: Now,
}

/// A token taken apart; nothing of it is checked yet.
struct Parts<'a> {
    algorithm: String,
    key_id: Option<String>,
    message: &'a [u8],
    signature: Vec<u8>,
    claims: Value,
}

fn take_apart(token: &str) -> Option<Parts<'_>> {
    if token.len() > LONGEST_TOKEN {
        return None;
    }
    let (message, signature) = token.rsplit_once('.')?;
    let (header, claims) = message.split_once('.')?;
    let json = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
    let header = json(header)?;
    if header.get("crit").is_some() {
        return None;
    }
    Some(Parts {
        algorithm: header.get("alg")?.as_str()?.to_owned(),
        key_id: header.get("kid").and_then(Value::as_str).map(str::to_owned),
        message: message.as_bytes(),
        signature: URL_SAFE_NO_PAD.decode(signature).ok()?,
        claims: json(claims)?,
    })
}

impl OidcTokens {
    /// Asks the issuer through `http`; `api_audiences` are what a good token counts as being for.
    pub fn new(
        config: JwtAuthenticator,
        http: SharedHttpClient,
        api_audiences: Vec<String>,
        now: Now,
    ) -> Self {
        let issuer = Issuer::new(&config, http);
        Self { config, issuer, api_audiences, now }
    }
}

#[async_trait]
impl TokenAuthenticator for OidcTokens {
    async fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<TokenUser>, AuthnError> {
        let Some(parts) = take_apart(token) else { return Ok(None) };
        if parts.claims.get("iss").and_then(Value::as_str) != Some(&self.config.issuer_url) {
            return Ok(None);
        }
        let fail = |why: String| AuthnError(format!("oidc: {why}"));
        if !self.config.signing_algorithms.contains(&parts.algorithm) {
            return Err(fail(format!(
                "verify token: oidc: id token signed with unsupported algorithm, expected {:?} got {:?}",
                self.config.signing_algorithms, parts.algorithm
            )));
        }
        claims::check_audience(&parts.claims, &self.config.audiences).map_err(fail)?;
        claims::check_dates(&parts.claims, unix_seconds((self.now)())).map_err(fail)?;
        let signed = self.issuer.confirms(&parts).await.map_err(fail)?;
        if !signed {
            return Err(fail("verify token: failed to verify signature: no keys matches jwt keyid".into()));
        }
        let user = claims::user(&parts.claims, &self.config).map_err(fail)?;
        let common: Vec<String> =
            self.api_audiences.iter().filter(|a| audiences.contains(a)).cloned().collect();
        let audiences = if audiences.is_empty() { self.api_audiences.clone() } else { common };
        if audiences.is_empty() && !self.api_audiences.is_empty() {
            return Ok(None);
        }
        Ok(Some(TokenUser { user: user.into(), audiences }))
    }
}

#[cfg(test)]
mod tests;
