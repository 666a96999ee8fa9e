//! One server for each test, and a bare HTTP client.
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use apiserver::{Anonymous, ApiServer, AuthorizationMode, Config, ServiceAccounts, Serving, TlsFiles};
use bytes::Bytes;
use http::{HeaderMap, Method, Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pki::{ClusterPki, PkiSpec};
use rustls::ClientConfig;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use storage::{Embedded, Storage as _};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tokio_util::sync::CancellationToken;

/// Nothing here may take longer.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running server; it stops when this goes.
pub struct Live {
    pub server: ApiServer,
    pub address: SocketAddr,
    pub pki: ClusterPki,
    pub storage: Arc<Embedded>,
    pub stop: CancellationToken,
    dir: tempfile::TempDir,
}

/// Who asks.
#[derive(Clone, Copy, PartialEq)]
pub enum Who {
    /// `system:masters`.
    Admin,
    /// Somebody with a token.
    Tester,
    /// Nobody.
    Anonymous,
}

/// What came back.
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: Bytes,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
    }

    /// Code, reason and message of a `Status`.
    pub fn error(&self) -> (u16, String, String) {
        let status = self.json();
        let text = |name: &str| status[name].as_str().unwrap_or("").to_owned();
        (self.status.as_u16(), text("reason"), text("message"))
    }
}

fn config(pki: &ClusterPki, tokens: PathBuf, storage: Arc<Embedded>, serving: Serving) -> Result<Config> {
    let pair = pki.api_server();
    let accounts = ServiceAccounts::new(
        pki.service_account_key(),
        vec![pki.service_account_public_key()],
        "https://kubernetes.default.svc.cluster.local",
    );
    let tls = TlsFiles { certificate: pair.certificate, key: pair.key };
    Ok(Config {
        listen: "127.0.0.1:0".parse()?,
        // An address for documents, since loopback may not stand in an Endpoints object.
        advertise: "192.0.2.1".parse()?,
        token_file: Some(tokens),
        anonymous: Anonymous::Everywhere,
        authorization: vec![AuthorizationMode::Rbac],
        serving,
        ..Config::new(storage, tls, pki.authority().certificate, accounts)
    })
}

impl Live {
    pub async fn start() -> Result<Self> {
        Self::with(Serving::default()).await
    }

