//! API servers in this process, over a store that the test gives them.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use apiserver::{ApiServer, Body, Config, ServiceAccounts, TlsFiles};
use async_trait::async_trait;
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use machinery::request::UserInfo;
use pki::{ClusterPki, KeyAlgorithm, PkiSpec};
use serde_json::Value;
use storage::Storage;
use storage::real_etcd::RealEtcd;
use tokio_util::sync::CancellationToken;

/// Longer than anything here takes.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// The network of the Services: small, so that servers that allocate at the same time meet.
pub const SERVICES: &str = "10.9.0.0/26";

/// The files every server needs.
pub fn trust(dir: &Path) -> ClusterPki {
    let pki = ClusterPki::at(dir.join("pki"));
    let spec = PkiSpec {
        algorithm: KeyAlgorithm::EcdsaP256,
        service_account_algorithm: KeyAlgorithm::EcdsaP256,
        ..PkiSpec::default()
    };
    pki.ensure(&spec, jiff::Timestamp::now()).expect("certificates");
    pki
}

/// One server.
pub struct Server {
    server: Arc<ApiServer>,
    stop: CancellationToken,
    user: Arc<UserInfo>,
}

impl Server {
    /// Starts server `number` over a store.
    pub async fn start(storage: Arc<dyn Storage>, pki: &ClusterPki, number: u8, shared: bool) -> Self {
        let serving = pki.api_server();
        let stop = CancellationToken::new();
        let accounts = ServiceAccounts::new(
            pki.service_account_key(),
            vec![pki.service_account_public_key()],
            "https://kubernetes.default.svc",
        );
        let tls = TlsFiles { certificate: serving.certificate, key: serving.key };
        let config = Config {
            listen: ([127, 0, 0, 1], 0).into(),
            advertise: [192, 0, 2, number].into(),
            service_cidr: SERVICES.parse().expect("a network"),
            node_ports: 30000..=30099,
            shared,
            ..Config::new(storage, tls, pki.authority().certificate, accounts)
        };
        let server = Arc::new(ApiServer::start(config, stop.clone()).await.expect("the server starts"));
        let user = Arc::new(UserInfo::new("admin", &["system:masters", "system:authenticated"]));
        Self { server, stop, user }
    }

    /// Starts server `number` over an etcd.
    pub async fn on(etcd: &RealEtcd, pki: &ClusterPki, number: u8) -> Self {
        let mut endpoints = etcd.endpoints();
        let first = usize::from(number) % endpoints.len();
        endpoints.rotate_left(first);
        Self::by(etcd, endpoints, pki, number).await
    }

    /// Starts server `number` over an etcd, which it reaches by these endpoints.
    pub async fn by(etcd: &RealEtcd, endpoints: Vec<String>, pki: &ClusterPki, number: u8) -> Self {
        // Who asks is told soon that etcd does not answer.
        let retry = Duration::from_secs(5);
        let store = etcd.open(storage::etcd::Options { endpoints, retry, ..Default::default() }).await;
        Self::start(Arc::new(store), pki, number, true).await
    }

    fn request(method: Method, path: &str, body: Option<&Value>) -> Request<Body> {
        let content_type =
            if method == Method::PATCH { "application/merge-patch+json" } else { "application/json" };
        let body = body.map_or_else(Bytes::new, |body| body.to_string().into_bytes().into());
        Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content_type)
            .header("accept", "application/json")
            .body(Full::new(body).map_err(|never| match never {}).boxed_unsync())
            .expect("a request")
    }

    /// Answers a request that came from somewhere else.
    pub async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
        self.server.handle_local(self.user.clone(), request).await
    }

    /// Makes a request; status and body.
    pub async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        let request = Self::request(method, path, body.as_ref());
        let answer = self.server.handle_local(self.user.clone(), request).await;
        let status = answer.status().as_u16();
        let bytes = answer.into_body().collect().await.expect("a body").to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or(Value::Null))
    }

    /// Makes a request that has to succeed.
    pub async fn must(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let (status, answer) = self.call(method.clone(), path, body).await;
        assert!((200..300).contains(&status), "{method} {path}: {status} {answer}");
        answer
    }

    /// Begins a watch.
    pub async fn watch(&self, path: &str) -> Events {
        let answer =
            self.server.handle_local(self.user.clone(), Self::request(Method::GET, path, None)).await;
        assert_eq!(answer.status(), 200, "{path}");
        Events { body: answer.into_body(), rest: Vec::new() }
    }

    /// A kube-rs client whose transport is the server itself.
    pub fn client(&self) -> kube::Client {
        let (server, user) = (self.server.clone(), self.user.clone());
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let (server, user) = (server.clone(), user.clone());
            async move {
                let request = request.map(|body| body.map_err(Into::into).boxed_unsync());
                Ok::<_, tower::BoxError>(server.handle_local(user, request).await)
            }
        });
        kube::Client::new(service, "default")
    }

    /// Stops it, and waits until it has.
    pub async fn stop(self) {
        self.stop.cancel();
        self.server.stopped().await;
    }
}

/// A server that requests are made to, wherever it is.
#[async_trait]
pub trait Calls: Send + Sync {
    /// Makes a request; status and body.
    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value);
}

#[async_trait]
impl Calls for Server {
    async fn call(&self, method: Method, path: &str, body: Option<Value>) -> (u16, Value) {
        self.call(method, path, body).await
    }
}

/// The events of a watch.
pub struct Events {
    body: Body,
    rest: Vec<u8>,
}

impl Events {
    /// The next event.
    pub async fn next(&mut self) -> Value {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return serde_json::from_slice(&line).expect("an event");
            }
            let frame = tokio::time::timeout(PATIENCE, self.body.frame()).await.expect("an event in time");
            let frame = frame.expect("the watch goes on").expect("the watch is healthy");
            if let Ok(data) = frame.into_data() {
                self.rest.extend_from_slice(&data);
            }
        }
    }
}

/// The resource version of an object or list.
pub fn version(object: &Value) -> u64 {
    object["metadata"]["resourceVersion"].as_str().and_then(|v| v.parse().ok()).expect("a resource version")
}
