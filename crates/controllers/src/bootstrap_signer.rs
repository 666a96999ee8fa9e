//! Signs the kubeconfig in ConfigMap kube-public/cluster-info with every bootstrap token that may sign, so that who joins
//! can tell the real cluster from another by the token alone.
//! Watches: that ConfigMap, Secret of type bootstrap.kubernetes.io/token in kube-system.  Writes: the ConfigMap.
//! Invariants: never makes the ConfigMap, never touches its kubeconfig; signatures of tokens that are gone go too.
use std::collections::BTreeMap;
use std::time::Duration;

use client::{Cache, ObjectKey, Select};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::api::PostParams;
use kube::{Api, Client};

use crate::context::Context;
use crate::framework::{Controller, Error, Next, Wakes, unless_gone};

const NAMESPACE: &str = "kube-public";
const NAME: &str = "cluster-info";
const PREFIX: &str = "jws-kubeconfig-";
const TYPE: &str = "bootstrap.kubernetes.io/token";

/// See the module.
pub struct BootstrapSigner {
    client: Client,
    info: Cache<ConfigMap>,
    tokens: Cache<Secret>,
}

impl BootstrapSigner {
    /// Built from the shared parts.
    pub fn new(context: &Context) -> Self {
        let info = Select {
            namespace: Some(NAMESPACE.into()),
            fields: Some(format!("metadata.name={NAME}")),
            ..Select::default()
        };
        let tokens = Select {
            namespace: Some("kube-system".into()),
            fields: Some(format!("type={TYPE}")),
            ..Select::default()
        };
        Self {
            client: context.client.clone(),
            info: context.informers.cache_with(info),
            tokens: context.informers.cache_with(tokens),
        }
    }
}

impl Controller for BootstrapSigner {
    const NAME: &'static str = "bootstrap-signer-controller";
    const WORKERS: usize = 1;

    fn wake_on(&self, wakes: &mut Wakes) {
        wakes.own(&self.info);
        wakes.on(&self.tokens, |_| vec![ObjectKey::new(NAMESPACE, NAME)]);
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(info) = self.info.get(&key) else { return Ok(Next::Rest) };
        let now = Timestamp::now();
        let tokens: Vec<Token> = self.tokens.list().iter().filter_map(|s| token(s)).collect();
        if let Some(changed) = plan(&info, &tokens, now) {
            let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), NAMESPACE);
            let written = api.replace(NAME, &PostParams::default(), &changed).await;
            unless_gone(written).map_err(Error::at("sign cluster-info"))?;
            tracing::debug!("cluster-info signed");
        }
        // A token that ends takes its signature with it, whether or not anyone deletes its secret.
        let next = tokens.iter().filter_map(|t| t.expires).filter(|at| *at > now).min();
        Ok(next.and_then(|at| Duration::try_from(at.duration_since(now)).ok()).map_or(Next::Rest, Next::After))
    }
}

/// A bootstrap token that may sign.
#[derive(Debug, PartialEq, Eq)]
struct Token {
    id: String,
    secret: String,
    expires: Option<Timestamp>,
}

fn token(secret: &Secret) -> Option<Token> {
    let data = secret.data.as_ref()?;
    let text = |key: &str| data.get(key).and_then(|v| std::str::from_utf8(&v.0).ok()).unwrap_or_default();
    let (id, own) = (text("token-id"), text("token-secret"));
    let named = secret.metadata.name.as_deref() == Some(format!("bootstrap-token-{id}").as_str());
    if secret.type_.as_deref() != Some(TYPE)
        || !named
        || id.is_empty()
        || own.is_empty()
        || text("usage-bootstrap-signing") != "true"
    {
        return None;
    }
    let expires = match text("expiration") {
        "" => None,
        // A time that makes no sense counts as past, as everywhere else.
        at => Some(at.parse().unwrap_or(Timestamp::UNIX_EPOCH)),
    };
    Some(Token { id: id.into(), secret: own.into(), expires })
}

/// The ConfigMap with the signatures it should have; `None` where it has them.
fn plan(info: &ConfigMap, tokens: &[Token], now: Timestamp) -> Option<ConfigMap> {
    let data = info.data.as_ref()?;
    let kubeconfig = data.get("kubeconfig")?;
    let mut wanted: BTreeMap<String, String> =
        data.iter().filter(|(k, _)| !k.starts_with(PREFIX)).map(|(k, v)| (k.clone(), v.clone())).collect();
    for token in tokens.iter().filter(|t| t.expires.is_none_or(|at| at > now)) {
        let signature = pki::detached_signature(kubeconfig, &token.id, &token.secret);
        wanted.insert(format!("{PREFIX}{}", token.id), signature);
    }
    if wanted == *data {
        return None;
    }
    Some(ConfigMap { data: Some(wanted), ..info.clone() })
}

#[cfg(test)]
mod tests {
    use k8s_openapi::ByteString;

    use super::*;

    fn secret(fields: &[(&str, &str)]) -> Secret {
        let mut secret = Secret { type_: Some(TYPE.into()), ..Secret::default() };
        secret.metadata.name = Some("bootstrap-token-abcdef".into());
        let bytes = |v: &str| ByteString(v.as_bytes().to_vec());
        secret.data = Some(fields.iter().map(|(k, v)| ((*k).to_owned(), bytes(v))).collect());
        secret
    }

    const GOOD: [(&str, &str); 3] =
        [("token-id", "abcdef"), ("token-secret", "0123456789abcdef"), ("usage-bootstrap-signing", "true")];

    #[test]
    fn which_tokens_sign() {
        assert!(token(&secret(&GOOD)).is_some());
        assert_eq!(token(&secret(&GOOD[..2])), None);
        assert_eq!(token(&secret(&[GOOD[1], GOOD[2], ("token-id", "uvwxyz")])), None);
    }

    #[test]
    fn signatures_come_and_go_with_their_tokens() {
        let mut info = ConfigMap::default();
        let now = Timestamp::now();
        let tokens = vec![token(&secret(&GOOD)).unwrap()];
        assert_eq!(plan(&info, &tokens, now), None);
        info.data = Some([("kubeconfig".to_owned(), "content".to_owned())].into());
        let signed = plan(&info, &tokens, now).unwrap();
        let signature = &signed.data.as_ref().unwrap()["jws-kubeconfig-abcdef"];
        assert!(signature.starts_with("eyJhbGciOiJIUzI1NiIsImtpZCI6ImFiY2RlZiJ9.."), "{signature}");
        assert_eq!(plan(&signed, &tokens, now), None);
        assert_eq!(plan(&signed, &[], now), Some(info));
        let mut ended = tokens;
        ended[0].expires = Some(Timestamp::UNIX_EPOCH);
        assert!(plan(&signed, &ended, now).is_some());
    }
}
