//! Checks service-account tokens: signature, dates, audience, and that what they are bound to still exists.
use std::sync::Arc;

use async_trait::async_trait;
use machinery::Object;
use machinery::request::UserInfo;
use serde_json::Value;

use super::keys::unverified_issuer;
use super::{ServiceAccountGetter, VerifyKeys, groups, user_name};
use crate::{AuthnError, CREDENTIAL_ID, Now, TokenAuthenticator, TokenUser, unix_seconds};

/// Clocks may differ by this many seconds; a deleted object's tokens stay good as long.
const LEEWAY: i64 = 60;

/// Checks tokens that we (or an earlier issuer of this cluster) made.
pub struct ServiceAccountTokens {
    /// Issuers whose tokens are ours to judge; the first one signs new tokens.
    pub issuers: Vec<String>,
    /// Audiences of the API server.
    pub api_audiences: Vec<String>,
    /// Keys that confirm signatures.
    pub keys: Arc<VerifyKeys>,
    /// The cluster.
    pub cluster: Arc<dyn ServiceAccountGetter>,
    /// The time.
    pub now: Now,
}

fn refuse<T>(why: impl Into<String>) -> Result<T, AuthnError> {
    Err(AuthnError(why.into()))
}

/// One of the objects in the claim `kubernetes.io`.
struct Named<'a> {
    name: &'a str,
    uid: &'a str,
}

fn named<'a>(private: &'a Value, what: &str) -> Option<Named<'a>> {
    let of = private.get(what)?;
    let text = |key: &str| of.get(key).and_then(Value::as_str).unwrap_or("");
    Some(Named { name: text("name"), uid: text("uid") })
}

/// Whether the object a token is bound to is still the one, and not long deleted.
fn still_there(what: &str, claim: &Named<'_>, found: Option<&Object>, now: i64) -> Result<(), AuthnError> {
    let Some(found) = found else {
        return refuse(format!("{what} {:?} of the token does not exist", claim.name));
    };
    if found.uid() != claim.uid {
        return refuse(format!("{what} UID ({}) does not match claim ({})", found.uid(), claim.uid));
    }
    let deleted = found.deletion_timestamp().parse::<jiff::Timestamp>();
    if deleted.is_ok_and(|t| t.as_second() < now - LEEWAY) {
        return refuse(format!("{what} {:?} has been deleted", claim.name));
    }
    Ok(())
}

/// The audiences of the claim that are among those wanted.
fn common_audiences(claims: &Value, wanted: &[String], own: &[String]) -> Result<Vec<String>, AuthnError> {
    let listed: Vec<String> = match claims.get("aud") {
        Some(Value::String(one)) => vec![one.clone()],
        Some(Value::Array(many)) => many.iter().filter_map(Value::as_str).map(str::to_owned).collect(),
        _ => Vec::new(),
    };
    // A token without audiences is for the API server.
    let listed = if listed.is_empty() { own.to_vec() } else { listed };
    let wanted = if wanted.is_empty() { own } else { wanted };
    let common: Vec<String> = listed.iter().filter(|a| wanted.contains(a)).cloned().collect();
    if common.is_empty() {
        return refuse(format!("token audiences {listed:?} is invalid for the target audiences {wanted:?}"));
    }
    Ok(common)
}

fn check_dates(claims: &Value, now: i64) -> Result<(), AuthnError> {
    let at = |key: &str| claims.get(key).and_then(|v| v.as_i64().or_else(|| v.as_f64().map(|f| f as i64)));
    let Some(expires) = at("exp") else { return refuse("service account token has no expiry") };
    if now > expires.saturating_add(LEEWAY) {
        return refuse("service account token has expired");
    }
    if at("nbf").is_some_and(|t| t > now + LEEWAY) || at("iat").is_some_and(|t| t > now + LEEWAY) {
        return refuse("service account token is not valid yet");
    }
    Ok(())
}

