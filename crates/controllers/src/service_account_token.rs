//! Fills Secrets of type kubernetes.io/service-account-token, which people make for service accounts outside of pods.
//! Watches: Secret of that type (by key), ServiceAccount (its secrets).  Writes: Secret update and deletion.
//! Invariants: makes no Secret; deletes one only when its service account is gone from the API itself, not just from a
//! cache; leaves a token alone that it did not sign or cannot judge.
use std::collections::BTreeMap;
use std::path::PathBuf;

use client::{Cache, Index, ObjectKey, Select};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::{Secret, ServiceAccount};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};
use pki::PrivateKey;
use serde_json::json;

use crate::context::Context;
use crate::framework::{Controller, Error, Next, Wakes, chain, unless_gone};

const TYPE: &str = "kubernetes.io/service-account-token";
const ACCOUNT: &str = "kubernetes.io/service-account.name";
const ACCOUNT_UID: &str = "kubernetes.io/service-account.uid";

/// See the module.
pub struct ServiceAccountToken {
    client: Client,
    secrets: Cache<Secret>,
    by_account: Index<Secret>,
    accounts: Cache<ServiceAccount>,
    key: PathBuf,
    root_ca: String,
}

impl ServiceAccountToken {
    /// Built from the shared parts; writes as the controller manager itself, as upstream does.
    pub fn new(context: &Context) -> Self {
        let secrets: Cache<Secret> = context.informers.cache_with(Select::fields(format!("type={TYPE}")));
        let by_account = secrets.index(|secret| {
            let namespace = secret.metadata.namespace.as_deref().unwrap_or_default();
            annotation(secret, ACCOUNT).map(|name| format!("{namespace}/{name}")).into_iter().collect()
        });
        Self {
            client: context.informers.client().clone(),
            secrets,
            by_account,
            accounts: context.informers.cache(),
            key: context.config.service_account_key.clone().unwrap_or_default(),
            root_ca: context.config.root_ca.clone(),
        }
    }

    /// The account, from the cache or, before it counts as gone, from the API.
    async fn account(&self, key: &ObjectKey) -> Result<Option<ServiceAccount>, Error> {
        if let Some(found) = self.accounts.get(key) {
            return Ok(Some((*found).clone()));
        }
        let api: Api<ServiceAccount> = Api::namespaced(self.client.clone(), &key.namespace);
        api.get_opt(&key.name).await.map_err(Error::at("look for the service account"))
    }

    fn sign(&self, secret: &Secret, account: &ServiceAccount) -> Result<String, Error> {
        let read = pki::read(&self.key).map_err(|e| Error::Unfinished(chain(&e)))?;
        let missing = || Error::Unfinished(format!("{} does not exist", self.key.display()));
        let key = PrivateKey::from_pem(&read.ok_or_else(missing)?);
        key.and_then(|key| key.sign_token(&claims(secret, account)))
            .map_err(|e| Error::Unfinished(format!("cannot sign with {}: {e}", self.key.display())))
    }
}

impl Controller for ServiceAccountToken {
    const NAME: &'static str = "serviceaccount-token-controller";

    fn wake_on(&self, wakes: &mut Wakes) {
        wakes.own(&self.secrets);
        let by_account = self.by_account.clone();
        wakes.on(&self.accounts, move |change| {
            let secrets = by_account.get(&format!("{}/{}", change.key.namespace, change.key.name));
            secrets.iter().map(|s| ObjectKey::of(&**s)).collect()
        });
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(secret) = self.secrets.get(&key).filter(|s| s.type_.as_deref() == Some(TYPE)) else {
            return Ok(Next::Rest);
        };
        let Some(name) = annotation(&secret, ACCOUNT) else { return Ok(Next::Rest) };
        let account = self.account(&ObjectKey::new(key.namespace.clone(), name)).await?;
        let api: Api<Secret> = Api::namespaced(self.client.clone(), &key.namespace);
        match plan(&secret, account.as_ref(), &self.root_ca) {
            Plan::Nothing => {}
            Plan::Delete => {
                let same = Preconditions {
                    uid: secret.metadata.uid.clone(),
                    resource_version: secret.metadata.resource_version.clone(),
                };
                let deleted = api.delete(&key.name, &DeleteParams::default().preconditions(same)).await;
                unless_gone(deleted).map_err(Error::at("delete the token of a service account that is gone"))?;
                tracing::info!(secret = %key, account = name, "token of a deleted service account deleted");
            }
            Plan::Fill { mut filled, sign } => {
                if sign && let Some(account) = &account {
                    let token = self.sign(&secret, account)?;
                    filled.data.get_or_insert_default().insert("token".into(), ByteString(token.into_bytes()));
                }
                let written = api.replace(&key.name, &PostParams::default(), &filled).await;
                unless_gone(written).map_err(Error::at("fill the token"))?;
                tracing::debug!("service account token filled");
            }
        }
        Ok(Next::Rest)
    }
}

