//! Answers TokenRequests.
use std::sync::Arc;

use machinery::gvk::{GroupResource, GroupVersionKind};
use machinery::{FieldError, FieldPath, Object, StatusError, StatusResult};
use serde_json::{Map, Value, json};

use super::{SigningKey, user_name};

const DEFAULT_EXPIRATION: i64 = 3600;
const MIN_EXPIRATION: i64 = 600;
const MAX_EXPIRATION: i64 = 1 << 32;
/// What the `kube-api-access` volume asks for, and nothing else: such tokens really live a year.
const WARN_ONLY_EXPIRATION: i64 = 3607;
const EXTENDED_EXPIRATION: i64 = 365 * 24 * 3600;

/// What a TokenRequest wants its token bound to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundRef {
    /// `Pod`, `Secret` or `Node`.
    pub kind: String,
    /// Name; pods and secrets are in the service account's namespace.
    pub name: String,
    /// Empty, or what the object's uid must be.
    pub uid: String,
}

/// The object a token is bound to, as it was found.
#[derive(Debug, Clone, Copy)]
pub enum Bound<'a> {
    /// Nothing but the service account.
    No,
    /// A pod, and the node it is bound to if that exists.
    Pod(&'a Object, Option<&'a Object>),
    /// A secret.
    Secret(&'a Object),
    /// A node.
    Node(&'a Object),
}

/// Issues tokens.
pub struct TokenIssuer {
    /// The claim `iss`.
    pub issuer: String,
    /// Who a token is for when the request does not say.
    pub api_audiences: Vec<String>,
    /// The longest a token may live; `None` for no limit of ours.
    pub max_expiration: Option<i64>,
    /// Whether tokens of `kube-api-access` volumes live a year (`--service-account-extend-token-expiration`).
    pub extend_expiration: bool,
    /// Signs.
    pub key: Arc<SigningKey>,
}

/// Fills the defaults of a TokenRequest and checks it.
pub fn prepare_token_request(request: &mut Object) -> StatusResult<()> {
    let seconds = match request.i64_at(&["spec", "expirationSeconds"]) {
        Some(seconds) => seconds,
        None => {
            request.set(&["spec", "expirationSeconds"], DEFAULT_EXPIRATION);
            DEFAULT_EXPIRATION
        }
    };
    let path = FieldPath::new("spec").child("expirationSeconds");
    let why = if seconds < MIN_EXPIRATION {
        "may not specify a duration less than 10 minutes"
    } else if seconds > MAX_EXPIRATION {
        "may not specify a duration larger than 2^32 seconds"
    } else {
        return Ok(());
    };
    let gvk = GroupVersionKind::new("authentication.k8s.io", "v1", "TokenRequest");
    Err(StatusError::invalid(&gvk, request.name(), &[FieldError::invalid(&path, seconds, why)]))
}

/// What the token is to be bound to.
pub fn bound_ref(request: &Object) -> StatusResult<Option<BoundRef>> {
    if request.at(&["spec", "boundObjectRef"]).is_none_or(Value::is_null) {
        return Ok(None);
    }
    let text = |field: &str| request.str_at(&["spec", "boundObjectRef", field]).to_owned();
    let (kind, api_version) = (text("kind"), text("apiVersion"));
    if !matches!(kind.as_str(), "Pod" | "Secret" | "Node") || !matches!(api_version.as_str(), "" | "v1") {
        let gvk = GroupVersionKind::from_api_version(&api_version, &kind);
        return Err(StatusError::bad_request(format!(
            "cannot bind token to object of type {}/{}, Kind={}",
            gvk.group, gvk.version, gvk.kind
        )));
    }
    Ok(Some(BoundRef { kind, name: text("name"), uid: text("uid") }))
}

impl TokenIssuer {
    /// Answers a prepared request: fills its `status` (and audiences). Gives warnings for the client.
    pub fn issue(
        &self,
        request: &mut Object,
        account: &Object,
        bound: Bound<'_>,
        now: i64,
    ) -> StatusResult<Vec<String>> {
        check_bound(request, account, bound)?;
        if request.list_at(&["spec", "audiences"]).is_empty() {
            request.set(&["spec", "audiences"], self.api_audiences.clone());
        }
        let mut warnings = Vec::new();
        let mut seconds = request.i64_at(&["spec", "expirationSeconds"]).unwrap_or(DEFAULT_EXPIRATION);
        if let Some(max) = self.max_expiration.filter(|max| seconds > *max) {
            warnings.push(format!("requested expiration of {seconds} seconds shortened to {max} seconds"));
            seconds = max;
            request.set(&["spec", "expirationSeconds"], seconds);
        }
        let audiences = request.at(&["spec", "audiences"]).cloned().unwrap_or_default();
        let for_the_api = audiences.as_array().is_some_and(|asked| {
            asked.iter().all(|a| self.api_audiences.iter().any(|own| a.as_str() == Some(own)))
        });
        let extend = self.extend_expiration
            && seconds == WARN_ONLY_EXPIRATION
            && for_the_api
            && matches!(bound, Bound::Pod(..));
        let (lifetime, warn_after) =
            if extend { (EXTENDED_EXPIRATION, Some(now + seconds)) } else { (seconds, None) };
        let claims = self.claims(account, bound, audiences, now, lifetime, warn_after);
        let token = self.key.sign(&claims).map_err(StatusError::internal)?;
        let expires = jiff::Timestamp::from_second(now + seconds).map_err(StatusError::internal)?;
        request.set(&["status"], json!({"token": token, "expirationTimestamp": expires.to_string()}));
        Ok(warnings)
    }

    fn claims(
        &self,
        account: &Object,
        bound: Bound<'_>,
        audiences: Value,
        now: i64,
        lifetime: i64,
        warn_after: Option<i64>,
    ) -> Value {
        let named = |o: &Object| json!({"name": o.name(), "uid": o.uid()});
        let mut private = Map::new();
        private.insert("namespace".into(), account.namespace().into());
        match bound {
            Bound::No => {}
            Bound::Pod(pod, node) => {
                private.insert("pod".into(), named(pod));
                let node_name = pod.str_at(&["spec", "nodeName"]);
                match node {
                    Some(node) => {
                        private.insert("node".into(), named(node));
                    }
                    None if !node_name.is_empty() => {
                        private.insert("node".into(), json!({"name": node_name}));
                    }
                    None => {}
                }
            }
            Bound::Secret(secret) => {
                private.insert("secret".into(), named(secret));
            }
            Bound::Node(node) => {
                private.insert("node".into(), named(node));
            }
        }
        private.insert("serviceaccount".into(), named(account));
        if let Some(warn_after) = warn_after {
            private.insert("warnafter".into(), warn_after.into());
        }
        json!({
            "aud": audiences,
            "exp": now + lifetime,
            "iat": now,
            "iss": self.issuer,
            "jti": uuid::Uuid::new_v4().to_string(),
            "kubernetes.io": private,
            "nbf": now,
            "sub": user_name(account.namespace(), account.name()),
        })
    }
}

/// A token may be bound only to the object the request means, and to a pod only of that service account.
fn check_bound(request: &Object, account: &Object, bound: Bound<'_>) -> StatusResult<()> {
    let (kind, object) = match bound {
        Bound::No => return Ok(()),
        Bound::Pod(pod, _) => {
            if pod.str_at(&["spec", "serviceAccountName"]) != account.name() {
                return Err(StatusError::bad_request(format!(
                    "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
                    account.name()
                )));
            }
            ("Pod", pod)
        }
        Bound::Secret(secret) => ("Secret", secret),
        Bound::Node(node) => ("Node", node),
    };
    let wanted = request.str_at(&["spec", "boundObjectRef", "uid"]);
    if !wanted.is_empty() && wanted != object.uid() {
        return Err(StatusError::conflict(
            &GroupResource::new("", kind),
            object.name(),
            &format!(
                "the UID in the bound object reference ({wanted}) does not match the UID in record. The object might have \
                 been deleted and then recreated"
            ),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::VerifyKeys;
    use super::super::keys::tests::ec_pem;
    use super::*;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    fn issuer() -> (TokenIssuer, VerifyKeys) {
        let pem = ec_pem();
        let mut keys = VerifyKeys::default();
        keys.add_pem(&pem).unwrap();
        let issuer = TokenIssuer {
            issuer: "https://me".into(),
            api_audiences: vec!["https://me".into()],
            max_expiration: Some(7200),
            extend_expiration: true,
            key: Arc::new(SigningKey::from_pem(&pem).unwrap()),
        };
        (issuer, keys)
    }

    fn account() -> Object {
        object(json!({"metadata": {"namespace": "a", "name": "bot", "uid": "u1"}}))
    }

    fn pod() -> Object {
        object(json!({"metadata": {"namespace": "a", "name": "p", "uid": "u2"},
            "spec": {"serviceAccountName": "bot", "nodeName": "n"}}))
    }

    fn claims(spec: Value, bound: Bound<'_>) -> (Value, Object, Vec<String>) {
        let (issuer, keys) = issuer();
        let mut request = object(json!({"spec": spec}));
        prepare_token_request(&mut request).unwrap();
        let warnings = issuer.issue(&mut request, &account(), bound, 1000).unwrap();
        let claims = keys.verified_claims(request.str_at(&["status", "token"])).unwrap();
        (claims, request, warnings)
    }

    #[test]
    fn a_plain_token_lives_an_hour() {
        let (claims, request, _) = claims(json!({}), Bound::No);
        assert_eq!((claims["exp"].as_i64(), claims["nbf"].as_i64()), (Some(4600), Some(1000)));
        assert_eq!(claims["sub"], "system:serviceaccount:a:bot");
        assert_eq!(claims["aud"], json!(["https://me"]));
        assert_eq!(
            claims["kubernetes.io"],
            json!({"namespace": "a", "serviceaccount": {"name": "bot", "uid": "u1"}})
        );
        assert_eq!(request.str_at(&["status", "expirationTimestamp"]), "1970-01-01T01:16:40Z");
    }

    #[test]
    fn the_token_of_a_pod_lives_a_year_but_says_an_hour() {
        let pod = pod();
        let node = object(json!({"metadata": {"name": "n", "uid": "u3"}}));
        let (long, request, _) = claims(json!({"expirationSeconds": 3607}), Bound::Pod(&pod, Some(&node)));
        assert_eq!(long["exp"].as_i64(), Some(1000 + EXTENDED_EXPIRATION));
        assert_eq!(long["kubernetes.io"]["warnafter"].as_i64(), Some(4607));
        assert_eq!(long["kubernetes.io"]["node"], json!({"name": "n", "uid": "u3"}));
        assert_eq!(long["kubernetes.io"]["pod"], json!({"name": "p", "uid": "u2"}));
        assert_eq!(request.str_at(&["status", "expirationTimestamp"]), "1970-01-01T01:16:47Z");
        let vault = json!({"expirationSeconds": 3607, "audiences": ["vault"]});
        let (other, ..) = claims(vault, Bound::Pod(&pod, None));
        assert_eq!(other["exp"].as_i64(), Some(4607));
        assert_eq!(other["kubernetes.io"]["node"], json!({"name": "n"}));
        let (short, _, warnings) = claims(json!({"expirationSeconds": 9999}), Bound::No);
        assert_eq!(short["exp"].as_i64(), Some(8200));
        assert_eq!(warnings, ["requested expiration of 9999 seconds shortened to 7200 seconds"]);
    }

    #[test]
    fn refuses_what_cannot_be() {
        let mut request = object(json!({"metadata": {"name": "bot"}, "spec": {"expirationSeconds": 60}}));
        assert_eq!(
            prepare_token_request(&mut request).unwrap_err().to_string(),
            "TokenRequest.authentication.k8s.io \"bot\" is invalid: spec.expirationSeconds: Invalid value: 60: may not \
             specify a duration less than 10 minutes"
        );
        let request = object(
            json!({"spec": {"boundObjectRef": {"kind": "Job", "apiVersion": "batch/v1", "name": "x"}}}),
        );
        assert_eq!(
            bound_ref(&request).unwrap_err().to_string(),
            "cannot bind token to object of type batch/v1, Kind=Job"
        );
        let (issuer, _) = issuer();
        let refused = |spec: Value, pod: &Object| {
            let mut request = object(json!({ "spec": spec }));
            issuer.issue(&mut request, &account(), Bound::Pod(pod, None), 0).unwrap_err()
        };
        let mut other = pod();
        other.set(&["spec", "serviceAccountName"], "default");
        assert_eq!(
            refused(json!({}), &other).to_string(),
            "cannot bind token for serviceaccount \"bot\" to pod running with different serviceaccount name."
        );
        let e = refused(json!({"boundObjectRef": {"kind": "Pod", "name": "p", "uid": "old"}}), &pod());
        assert_eq!(e.code(), 409);
        assert!(e.to_string().contains("the UID in the bound object reference (old) does not match"), "{e}");
    }
}