impl ServiceAccountTokens {
    async fn check(&self, token: &str, wanted: &[String]) -> Result<TokenUser, AuthnError> {
        let Some(claims) = self.keys.verified_claims(token) else {
            return refuse("service account token is signed by no known key");
        };
        let audiences = common_audiences(&claims, wanted, &self.api_audiences)?;
        let now = unix_seconds((self.now)());
        check_dates(&claims, now)?;
        let private = claims.get("kubernetes.io").unwrap_or(&Value::Null);
        let namespace = private.get("namespace").and_then(Value::as_str).unwrap_or("");
        let Some(account) = named(private, "serviceaccount").filter(|_| !namespace.is_empty()) else {
            return refuse("service account token names no service account");
        };
        let name = user_name(namespace, account.name);
        if claims.get("sub").and_then(Value::as_str) != Some(&name) {
            return refuse("service account token's subject does not match its service account");
        }
        let found = self.cluster.service_account(namespace, account.name).await;
        still_there("ServiceAccount", &account, found.as_deref(), now)?;
        if let Some(secret) = named(private, "secret") {
            let found = self.cluster.secret(namespace, secret.name).await;
            still_there("Secret", &secret, found.as_deref(), now)?;
        }
        let mut user =
            UserInfo { name, uid: account.uid.to_owned(), groups: groups(namespace), ..UserInfo::default() };
        let mut fact = |key: &str, value: &str| {
            if !value.is_empty() {
                user.extra.insert(format!("authentication.kubernetes.io/{key}"), vec![value.to_owned()]);
            }
        };
        let pod = named(private, "pod");
        if let Some(pod) = &pod {
            let found = self.cluster.pod(namespace, pod.name).await;
            still_there("Pod", pod, found.as_deref(), now)?;
            fact("pod-name", pod.name);
            fact("pod-uid", pod.uid);
        }
        if let Some(node) = named(private, "node") {
            // With a pod the node only tells where it runs; alone the token is bound to it.
            if pod.is_none() {
                let found = self.cluster.node(node.name).await;
                still_there("Node", &node, found.as_deref(), now)?;
            }
            fact("node-name", node.name);
            fact("node-uid", node.uid);
        }
        if let Some(id) = claims.get("jti").and_then(Value::as_str) {
            user.extra.insert(CREDENTIAL_ID.to_owned(), vec![format!("JTI={id}")]);
        }
        if private.get("warnafter").and_then(Value::as_i64).is_some_and(|t| now > t) {
            tracing::debug!(subject = user.name, "a token is used after it should have been renewed");
        }
        Ok(TokenUser { user: Arc::new(user), audiences })
    }
}

