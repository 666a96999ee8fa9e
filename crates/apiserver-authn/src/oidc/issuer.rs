//! One issuer: where its keys are, and the keys.
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::Parts;
use super::config::JwtAuthenticator;
use super::jwk::{self, Jwk};
use crate::http_client::SharedHttpClient;

/// Between two questions to the issuer, whatever tokens are shown: strangers must not make us flood it.
const PAUSE: Duration = Duration::from_secs(1);

pub(super) struct Issuer {
    url: String,
    discovery_url: String,
    http: SharedHttpClient,
    keys: RwLock<Arc<Vec<Jwk>>>,
    /// One question at a time.
    asking: Mutex<Asked>,
}

#[derive(Default)]
struct Asked {
    jwks_uri: Option<String>,
    at: Option<Instant>,
    failure: Option<String>,
}

impl Issuer {
    pub(super) fn new(config: &JwtAuthenticator, http: SharedHttpClient) -> Self {
        let well_known = || {
            format!("{}/.well-known/openid-configuration", config.issuer_url.trim_end_matches('/'))
        };
        Self {
            url: config.issuer_url.clone(),
            discovery_url: config.discovery_url.clone().unwrap_or_else(well_known),
            http,
            keys: RwLock::default(),
            asking: Mutex::default(),
        }
    }

    fn keys(&self) -> Arc<Vec<Jwk>> {
        self.keys.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Whether one of the issuer's keys signed this. The issuer is asked where none of those known did.
    pub(super) async fn confirms(&self, token: &Parts<'_>) -> Result<bool, String> {
        let known = self.keys();
        if is_signed(&known, token) {
            return Ok(true);
        }
        let mut asked = self.asking.lock().await;
        // Somebody else may have asked while we waited.
        let newer = self.keys();
        if !Arc::ptr_eq(&known, &newer) && is_signed(&newer, token) {
            return Ok(true);
        }
        if asked.at.is_some_and(|at| at.elapsed() < PAUSE) {
            return match &asked.failure {
                Some(why) => Err(why.clone()),
                None => Ok(is_signed(&newer, token)),
            };
        }
        asked.at = Some(Instant::now());
        let fetched = self.fetch(&mut asked).await;
        match fetched {
            Ok(keys) => {
                asked.failure = None;
                let signed = is_signed(&keys, token);
                *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
                Ok(signed)
            }
            Err(why) => {
                tracing::warn!(issuer = self.url, error = why, "the OIDC issuer cannot be asked for its keys");
                let why = format!("authenticator not initialized: {why}");
                asked.failure = Some(why.clone());
                Err(why)
            }
        }
    }

    async fn fetch(&self, asked: &mut Asked) -> Result<Vec<Jwk>, String> {
        if asked.jwks_uri.is_none() {
            let document = self.get(&self.discovery_url).await?;
            let document: Value =
                serde_json::from_slice(&document).map_err(|e| format!("discovery is not JSON: {e}"))?;
            let text = |name: &str| document.get(name).and_then(Value::as_str).unwrap_or_default();
            if text("issuer") != self.url {
                return Err(format!(
                    "oidc: issuer did not match the issuer returned by provider, expected {:?} got {:?}",
                    self.url,
                    text("issuer")
                ));
            }
            if !text("jwks_uri").starts_with("https://") {
                return Err(format!("jwks_uri {:?} is not an https URL", text("jwks_uri")));
            }
            asked.jwks_uri = Some(text("jwks_uri").to_owned());
        }
        let uri = asked.jwks_uri.clone().unwrap_or_default();
        let keys = self.get(&uri).await.and_then(|document| jwk::parse(&document));
        if keys.is_err() {
            // The keys may have moved.
            asked.jwks_uri = None;
        }
        keys
    }

    async fn get(&self, url: &str) -> Result<Vec<u8>, String> {
        let request = http::Request::get(url).header("accept", "application/json").body(Vec::new());
        let answer = self.http.call(request.map_err(|e| format!("{url}: {e}"))?).await;
        let answer = answer.map_err(|e| format!("{url}: {e}"))?;
        if answer.status() != http::StatusCode::OK {
            return Err(format!("{url}: {}", answer.status()));
        }
        Ok(answer.into_body())
    }
}

fn is_signed(keys: &[Jwk], token: &Parts<'_>) -> bool {
    keys.iter()
        .filter(|k| k.is_named(token.key_id.as_deref()))
        .any(|k| k.confirms(&token.algorithm, token.message, &token.signature))
}
