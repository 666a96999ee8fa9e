//! Who is asking, and whether they may: client certificates of the cluster, tokens by TokenReview, access by
//! SubjectAccessReview, answers kept for a short while.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::Api;
use kube::api::PostParams;
use pki::Fresh;
use rustls::RootCertStore;
use rustls::server::WebPkiClientVerifier;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use sha2::{Digest, Sha256};
use streaming::{Body, body};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::Error;
use crate::config::ServerConfig;
use crate::identity::serving::Serving;
use crate::shared::Shared;

/// How long a token's answer is kept (upstream's default).
const TOKEN_TTL: Duration = Duration::from_secs(120);
/// How long a yes and a no are kept.
const ALLOWED_TTL: Duration = Duration::from_secs(300);
const DENIED_TTL: Duration = Duration::from_secs(30);
/// The most answers that are kept.
const REMEMBERED: usize = 1024;

/// Someone who proved who they are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct User {
    /// Their name.
    pub name: String,
    /// Their groups.
    pub groups: Vec<String>,
}

/// What a connection's certificate says.
pub type Peer = Option<User>;

fn tls_error(path: &std::path::Path) -> impl Fn(String) -> Error + '_ {
    |reason| Error::Tls { path: path.display().to_string(), reason }
}

/// TLS with optional client certificates, whose CA may change at any time.
pub(crate) struct Handshakes(Clients);

enum Clients {
    /// Nobody has a certificate.
    None(TlsAcceptor),
    /// Those that the CAs of a file have signed.
    Of(Fresh<TlsAcceptor>),
}

impl Handshakes {
    /// Reads the CA file, where there is one.
    pub(crate) fn new(config: &ServerConfig, serving: Serving) -> Result<Self, Error> {
        let Some(path) = &config.client_ca_file else {
            let none = acceptor(None, serving).map_err(tls_error(&config.cert_file))?;
            return Ok(Self(Clients::None(none)));
        };
        let make =
            move |all: &[Vec<u8>]| acceptor(Some(all.first().map_or(&[], Vec::as_slice)), serving.clone());
        let made = Fresh::open(vec![path.clone()], make);
        made.map(|fresh| Self(Clients::Of(fresh))).map_err(|e| tls_error(&e.path)(e.why))
    }

    /// What the next connection is accepted with.
    pub(crate) fn acceptor(&self) -> TlsAcceptor {
        match &self.0 {
            Clients::None(acceptor) => acceptor.clone(),
            Clients::Of(fresh) => (*fresh.get()).clone(),
        }
    }
}

/// With the CAs of clients as PEM.
fn acceptor(authorities: Option<&[u8]>, serving: Serving) -> Result<TlsAcceptor, String> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match authorities {
        Some(pem) => {
            let mut roots = RootCertStore::empty();
            for certificate in CertificateDer::pem_slice_iter(pem) {
                let certificate = certificate.map_err(|error| error.to_string())?;
                roots.add(certificate).map_err(|error| error.to_string())?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .allow_unauthenticated()
                .build()
                .map_err(|error| error.to_string())?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    };
    let mut tls = builder.with_cert_resolver(Arc::new(serving));
    tls.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(tls)))
}

/// The user that the connection's certificate names.
pub fn peer(stream: &TlsStream<TcpStream>) -> Peer {
    user_of(stream.get_ref().1.peer_certificates()?.first()?)
}

fn user_of(certificate: &[u8]) -> Option<User> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().next()?.as_str().ok()?.to_owned();
    let groups = subject.iter_organization().filter_map(|group| group.as_str().ok()).map(str::to_owned);
    Some(User { name, groups: groups.chain(["system:authenticated".to_owned()]).collect() })
}

/// What a request is about, as the authorizer sees it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Attributes {
    /// The verb.
    pub verb: &'static str,
    /// The subresource of `nodes`, or several of which one suffices.
    pub subresources: Vec<&'static str>,
}

