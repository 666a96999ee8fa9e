//! Tokens that Secrets hold: no expiry, good as long as the Secret is there and holds this very token.
//! Upstream: pkg/serviceaccount/legacy.go, 1.36.
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery::Object;
use machinery::request::UserInfo;
use serde_json::Value;

use super::keys::unverified_issuer;
use super::{ServiceAccountGetter, VerifyKeys, groups, user_name};
use crate::{AuthnError, Now, TokenAuthenticator, TokenUser, unix_seconds};

/// Who such tokens say made them.
const ISSUER: &str = "kubernetes/serviceaccount";
/// A deleted object's tokens stay good for this many seconds.
const LEEWAY: i64 = 60;

/// Checks tokens of Secrets.
pub struct LegacyTokens {
    /// Audiences of the API server, for which such tokens are.
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

impl LegacyTokens {
    fn is_deleted(&self, object: &Object) -> bool {
        let now = unix_seconds((self.now)());
        let deleted = object.deletion_timestamp().parse::<jiff::Timestamp>();
        deleted.is_ok_and(|t| t.as_second() < now - LEEWAY)
    }

    async fn check(&self, token: &str) -> Result<UserInfo, AuthnError> {
        let Some(claims) = self.keys.verified_claims(token) else {
            return refuse("service account token is signed by no known key");
        };
        let claim = |what: &str, name: &str| {
            let text = claims.get(format!("kubernetes.io/serviceaccount/{name}")).and_then(Value::as_str);
            let text = text.filter(|t| !t.is_empty()).map(str::to_owned);
            text.ok_or_else(|| AuthnError(format!("{what} claim is missing")))
        };
        let namespace = claim("namespace", "namespace")?;
        let secret_name = claim("secretName", "secret.name")?;
        let name = claim("serviceAccountName", "service-account.name")?;
        let uid = claim("serviceAccountUID", "service-account.uid")?;
        if claims.get("sub").and_then(Value::as_str) != Some(&user_name(&namespace, &name)) {
            return refuse("sub claim is invalid");
        }
        let secret = self.cluster.secret(&namespace, &secret_name).await;
        let Some(secret) = secret.filter(|s| !self.is_deleted(s)) else {
            return refuse("service account token has been invalidated");
        };
        let held = STANDARD.decode(secret.str_at(&["data", "token"])).unwrap_or_default();
        if aws_lc_rs::constant_time::verify_slices_are_equal(&held, token.as_bytes()).is_err() {
            return refuse("service account token does not match server's copy");
        }
        let Some(account) = self.cluster.service_account(&namespace, &name).await else {
            return refuse(format!("serviceaccounts {name:?} not found"));
        };
        if self.is_deleted(&account) {
            return refuse(format!("ServiceAccount {namespace}/{name} has been deleted"));
        }
        if account.uid() != uid {
            return refuse(format!("ServiceAccount UID ({}) does not match claim ({uid})", account.uid()));
        }
        Ok(UserInfo {
            name: user_name(&namespace, &name),
            uid,
            groups: groups(&namespace),
            ..UserInfo::default()
        })
    }
}

#[async_trait]
impl TokenAuthenticator for LegacyTokens {
    async fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<TokenUser>, AuthnError> {
        if unverified_issuer(token).as_deref() != Some(ISSUER) {
            return Ok(None);
        }
        let common: Vec<String> =
            self.api_audiences.iter().filter(|a| audiences.contains(a)).cloned().collect();
        let audiences = if audiences.is_empty() { self.api_audiences.clone() } else { common };
        if audiences.is_empty() {
            return refuse("legacy token audiences are invalid for the target audiences");
        }
        let user = self.check(token).await?;
        Ok(Some(TokenUser { user: Arc::new(user), audiences }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::SigningKey;
    use super::super::keys::tests::ec_pem;
    use super::*;

    struct Cluster(Option<String>);

    fn object(value: Value) -> Option<Arc<Object>> {
        Object::from_value(value).map(Arc::new)
    }

    #[async_trait]
    impl ServiceAccountGetter for Cluster {
        async fn service_account(&self, _: &str, _: &str) -> Option<Arc<Object>> {
            object(json!({"metadata": {"name": "bot", "namespace": "a", "uid": "u"}}))
        }
        async fn pod(&self, _: &str, _: &str) -> Option<Arc<Object>> {
            None
        }
        async fn secret(&self, _: &str, _: &str) -> Option<Arc<Object>> {
            let token = STANDARD.encode(self.0.as_ref()?);
            object(json!({"metadata": {"name": "s", "namespace": "a"}, "data": {"token": token}}))
        }
        async fn node(&self, _: &str) -> Option<Arc<Object>> {
            None
        }
    }

    fn claims(uid: &str) -> Value {
        json!({
            "iss": ISSUER,
            "kubernetes.io/serviceaccount/namespace": "a",
            "kubernetes.io/serviceaccount/secret.name": "s",
            "kubernetes.io/serviceaccount/service-account.name": "bot",
            "kubernetes.io/serviceaccount/service-account.uid": uid,
            "sub": "system:serviceaccount:a:bot",
        })
    }

    #[tokio::test]
    async fn good_while_its_secret_holds_it() {
        let pem = ec_pem();
        let key = SigningKey::from_pem(&pem).unwrap();
        let mut keys = VerifyKeys::default();
        keys.add_pem(&pem).unwrap();
        let keys = Arc::new(keys);
        let ask = async |token: &str, held: Option<&str>| {
            let tokens = LegacyTokens {
                api_audiences: vec!["api".into()],
                keys: keys.clone(),
                cluster: Arc::new(Cluster(held.map(str::to_owned))),
                now: crate::system_time(),
            };
            tokens.authenticate_token(token, &[]).await.map(|t| t.map(|t| t.user.name.clone())).map_err(|e| e.0)
        };
        let token = key.sign(&claims("u")).unwrap();
        let good = ask(&token, Some(&token)).await.unwrap();
        assert_eq!(good.as_deref(), Some("system:serviceaccount:a:bot"));
        assert_eq!(ask(&token, None).await.unwrap_err(), "service account token has been invalidated");
        let other = ask(&token, Some("another")).await.unwrap_err();
        assert_eq!(other, "service account token does not match server's copy");
        let old = key.sign(&claims("before")).unwrap();
        let error = ask(&old, Some(&old)).await.unwrap_err();
        assert_eq!(error, "ServiceAccount UID (u) does not match claim (before)");
        let foreign = SigningKey::from_pem(&ec_pem()).unwrap().sign(&claims("u")).unwrap();
        assert!(ask(&foreign, Some(&foreign)).await.is_err());
        assert_eq!(ask("abc", None).await.unwrap(), None);
    }
}
