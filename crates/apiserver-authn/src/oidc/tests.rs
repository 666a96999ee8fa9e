use std::sync::Arc;
use std::sync::Mutex;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use serde_json::json;

use super::*;
use crate::http_client::HttpClient;
use crate::service_account::{SigningKey, VerifyKeys};

/// An issuer that answers from memory.
struct Fake {
    jwks: Mutex<Value>,
    asked: AtomicUsize,
    issuer: String,
}

#[async_trait]
impl HttpClient for Fake {
    async fn call(&self, request: http::Request<Vec<u8>>) -> Result<http::Response<Vec<u8>>, String> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let document = match request.uri().path() {
            "/.well-known/openid-configuration" => {
                json!({"issuer": self.issuer, "jwks_uri": "https://issuer.example/keys"})
            }
            "/keys" => self.jwks.lock().unwrap().clone(),
            other => return Err(format!("unexpected {other}")),
        };
        Ok(http::Response::new(document.to_string().into_bytes()))
    }
}

struct Bench {
    key: SigningKey,
    fake: Arc<Fake>,
    tokens: OidcTokens,
    clock: Arc<AtomicI64>,
}

fn pair() -> (SigningKey, Value) {
    let pem = crate::service_account::test_keys::rsa_pem();
    let mut keys = VerifyKeys::default();
    keys.add_pem(&pem).unwrap();
    (SigningKey::from_pem(&pem).unwrap(), keys.jwks())
}

fn bench(change: impl FnOnce(&mut OidcFlags)) -> Bench {
    let (key, jwks) = pair();
    let issuer = "https://issuer.example".to_owned();
    let fake =
        Arc::new(Fake { jwks: Mutex::new(jwks), asked: AtomicUsize::new(0), issuer: issuer.clone() });
    let mut flags = OidcFlags {
        issuer_url: issuer,
        client_id: "cox".into(),
        groups_claim: Some("groups".into()),
        groups_prefix: Some("oidc:".into()),
        ..OidcFlags::default()
    };
    change(&mut flags);
    let clock = Arc::new(AtomicI64::new(1000));
    let seconds = clock.clone();
    let now: Now =
        Arc::new(move || UNIX_EPOCH + Duration::from_secs(seconds.load(Ordering::Relaxed) as u64));
    let tokens = OidcTokens::new(flags.settled().unwrap(), fake.clone(), vec!["api".into()], now);
    Bench { key, fake, tokens, clock }
}

fn claims(change: Value) -> Value {
    let mut all = json!({
        "iss": "https://issuer.example", "aud": "cox", "sub": "jane", "exp": 2000, "groups": ["devs"],
        "jti": "id1",
    });
    for (k, v) in change.as_object().unwrap() {
        all[k] = v.clone();
    }
    all
}

impl Bench {
    async fn ask(&self, change: Value) -> Result<String, String> {
        let token = self.key.sign(&claims(change)).unwrap();
        match self.tokens.authenticate_token(&token, &[]).await {
            Ok(Some(found)) => Ok(format!("{} {}", found.user.name, found.user.groups.join(","))),
            Ok(None) => Ok("not ours".into()),
            Err(e) => Err(e.0),
        }
    }
}

#[tokio::test]
async fn claims_become_users() {
    let b = bench(|_| {});
    let name = "https://issuer.example#jane oidc:devs,system:authenticated";
    assert_eq!(b.ask(json!({})).await.unwrap(), name);
    assert_eq!(b.ask(json!({"aud": ["x", "cox"], "groups": "devs"})).await.unwrap(), name);
    assert_eq!(b.fake.asked.load(Ordering::Relaxed), 2, "the issuer was asked once for its place and its keys");
    assert_eq!(b.ask(json!({"iss": "https://other.example"})).await.unwrap(), "not ours");
    for (change, why) in [
        (json!({"aud": "other"}), "oidc: verify token: oidc: expected audience \"cox\" got [\"other\"]"),
        (json!({"exp": 999}), "token is expired (Token Expiry: 1970-01-01T00:16:39Z)"),
        (json!({"exp": null}), "token is expired"),
        (json!({"nbf": 5000}), "before the nbf (not before) time"),
        (json!({"sub": null}), "oidc: parse username claims \"sub\": claim not present"),
        (json!({"groups": 5}), "parse groups claim"),
    ] {
        let error = b.ask(change.clone()).await.unwrap_err();
        assert!(error.contains(why), "{change}: {error}");
    }
    b.clock.store(2000, Ordering::Relaxed);
    assert!(b.ask(json!({})).await.is_err());
}