/// The verb and the subresources of `nodes` for a request: pure. The finer one is asked first.
pub fn attributes(method: &Method, path: &str) -> Attributes {
    let verb = match *method {
        Method::POST => "create",
        Method::PUT => "update",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        _ => "get",
    };
    let under =
        |prefix: &str| path == prefix || path.strip_prefix(prefix).is_some_and(|rest| rest.starts_with('/'));
    let subresources = if under("/stats") {
        vec!["stats"]
    } else if under("/metrics") {
        vec!["metrics"]
    } else if under("/logs") {
        vec!["log"]
    } else if under("/checkpoint") {
        vec!["checkpoint"]
    } else if under("/statusz") {
        vec!["statusz", "proxy"]
    } else if under("/flagz") {
        vec!["flagz", "proxy"]
    } else if under("/pods") || under("/runningpods") {
        vec!["pods", "proxy"]
    } else if under("/healthz") {
        vec!["healthz", "proxy"]
    } else if under("/configz") {
        vec!["configz", "proxy"]
    } else {
        vec!["proxy"]
    };
    Attributes { verb, subresources }
}

/// Answers that are kept for a while.
struct Memory<K, V>(Mutex<HashMap<K, (V, Instant)>>);

impl<K: Hash + Eq, V: Clone> Memory<K, V> {
    fn new() -> Self {
        Memory(Mutex::default())
    }

    fn get(&self, key: &K) -> Option<V> {
        let map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        map.get(key).filter(|(_, until)| *until > Instant::now()).map(|(value, _)| value.clone())
    }

    fn put(&self, key: K, value: V, ttl: Duration) {
        let mut map = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if map.len() >= REMEMBERED {
            let time = Instant::now();
            map.retain(|_, (_, until)| *until > time);
            if map.len() >= REMEMBERED {
                map.clear();
            }
        }
        map.insert(key, (value, Instant::now() + ttl));
    }
}

/// Lets requests in or refuses them.
pub struct Gate {
    shared: Arc<Shared>,
    tokens: bool,
    access: bool,
    anonymous: bool,
    known_tokens: Memory<[u8; 32], Option<User>>,
    known_access: Memory<(User, &'static str, &'static str), bool>,
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim()).filter(|token| !token.is_empty())
}

impl Gate {
    /// Checks as configured, through the API.
    pub fn new(shared: Arc<Shared>, config: &ServerConfig) -> Gate {
        Gate {
            shared,
            tokens: config.token_webhook,
            access: config.access_webhook,
            anonymous: config.anonymous,
            known_tokens: Memory::new(),
            known_access: Memory::new(),
        }
    }

    /// Lets the request pass, or gives the answer that refuses it.
    #[allow(clippy::result_large_err)]
    pub async fn admit<B>(&self, request: &Request<B>, peer: &Peer) -> Result<(), Response<Body>> {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let token = bearer(request.headers()).map(str::to_owned);
        let user = match (peer, token) {
            (Some(user), _) => user.clone(),
            (None, Some(token)) if self.tokens => match self.review(&token).await {
                Ok(Some(user)) => user,
                Ok(None) => return Err(body::text(StatusCode::UNAUTHORIZED, "Unauthorized")),
                Err(error) => {
                    tracing::debug!(error, "token not reviewed");
                    return Err(body::text(StatusCode::INTERNAL_SERVER_ERROR, "Authentication error"));
                }
            },
            (None, None) if self.anonymous => {
                User { name: "system:anonymous".into(), groups: vec!["system:unauthenticated".into()] }
            }
            _ => return Err(body::text(StatusCode::UNAUTHORIZED, "Unauthorized")),
        };
        if !self.access {
            return Ok(());
        }
        let wanted = attributes(&method, &path);
        for subresource in &wanted.subresources {
            match self.allowed(&user, wanted.verb, subresource).await {
                Ok(true) => return Ok(()),
                Ok(false) => {}
                Err(error) => {
                    let message = format!(
                        "Authorization error (user={}, verb={}, resource=nodes, subresource={subresource})",
                        user.name, wanted.verb
                    );
                    tracing::debug!(error, user = user.name, "access not reviewed");
                    return Err(body::text(StatusCode::INTERNAL_SERVER_ERROR, &message));
                }
            }
        }
        let subresource = wanted.subresources.last().copied().unwrap_or("proxy");
        let message = format!(
            "Forbidden (user={}, verb={}, resource=nodes, subresource(s)=[{subresource}])",
            user.name, wanted.verb
        );
        Err(body::text(StatusCode::FORBIDDEN, &message))
    }

