//! What guards read that others wrote: credentials and configuration, each kind of bytes as one function that must neither
//! panic, nor run away, nor let anybody in. The fuzz targets call these, and so does a test in `crates/apiserver` that CI
//! runs, with fewer inputs.
#![allow(dead_code)]
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use apiserver_admission::{ClusterView, EventRateLimit, PodSecurity, Resource, Settings};
use apiserver_authn::oidc::{AuthenticationConfiguration, JwtAuthenticator, Mapping, OidcTokens};
use apiserver_authn::service_account::{
    LegacyTokens, ServiceAccountGetter, ServiceAccountTokens, VerifyKeys,
};
use apiserver_authn::{
    AuthRequest, Authenticator as _, ClientCertificate, HttpClient, RequestHeader, RequestHeaderNames,
    TokenAuthenticator, TokenFile,
};
use apiserver_authz::abac::Abac;
use apiserver_authz::webhook::{NoAnswer, Options, ReviewServer, Version, Webhook};
use apiserver_authz::{Authorizer as _, Decision};
use async_trait::async_trait;
use futures::executor::block_on;
use machinery::request::{Attributes, RequestInfo, UserInfo};
use machinery::{Object, StatusResult};
use rustls_pki_types::CertificateDer;
use serde_json::json;

/// An authority, and a certificate that it has signed for `fuzz` of `devs`.
const AUTHORITY: &[u8] = include_bytes!("seeds/ca.pem");
/// The certificate.
pub const LEAF: &[u8] = include_bytes!("seeds/leaf.der");
/// A public key whose private half is gone.
const ACCOUNTS: &str = include_str!("seeds/accounts.pem");

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(2_000_000_000)
}

/// Two inputs, with a zero byte between them.
fn halves(data: &[u8]) -> (&[u8], &[u8]) {
    let at = data.iter().position(|b| *b == 0).unwrap_or(data.len());
    (&data[..at], data.get(at + 1..).unwrap_or_default())
}

struct Nothing;

#[async_trait]
impl ServiceAccountGetter for Nothing {
    async fn service_account(&self, _: &str, _: &str) -> Option<Arc<Object>> {
        None
    }

    async fn pod(&self, _: &str, _: &str) -> Option<Arc<Object>> {
        None
    }

    async fn secret(&self, _: &str, _: &str) -> Option<Arc<Object>> {
        None
    }

    async fn node(&self, _: &str) -> Option<Arc<Object>> {
        None
    }
}

#[async_trait]
impl ClusterView for Nothing {
    fn get(&self, _: Resource, _: &str, _: &str) -> Option<Arc<Object>> {
        None
    }

    fn list(&self, _: Resource, _: &str) -> Vec<Arc<Object>> {
        Vec::new()
    }

    async fn get_live(&self, _: Resource, _: &str, _: &str) -> StatusResult<Option<Arc<Object>>> {
        Ok(None)
    }
}

/// An issuer that publishes these bytes as its keys.
struct Issuer(Vec<u8>);

#[async_trait]
impl HttpClient for Issuer {
    async fn call(&self, request: http::Request<Vec<u8>>) -> Result<http::Response<Vec<u8>>, String> {
        let discovery = json!({"issuer": "https://i", "jwks_uri": "https://i/keys"}).to_string();
        let is_keys = request.uri().path() == "/keys";
        Ok(http::Response::new(if is_keys { self.0.clone() } else { discovery.into_bytes() }))
    }
}

/// A bearer token, and the keys that an issuer publishes.
pub fn jwt(data: &[u8]) {
    let (token, keys) = halves(data);
    let token = String::from_utf8_lossy(token);
    let mut known = VerifyKeys::default();
    known.add_pem(ACCOUNTS).expect("the key is good");
    let (known, cluster) = (Arc::new(known), Arc::new(Nothing));
    let config = JwtAuthenticator {
        issuer_url: "https://i".into(),
        discovery_url: None,
        audiences: vec!["a".into()],
        certificate_authority: None,
        username: Mapping { claim: "sub".into(), prefix: String::new() },
        groups: Some(Mapping { claim: "groups".into(), prefix: String::new() }),
        uid: None,
        rules: Vec::new(),
        signing_algorithms: vec!["RS256".into(), "ES256".into()],
    };
    let methods: [Box<dyn TokenAuthenticator>; 3] = [
        Box::new(ServiceAccountTokens {
            issuers: vec!["https://i".into()],
            api_audiences: vec!["a".into()],
            keys: known.clone(),
            cluster: cluster.clone(),
            now: Arc::new(now),
        }),
        Box::new(LegacyTokens { api_audiences: vec!["a".into()], keys: known, cluster, now: Arc::new(now) }),
        Box::new(OidcTokens::new(config, Arc::new(Issuer(keys.to_vec())), vec!["a".into()], Arc::new(now))),
    ];
    for method in methods {
        let found = block_on(method.authenticate_token(&token, &[]));
        assert!(!matches!(found, Ok(Some(_))), "a token that nobody signed was honoured");
    }
    if let Ok(file) = TokenFile::parse(&token) {
        let _ = block_on(file.authenticate_token("x", &[]));
    }
}