#[async_trait]
impl TokenAuthenticator for ServiceAccountTokens {
    async fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<TokenUser>, AuthnError> {
        match unverified_issuer(token) {
            Some(issuer) if self.issuers.contains(&issuer) => self.check(token, audiences).await.map(Some),
            _ => Ok(None),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicI64, Ordering};
    use std::time::{Duration, UNIX_EPOCH};

    use serde_json::json;

    use super::super::keys::tests::rsa_pem;
    use super::super::{Bound, SigningKey, TokenIssuer};
    use super::*;

    /// Everything exists with the uid `u`, except what is named `gone`; `deleted` was deleted at second 1000.
    struct Cluster;

    fn found(namespace: &str, name: &str) -> Option<Arc<Object>> {
        let deleted = (name == "deleted").then_some("1970-01-01T00:16:40Z");
        let value = json!({"metadata": {"namespace": namespace, "name": name, "uid": "u", "deletionTimestamp": deleted},
            "spec": {"serviceAccountName": "bot", "nodeName": "n"}});
        Object::from_value(value).filter(|_| name != "gone").map(Arc::new)
    }

    #[async_trait]
    impl ServiceAccountGetter for Cluster {
        async fn service_account(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
            found(namespace, name)
        }
        async fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
            found(namespace, name)
        }
        async fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
            found(namespace, name)
        }
        async fn node(&self, name: &str) -> Option<Arc<Object>> {
            found("", name)
        }
    }

    struct Bench {
        issuer: TokenIssuer,
        tokens: ServiceAccountTokens,
        clock: Arc<AtomicI64>,
    }

    fn bench() -> Bench {
        let pem = rsa_pem();
        let mut keys = VerifyKeys::default();
        keys.add_pem(&pem).unwrap();
        let clock = Arc::new(AtomicI64::new(1000));
        let seconds = clock.clone();
        Bench {
            issuer: TokenIssuer {
                issuer: "https://me".into(),
                api_audiences: vec!["api".into()],
                max_expiration: None,
                extend_expiration: true,
                key: Arc::new(SigningKey::from_pem(&pem).unwrap()),
            },
            tokens: ServiceAccountTokens {
                issuers: vec!["https://me".into()],
                api_audiences: vec!["api".into()],
                keys: Arc::new(keys),
                cluster: Arc::new(Cluster),
                now: Arc::new(move || {
                    UNIX_EPOCH + Duration::from_secs(seconds.load(Ordering::Relaxed) as u64)
                }),
            },
            clock,
        }
    }

    impl Bench {
        fn token(&self, spec: Value, bound: Bound<'_>) -> String {
            let mut request = Object::from_value(json!({ "spec": spec })).unwrap();
            super::super::prepare_token_request(&mut request).unwrap();
            self.issuer.issue(&mut request, &found("a", "bot").unwrap(), bound, 1000).unwrap();
            request.str_at(&["status", "token"]).to_owned()
        }

        async fn ask(&self, token: &str, audiences: &[&str]) -> Result<Option<TokenUser>, String> {
            let audiences: Vec<String> = audiences.iter().map(|&a| a.to_owned()).collect();
            self.tokens.authenticate_token(token, &audiences).await.map_err(|e| e.0)
        }
    }

    #[tokio::test]
    async fn tells_the_user_and_where_it_runs() {
        let bench = bench();
        let pod = found("a", "p").unwrap();
        let node = found("", "n").unwrap();
        let token = bench.token(json!({}), Bound::Pod(&pod, Some(&node)));
        let user = bench.ask(&token, &[]).await.unwrap().unwrap();
        assert_eq!(user.audiences, ["api"]);
        assert_eq!(user.user.name, "system:serviceaccount:a:bot");
        assert_eq!(user.user.uid, "u");
        assert_eq!(
            user.user.groups,
            ["system:serviceaccounts", "system:serviceaccounts:a", "system:authenticated"]
        );
        let facts: Vec<_> = user.user.extra.iter().map(|(k, v)| (k.as_str(), v[0].as_str())).collect();
        assert!(
            matches!(facts[0], ("authentication.kubernetes.io/credential-id", id) if id.starts_with("JTI="))
        );
        assert_eq!(
            facts[1..],
            [
                ("authentication.kubernetes.io/node-name", "n"),
                ("authentication.kubernetes.io/node-uid", "u"),
                ("authentication.kubernetes.io/pod-name", "p"),
                ("authentication.kubernetes.io/pod-uid", "u"),
            ]
        );
    }

    #[tokio::test]
    async fn dates_audiences_and_signatures_count() {
        let bench = bench();
        let token = bench.token(json!({"expirationSeconds": 600}), Bound::No);
        bench.clock.store(1000 + 600 + LEEWAY, Ordering::Relaxed);
        assert!(bench.ask(&token, &[]).await.unwrap().is_some());
        bench.clock.store(1000 + 600 + LEEWAY + 1, Ordering::Relaxed);
        assert_eq!(bench.ask(&token, &[]).await, Err("service account token has expired".into()));
        bench.clock.store(1000 - LEEWAY - 1, Ordering::Relaxed);
        assert_eq!(bench.ask(&token, &[]).await, Err("service account token is not valid yet".into()));
        bench.clock.store(1000, Ordering::Relaxed);
        let vault = bench.token(json!({"audiences": ["vault"]}), Bound::No);
        assert_eq!(
            bench.ask(&vault, &[]).await,
            Err(r#"token audiences ["vault"] is invalid for the target audiences ["api"]"#.into())
        );
        assert_eq!(bench.ask(&vault, &["x", "vault"]).await.unwrap().unwrap().audiences, ["vault"]);
        let stranger = self::bench().token(json!({}), Bound::No);
        assert_eq!(
            bench.ask(&stranger, &[]).await,
            Err("service account token is signed by no known key".into())
        );
        assert_eq!(bench.ask("not.a.token", &[]).await, Ok(None));
    }

    #[tokio::test]
    async fn what_the_token_is_bound_to_must_still_exist() {
        let bench = bench();
        let check = async |bound: Bound<'_>, at: i64, want: &str| {
            let token = bench.token(json!({}), bound);
            bench.clock.store(at, Ordering::Relaxed);
            let got = bench.ask(&token, &[]).await.err().unwrap_or_default();
            assert_eq!(got, want);
        };
        let pod = |name: &str, uid: &str| {
            let mut pod = found("a", "p").unwrap().as_ref().clone();
            pod.set(&["metadata", "name"], name);
            pod.set(&["metadata", "uid"], uid);
            pod
        };
        check(Bound::Pod(&pod("p", "u"), None), 1000, "").await;
        check(Bound::Pod(&pod("gone", "u"), None), 1000, r#"Pod "gone" of the token does not exist"#).await;
        check(Bound::Pod(&pod("p", "old"), None), 1000, "Pod UID (u) does not match claim (old)").await;
        check(Bound::Pod(&pod("deleted", "u"), None), 1000 + LEEWAY, "").await;
        check(Bound::Pod(&pod("deleted", "u"), None), 1001 + LEEWAY, r#"Pod "deleted" has been deleted"#)
            .await;
        check(Bound::Secret(&pod("gone", "u")), 1000, r#"Secret "gone" of the token does not exist"#).await;
        check(Bound::Node(&pod("gone", "u")), 1000, r#"Node "gone" of the token does not exist"#).await;
    }
}