    pub async fn with(serving: Serving) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("cox-live-").tempdir()?;
        let pki = ClusterPki::at(dir.path().join("pki"));
        pki.ensure(&PkiSpec::default(), jiff::Timestamp::now())?;
        let tokens = dir.path().join("tokens.csv");
        std::fs::write(&tokens, "secret-of-the-tester,tester,1,\"testers\"\n")?;
        let db = dir.path().join("db");
        let options = storage::Options { sync: false, ..storage::Options::default() };
        let storage = Arc::new(tokio::task::spawn_blocking(move || Embedded::open(&db, options)).await??);
        let stop = CancellationToken::new();
        let config = config(&pki, tokens, storage.clone(), serving)?;
        let server = ApiServer::start(config, stop.clone()).await?;
        let address = server.address();
        let live = Self { server, address, pki, storage, stop, dir };
        let binding = serde_json::json!({
            "metadata": { "name": "testers" },
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin" },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": "testers" }],
        });
        live.create("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", &binding).await?;
        Ok(live)
    }

    /// Another server over the same store, which has forgotten its history.
    pub async fn forgetful(mut self) -> Result<Self> {
        let now = self.storage.now().await?;
        self.storage.compact(now).await?;
        self.stop.cancel();
        self.stop = CancellationToken::new();
        let tokens = self.dir.path().join("tokens.csv");
        let config = config(&self.pki, tokens, self.storage.clone(), Serving::default())?;
        self.server = ApiServer::start(config, self.stop.clone()).await?;
        self.address = self.server.address();
        Ok(self)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// A kubeconfig of the administrator.
    pub fn kubeconfig(&self) -> Result<PathBuf> {
        let dir = self.dir.path().join("kubeconfig");
        let server = format!("https://{}", self.address);
        self.pki.ensure_kubeconfigs(&dir, "live", &server, &PkiSpec::default())?;
        Ok(ClusterPki::kubeconfig(&dir, "admin"))
    }

    fn tls(&self, who: Who, protocol: &[u8]) -> Result<Arc<ClientConfig>> {
        let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>> {
            let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)?.collect();
            Ok(all?)
        };
        let mut roots = rustls::RootCertStore::empty();
        for authority in certificates(&self.pki.authority().certificate)? {
            roots.add(authority)?;
        }
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots);
        let mut config = if who == Who::Admin {
            let admin = self.pki.admin();
            let key = PrivateKeyDer::from_pem_file(&admin.key)?;
            builder.with_client_auth_cert(certificates(&admin.certificate)?, key)?
        } else {
            builder.with_no_client_auth()
        };
        config.alpn_protocols = vec![protocol.to_vec()];
        Ok(Arc::new(config))
    }

    /// A connection without HTTP on it.
    pub async fn raw(&self, who: Who, protocol: &[u8]) -> Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(self.address.ip().into());
        Ok(tokio_rustls::TlsConnector::from(self.tls(who, protocol)?).connect(name, stream).await?)
    }

    /// An HTTP/2 connection.
    pub async fn http2(&self, who: Who) -> Result<http2::SendRequest<Full<Bytes>>> {
        let stream = self.raw(who, b"h2").await?;
        let (sender, connection) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Sends a request on a connection of its own and gives its answer, the body still to come.
    pub async fn open(
        &self,
        who: Who,
        mut request: Request<Full<Bytes>>,
    ) -> Result<http::Response<Incoming>> {
        let stream = self.raw(who, b"http/1.1").await?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        let headers = request.headers_mut();
        headers.insert("host", "127.0.0.1".parse()?);
        if who == Who::Tester {
            headers.insert("authorization", "Bearer secret-of-the-tester".parse()?);
        }
        Ok(tokio::time::timeout(PATIENCE, sender.send_request(request)).await??)
    }

    /// Sends a request and reads the whole answer.
    pub async fn send(&self, who: Who, request: Request<Full<Bytes>>) -> Result<Answer> {
        let what = format!("{} {}", request.method(), request.uri());
        let response = self.open(who, request).await.with_context(|| what.clone())?;
        let (parts, body) = response.into_parts();
        let body = tokio::time::timeout(PATIENCE, body.collect()).await.context(what)??.to_bytes();
        Ok(Answer { status: parts.status, headers: parts.headers, body })
    }

    pub async fn get(&self, path: &str) -> Result<Answer> {
        self.get_as(path, "application/json").await
    }

    pub async fn get_as(&self, path: &str, accept: &str) -> Result<Answer> {
        self.send(Who::Admin, request(Method::GET, path, accept, Bytes::new())).await
    }

    pub async fn create(&self, path: &str, object: &Value) -> Result<Value> {
        let body = serde_json::to_vec(object)?;
        let answer = self.send(Who::Admin, request(Method::POST, path, "application/json", body)).await?;
        ensure!(answer.status == 201, "{path}: {}", answer.text());
        Ok(answer.json())
    }

    /// Makes config maps `map-000` and on in `default`.
    pub async fn config_maps(&self, count: usize) -> Result<()> {
        for n in 0..count {
            let object = serde_json::json!({
                "metadata": { "name": format!("map-{n:03}"), "labels": { "parity": (n % 2).to_string() } },
                "data": { "n": n.to_string() },
            });
            self.create(MAPS, &object).await?;
        }
        Ok(())
    }
}

impl Drop for Live {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A request with a JSON body, if any.
pub fn request(method: Method, path: &str, accept: &str, body: impl Into<Bytes>) -> Request<Full<Bytes>> {
    let body = body.into();
    let mut builder = Request::builder().method(method).uri(path).header("accept", accept);
    if !body.is_empty() {
        builder = builder.header("content-type", "application/json");
    }
    builder.body(Full::new(body)).expect("path and headers are ours")
}
