//! Deletes bootstrap tokens that have expired.
//! Watches: Secret of type bootstrap.kubernetes.io/token in kube-system.  Writes: their deletion.
use std::time::Duration;

use client::{Cache, ObjectKey, Select};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Secret;
use kube::api::{DeleteParams, Preconditions};
use kube::{Api, Client};

use crate::context::Context;
use crate::framework::{Controller, Error, Next, Wakes, unless_gone};

const TYPE: &str = "bootstrap.kubernetes.io/token";

/// See the module.
pub struct TokenCleaner {
    client: Client,
    tokens: Cache<Secret>,
}

impl TokenCleaner {
    /// Built from the shared parts.
    pub fn new(context: &Context) -> Self {
        let select = Select {
            namespace: Some("kube-system".into()),
            fields: Some(format!("type={TYPE}")),
            ..Select::default()
        };
        Self { client: context.client.clone(), tokens: context.informers.cache_with(select) }
    }
}

impl Controller for TokenCleaner {
    const NAME: &'static str = "token-cleaner-controller";
    const WORKERS: usize = 1;

    fn wake_on(&self, wakes: &mut Wakes) {
        wakes.own(&self.tokens);
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(secret) = self.tokens.get(&key).filter(|s| s.type_.as_deref() == Some(TYPE)) else {
            return Ok(Next::Rest);
        };
        match time_left(&secret, Timestamp::now()) {
            None => Ok(Next::Rest),
            Some(left) if !left.is_zero() => Ok(Next::After(left)),
            Some(_) => {
                let api: Api<Secret> = Api::namespaced(self.client.clone(), &key.namespace);
                let same = Preconditions { uid: secret.metadata.uid.clone(), resource_version: None };
                let deleted = api.delete(&key.name, &DeleteParams::default().preconditions(same)).await;
                unless_gone(deleted).map_err(Error::at("delete an expired token"))?;
                tracing::info!(token = key.name, "expired bootstrap token deleted");
                Ok(Next::Rest)
            }
        }
    }
}

/// Time until the token expires; zero when it has, or when its time makes no sense; `None`: never.
fn time_left(secret: &Secret, now: Timestamp) -> Option<Duration> {
    let text = secret.data.as_ref()?.get("expiration").filter(|t| !t.0.is_empty())?;
    let at: Option<Timestamp> = std::str::from_utf8(&text.0).ok().and_then(|t| t.parse().ok());
    let left = at.map(|at| at.duration_since(now));
    Some(left.and_then(|l| Duration::try_from(l).ok()).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    #[test]
    fn expiry() {
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        for (text, left) in [
            (None, None),
            (Some(""), None),
            (Some("2026-01-01T00:01:00Z"), Some(60)),
            (Some("2026-01-01T01:00:00+00:30"), Some(1800)),
            (Some("2025-01-01T00:00:00Z"), Some(0)),
            (Some("tomorrow"), Some(0)),
        ] {
            let data = text.map(|t| [("expiration".to_owned(), ByteString(t.into()))].into());
            let secret = Secret { data, ..Secret::default() };
            assert_eq!(time_left(&secret, now), left.map(Duration::from_secs), "{text:?}");
        }
    }
}