    async fn review(&self, token: &str) -> Result<Option<User>, String> {
        let key: [u8; 32] = Sha256::digest(token.as_bytes()).into();
        if let Some(known) = self.known_tokens.get(&key) {
            return Ok(known);
        }
        let ask = TokenReview {
            spec: TokenReviewSpec { token: token.to_owned(), audiences: None },
            ..Default::default()
        };
        let reviews: Api<TokenReview> = Api::all(self.shared.client.clone());
        let answer = reviews.create(&PostParams::default(), &ask).await.map_err(|error| error.to_string())?;
        let status = answer.status.unwrap_or_default();
        let user = status.user.filter(|_| status.authenticated == Some(true)).map(|user| User {
            name: user.username.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
        });
        let ttl = if user.is_some() { TOKEN_TTL } else { DENIED_TTL };
        self.known_tokens.put(key, user.clone(), ttl);
        Ok(user)
    }

    async fn allowed(
        &self,
        user: &User,
        verb: &'static str,
        subresource: &'static str,
    ) -> Result<bool, String> {
        let key = (user.clone(), verb, subresource);
        if let Some(known) = self.known_access.get(&key) {
            return Ok(known);
        }
        let ask = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: Some(user.name.clone()),
                groups: Some(user.groups.clone()),
                resource_attributes: Some(ResourceAttributes {
                    verb: Some(verb.to_owned()),
                    version: Some("v1".into()),
                    resource: Some("nodes".into()),
                    subresource: Some(subresource.to_owned()),
                    name: Some(self.shared.config.node_name.clone()),
                    ..Default::default()
                }),
                ..Default::default()
            },
            ..Default::default()
        };
        let reviews: Api<SubjectAccessReview> = Api::all(self.shared.client.clone());
        let answer = reviews.create(&PostParams::default(), &ask).await.map_err(|error| error.to_string())?;
        let allowed = answer.status.is_some_and(|status| status.allowed);
        self.known_access.put(key, allowed, if allowed { ALLOWED_TTL } else { DENIED_TTL });
        Ok(allowed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_map_to_subresources_of_the_node() {
        let check = |method: Method, path: &str, verb: &str, subresources: &[&str]| {
            let found = attributes(&method, path);
            assert_eq!((found.verb, found.subresources.as_slice()), (verb, subresources), "{method} {path}");
        };
        check(Method::GET, "/stats/summary", "get", &["stats"]);
        check(Method::GET, "/metrics", "get", &["metrics"]);
        check(Method::GET, "/metricsx", "get", &["proxy"]);
        check(Method::POST, "/exec/n/p/c", "create", &["proxy"]);
        check(Method::GET, "/containerLogs/n/p/c", "get", &["proxy"]);
        check(Method::GET, "/pods", "get", &["pods", "proxy"]);
        check(Method::GET, "/logs/x", "get", &["log"]);
    }

    #[test]
    fn tokens_are_found_whatever_the_case() {
        let headers =
            |value: &str| HeaderMap::from_iter([(header::AUTHORIZATION, value.parse().expect("value"))]);
        assert_eq!(bearer(&headers("Bearer abc")), Some("abc"));
        assert_eq!(bearer(&headers("bearer abc")), Some("abc"));
        assert_eq!(bearer(&headers("Basic abc")), None);
        assert_eq!(bearer(&headers("Bearer ")), None);
    }

    #[test]
    fn answers_are_forgotten() {
        let memory: Memory<u8, u8> = Memory::new();
        memory.put(1, 2, Duration::from_secs(60));
        memory.put(3, 4, Duration::ZERO);
        assert_eq!((memory.get(&1), memory.get(&3)), (Some(2), None));
    }
}
