//! Takes the bearer token out of a request: from `Authorization`, or from a WebSocket's subprotocols.
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::{AUTHORIZATION, SEC_WEBSOCKET_PROTOCOL, UPGRADE};
use machinery::request::UserInfo;

use crate::{AuthRequest, Authenticator, AuthnError, TokenAuthenticator};

/// Browsers cannot set `Authorization` on a WebSocket, so they send the token as a subprotocol with this prefix.
pub const WEBSOCKET_PROTOCOL_PREFIX: &str = "base64url.bearer.authorization.k8s.io.";

/// Reads bearer tokens of requests. A token that no method knows is refused.
pub struct BearerToken(pub Arc<dyn TokenAuthenticator>);

/// The token of a request, if it carries one.
fn token(headers: &http::HeaderMap) -> Result<Option<String>, AuthnError> {
    if let Some(value) = headers.get(AUTHORIZATION).and_then(|v| v.to_str().ok()) {
        let mut words = value.trim().split(' ');
        if words.next().is_some_and(|w| w.eq_ignore_ascii_case("bearer"))
            && let Some(token) = words.next().filter(|t| !t.is_empty())
        {
            return Ok(Some(token.to_owned()));
        }
    }
    let websocket = headers.get(UPGRADE).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"websocket"));
    if !websocket {
        return Ok(None);
    }
    let protocols = headers.get_all(SEC_WEBSOCKET_PROTOCOL).iter().filter_map(|v| v.to_str().ok());
    let mut found = None;
    for encoded in
        protocols.flat_map(|v| v.split(',')).filter_map(|p| p.trim().strip_prefix(WEBSOCKET_PROTOCOL_PREFIX))
    {
        if found.is_some() {
            return Err(AuthnError("multiple base64.bearer.authorization tokens specified".into()));
        }
        let decoded = URL_SAFE_NO_PAD
            .decode(encoded.trim_end_matches('='))
            .ok()
            .and_then(|b| String::from_utf8(b).ok());
        found =
            Some(decoded.ok_or_else(|| AuthnError("invalid base64url encoding of a bearer token".into()))?);
    }
    Ok(found.filter(|t| !t.is_empty()))
}

#[async_trait]
impl Authenticator for BearerToken {
    async fn authenticate(&self, request: &AuthRequest<'_>) -> Result<Option<Arc<UserInfo>>, AuthnError> {
        let Some(token) = token(request.headers)? else { return Ok(None) };
        match self.0.authenticate_token(&token, &[]).await? {
            Some(found) => Ok(Some(found.user)),
            None => Err(AuthnError("invalid bearer token".into())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_token() {
        let check = |headers: &[(&'static str, &str)], want: Option<&str>| {
            let map = headers.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect();
            assert_eq!(token(&map).unwrap().as_deref(), want, "{headers:?}");
        };
        check(&[], None);
        check(&[("authorization", "Bearer abc")], Some("abc"));
        check(&[("authorization", "bearer abc def")], Some("abc"));
        check(&[("authorization", "Bearer ")], None);
        check(&[("authorization", "Basic abc")], None);
        let protocols =
            ("sec-websocket-protocol", "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.YWJj");
        check(&[("upgrade", "websocket"), protocols], Some("abc"));
        check(&[protocols], None);
    }
}