fn annotation<'a>(secret: &'a Secret, name: &str) -> Option<&'a str> {
    secret.metadata.annotations.as_ref()?.get(name).map(String::as_str).filter(|v| !v.is_empty())
}

#[derive(Debug, PartialEq)]
enum Plan {
    Nothing,
    Delete,
    /// The secret as it should be; its token is still to be signed where `sign` says so.
    Fill {
        filled: Box<Secret>,
        sign: bool,
    },
}

fn plan(secret: &Secret, account: Option<&ServiceAccount>, root_ca: &str) -> Plan {
    if secret.metadata.deletion_timestamp.is_some() {
        return Plan::Nothing;
    }
    let uid = account.and_then(|a| a.metadata.uid.as_deref());
    let Some(uid) = uid else { return Plan::Delete };
    // Made for an earlier account of the same name.
    if annotation(secret, ACCOUNT_UID).is_some_and(|wanted| wanted != uid) {
        return Plan::Delete;
    }
    let mut filled = secret.clone();
    let data = filled.data.get_or_insert_default();
    let mut put = |key: &str, value: &str| {
        data.insert(key.into(), ByteString(value.as_bytes().to_vec()));
    };
    if !root_ca.is_empty() {
        put("ca.crt", root_ca);
    }
    put("namespace", secret.metadata.namespace.as_deref().unwrap_or_default());
    let sign = data.get("token").is_none_or(|t| t.0.is_empty());
    let annotations = filled.metadata.annotations.get_or_insert_default();
    annotations.insert(ACCOUNT_UID.into(), uid.into());
    if !sign && filled == *secret {
        return Plan::Nothing;
    }
    Plan::Fill { filled: Box::new(filled), sign }
}

/// What a token of this old kind says: it has no end, and is good as long as its Secret holds it.
fn claims(secret: &Secret, account: &ServiceAccount) -> String {
    let of = |text: &Option<String>| text.clone().unwrap_or_default();
    let (namespace, name) = (of(&secret.metadata.namespace), of(&account.metadata.name));
    let claims: BTreeMap<&str, serde_json::Value> = [
        ("iss", json!("kubernetes/serviceaccount")),
        ("kubernetes.io/serviceaccount/namespace", json!(namespace)),
        ("kubernetes.io/serviceaccount/secret.name", json!(of(&secret.metadata.name))),
        ("kubernetes.io/serviceaccount/service-account.name", json!(name)),
        ("kubernetes.io/serviceaccount/service-account.uid", json!(of(&account.metadata.uid))),
        ("sub", json!(format!("system:serviceaccount:{namespace}:{name}"))),
    ]
    .into();
    json!(claims).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(annotations: &[(&str, &str)]) -> Secret {
        let mut secret = Secret { type_: Some(TYPE.into()), ..Secret::default() };
        secret.metadata.namespace = Some("a".into());
        secret.metadata.name = Some("s".into());
        let all = annotations.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        secret.metadata.annotations = Some(all.collect());
        secret
    }

    fn account(uid: &str) -> ServiceAccount {
        let mut account = ServiceAccount::default();
        account.metadata.name = Some("bot".into());
        account.metadata.uid = Some(uid.into());
        account
    }

    #[test]
    fn fills_rests_and_deletes() {
        let fresh = secret(&[(ACCOUNT, "bot")]);
        let bot = account("u1");
        let Plan::Fill { mut filled, sign: true } = plan(&fresh, Some(&bot), "CA") else { panic!() };
        let data = filled.data.get_or_insert_default();
        assert_eq!((data["ca.crt"].0.as_slice(), data["namespace"].0.as_slice()), (&b"CA"[..], &b"a"[..]));
        data.insert("token".into(), ByteString(b"signed".to_vec()));
        assert_eq!(annotation(&filled, ACCOUNT_UID), Some("u1"));
        assert_eq!(plan(&filled, Some(&bot), "CA"), Plan::Nothing);
        assert!(matches!(plan(&filled, Some(&bot), "NEW"), Plan::Fill { sign: false, .. }));
        assert_eq!(plan(&filled, Some(&account("u2")), "CA"), Plan::Delete);
        assert_eq!(plan(&filled, None, "CA"), Plan::Delete);
    }

    #[test]
    fn claims_are_upstreams() {
        let claims: serde_json::Value =
            serde_json::from_str(&claims(&secret(&[]), &account("u1"))).unwrap();
        assert_eq!(
            claims,
            json!({
                "iss": "kubernetes/serviceaccount",
                "kubernetes.io/serviceaccount/namespace": "a",
                "kubernetes.io/serviceaccount/secret.name": "s",
                "kubernetes.io/serviceaccount/service-account.name": "bot",
                "kubernetes.io/serviceaccount/service-account.uid": "u1",
                "sub": "system:serviceaccount:a:bot",
            })
        );
    }
}