/// A client's certificate, and a bundle of authorities.
pub fn certificates(data: &[u8]) {
    let (bundle, _) = halves(data);
    let _ = ClientCertificate::new(bundle, Arc::new(now)).map(|c| c.user(&[CertificateDer::from(LEAF)]));
    let _ = pki::CertificateRequest::from_pem(&String::from_utf8_lossy(data));
    let own = ClientCertificate::new(AUTHORITY, Arc::new(now)).expect("the authority is good");
    for chain in [vec![data], vec![data, LEAF], vec![LEAF, data]] {
        let chain: Vec<CertificateDer<'_>> = chain.into_iter().map(CertificateDer::from).collect();
        if let Ok(Some(user)) = own.user(&chain) {
            assert_eq!(user.name, "fuzz", "a certificate that nobody signed was honoured");
        }
    }
}

/// Headers that a proxy adds, one a line.
pub fn front_proxy(data: &[u8]) {
    let mut headers = http::HeaderMap::new();
    for line in data.split(|b| *b == b'\n').take(100) {
        let Some(at) = line.iter().position(|b| *b == b':') else { continue };
        let name = http::HeaderName::from_bytes(&line[..at]);
        let value = http::HeaderValue::from_bytes(&line[at + 1..]);
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    let proxy = || ClientCertificate::new(AUTHORITY, Arc::new(now)).expect("the authority is good");
    let method = RequestHeader {
        proxy: proxy(),
        allowed_names: vec!["fuzz".into()],
        headers: RequestHeaderNames::default(),
    };
    let leaf = [CertificateDer::from(LEAF)];
    let ask = |certs: &[CertificateDer<'_>]| {
        block_on(method.authenticate(&AuthRequest { client_certs: certs, headers: &headers, path: "/" }))
    };
    assert!(!matches!(ask(&[]), Ok(Some(_))), "headers without a proxy's certificate were believed");
    let user = ask(&leaf).expect("the proxy is good");
    let named = headers.get("x-remote-user").is_some_and(|v| !v.is_empty());
    assert_eq!(user.is_some(), named, "whoever is named is somebody, and nobody else is");
}

fn questions() -> [(UserInfo, RequestInfo); 2] {
    let pods = RequestInfo {
        verb: "list".into(),
        is_resource: true,
        api_version: "v1".into(),
        resource: "pods".into(),
        namespace: "n".into(),
        ..RequestInfo::default()
    };
    let path = RequestInfo { verb: "get".into(), path: "/metrics".into(), ..RequestInfo::default() };
    [(UserInfo::new("jane", &["devs"]), pods), (UserInfo::anonymous(), path)]
}

/// An ABAC policy.
pub fn abac(data: &[u8]) {
    let Ok(policy) = Abac::parse(&String::from_utf8_lossy(data)) else { return };
    for (user, request) in questions() {
        let answer = block_on(policy.authorize(&Attributes { user: &user, request: &request }));
        assert_ne!(answer.decision, Decision::Deny, "a policy only ever allows");
        let _ = policy.rules_for(&user, "n");
    }
}

/// An AuthorizationConfiguration, an AuthenticationConfiguration, and what a webhook answers.
pub fn authorization(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let _ = apiserver_authz::config::parse(&text);
    let _ = AuthenticationConfiguration::parse(&text);
    struct Says(Vec<u8>);
    #[async_trait]
    impl ReviewServer for Says {
        async fn review(&self, _question: &[u8]) -> Result<Vec<u8>, NoAnswer> {
            Ok(self.0.clone())
        }
    }
    let options = Options {
        version: Version::V1,
        authorized_ttl: Duration::ZERO,
        unauthorized_ttl: Duration::ZERO,
        on_error: Decision::Deny,
    };
    let webhook = Webhook::new(Arc::new(Says(data.to_vec())), options);
    for (user, request) in questions() {
        let answer = block_on(webhook.authorize(&Attributes { user: &user, request: &request }));
        let said =
            serde_json::from_slice::<serde_json::Value>(data).is_ok_and(|v| v["status"]["allowed"] == true);
        assert!(said || !answer.is_allowed(), "a yes that nobody said");
    }
}

/// An AdmissionConfiguration and what plugins are told in it.
pub fn admission(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let Ok(settings) = Settings::parse(&text, Path::new("/"), |_| Err("none".into())) else { return };
    let _ = EventRateLimit::from_config(settings.of("EventRateLimit"));
    let _ = PodSecurity::from_config(Arc::new(Nothing), settings.of("PodSecurity"));
}

/// An audit policy.
pub fn audit_policy(data: &[u8]) {
    let Ok(policy) = apiserver_audit::Policy::parse(data) else { return };
    for (user, request) in questions() {
        let _ = policy.verdict(Some(&user), &request);
        let _ = policy.verdict(None, &request);
    }
}

/// An EncryptionConfiguration.
pub fn encryption(data: &[u8]) {
    for reload in [false, true] {
        let _ = apiserver_encryption::Configuration::parse(data, reload);
    }
}