#[tokio::test]
async fn mail_addresses_have_to_be_confirmed_and_claims_required() {
    let b = bench(|flags| {
        flags.username_claim = Some("email".into());
        flags.required_claims = vec![("hd".into(), "example.com".into())];
    });
    let mail = |more: Value| {
        let mut all = json!({"email": "jane@example.com", "hd": "example.com"});
        for (k, v) in more.as_object().unwrap() {
            all[k] = v.clone();
        }
        all
    };
    let good = "jane@example.com oidc:devs,system:authenticated";
    assert_eq!(b.ask(mail(json!({}))).await.unwrap(), good);
    assert_eq!(b.ask(mail(json!({"email_verified": true}))).await.unwrap(), good);
    assert_eq!(b.ask(mail(json!({"email_verified": false}))).await.unwrap_err(), "oidc: email not verified");
    assert_eq!(
        b.ask(mail(json!({"hd": "evil.example"}))).await.unwrap_err(),
        "oidc: required claim hd value does not match. Got = evil.example, want = example.com"
    );
    let error = b.ask(json!({"email": "jane@example.com"})).await.unwrap_err();
    assert_eq!(error, "oidc: required claim hd not present in ID token");
}

#[tokio::test(start_paused = true)]
async fn a_new_key_of_the_issuer_is_found_and_a_strangers_is_not() {
    let mut b = bench(|_| {});
    assert!(b.ask(json!({})).await.is_ok());
    let (stranger, jwks) = pair();
    b.key = stranger;
    tokio::time::advance(Duration::from_secs(2)).await;
    let error = b.ask(json!({})).await.unwrap_err();
    assert!(error.contains("no keys matches jwt keyid"), "{error}");
    let asked = b.fake.asked.load(Ordering::Relaxed);
    for _ in 0..100 {
        assert!(b.ask(json!({})).await.is_err());
    }
    assert_eq!(b.fake.asked.load(Ordering::Relaxed), asked, "a flood of bad tokens does not reach the issuer");
    *b.fake.jwks.lock().unwrap() = jwks;
    tokio::time::advance(Duration::from_secs(2)).await;
    assert!(b.ask(json!({})).await.is_ok());
}

#[tokio::test]
async fn algorithms_and_garbage() {
    let b = bench(|flags| flags.signing_algorithms = vec!["ES256".into()]);
    let error = b.ask(json!({})).await.unwrap_err();
    assert!(error.contains("unsupported algorithm"), "{error}");
    assert_eq!(b.fake.asked.load(Ordering::Relaxed), 0);
    let encode = |v: Value| URL_SAFE_NO_PAD.encode(v.to_string());
    let none = format!("{}.{}.", encode(json!({"alg": "none"})), encode(claims(json!({}))));
    assert!(b.tokens.authenticate_token(&none, &[]).await.is_err());
    for bad in ["", ".", "..", "a.b.c", "abcdef.0123456789abcdef", &"x".repeat(100_000)] {
        assert_eq!(b.tokens.authenticate_token(bad, &[]).await.unwrap(), None, "{bad:.20}");
    }
}

#[tokio::test]
async fn an_issuer_that_calls_itself_otherwise_is_not_believed() {
    let mut b = bench(|_| {});
    let fake = Arc::new(Fake {
        jwks: Mutex::new(json!({"keys": []})),
        asked: AtomicUsize::new(0),
        issuer: "https://evil.example".into(),
    });
    b.tokens.issuer = Issuer::new(&b.tokens.config, fake);
    let error = b.ask(json!({})).await.unwrap_err();
    assert!(error.contains("issuer did not match"), "{error}");
}
