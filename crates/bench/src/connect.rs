//! Connections to an API server: TLS with the administrator's client certificate, HTTP/1.1 or HTTP/2.
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use pki::ClusterPki;
use rustls::ClientConfig;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// The longest that one answer may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What is sent.
pub type Body = Full<Bytes>;

/// An API server on loopback, and who asks it.
#[derive(Clone)]
pub struct Target {
    port: u16,
    http1: Arc<ClientConfig>,
    http2: Arc<ClientConfig>,
}

fn config(pki: &ClusterPki, pair: (&Path, &Path), protocol: &[u8]) -> Result<Arc<ClientConfig>> {
    let certificates = |path: &Path| -> Result<Vec<CertificateDer<'static>>> {
        let all: Result<Vec<_>, _> = CertificateDer::pem_file_iter(path)
            .with_context(|| format!("cannot read {}", path.display()))?
            .collect();
        Ok(all?)
    };
    let mut roots = rustls::RootCertStore::empty();
    for authority in certificates(&pki.authority().certificate)? {
        roots.add(authority)?;
    }
    let key = PrivateKeyDer::from_pem_file(pair.1)?;
    let mut config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_client_auth_cert(certificates(pair.0)?, key)?;
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(config))
}

impl Target {
    /// The server at a port of loopback, as the administrator of a cluster.
    pub fn new(port: u16, pki: &ClusterPki) -> Result<Self> {
        let admin = pki.admin();
        Self::of(port, pki, &admin.certificate, &admin.key)
    }

    /// The server at a port of loopback, as the owner of a client certificate.
    pub fn of(port: u16, pki: &ClusterPki, certificate: &Path, key: &Path) -> Result<Self> {
        let pair = (certificate, key);
        Ok(Self { port, http1: config(pki, pair, b"http/1.1")?, http2: config(pki, pair, b"h2")? })
    }

    async fn connect(&self, config: &Arc<ClientConfig>) -> Result<TlsStream<TcpStream>> {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, self.port));
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let name = ServerName::IpAddress(Ipv4Addr::LOCALHOST.into());
        Ok(tokio_rustls::TlsConnector::from(config.clone()).connect(name, stream).await?)
    }

    /// An HTTP/2 connection; clones of the handle share it.
    pub async fn http2(&self) -> Result<http2::SendRequest<Body>> {
        let stream = self.connect(&self.http2).await?;
        let (sender, connection) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(1 << 20)
            .initial_connection_window_size(16 << 20)
            .handshake(TokioIo::new(stream))
            .await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// An HTTP/1.1 connection that is kept alive.
    pub async fn http1(&self) -> Result<http1::SendRequest<Body>> {
        let stream = self.connect(&self.http1).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// A request for this server.
    pub fn request(&self, method: Method, path: &str, body: impl Into<Bytes>) -> Request<Body> {
        let body = body.into();
        let mut request = Request::builder()
            .method(method)
            .uri(format!("https://127.0.0.1:{}{path}", self.port))
            .header("host", "127.0.0.1")
            .header("accept", "application/json");
        if !body.is_empty() {
            request = request.header("content-type", "application/json");
        }
        request.body(Full::new(body)).expect("path and headers are ours")
    }

    /// One request on a connection of its own, for what is not measured.
    pub async fn once(&self, method: Method, path: &str, body: &Value) -> Result<(StatusCode, Value)> {
        let bytes = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        let mut sender = self.http1().await?;
        let response = sender.send_request(self.request(method, path, bytes)).await?;
        let status = response.status();
        let text = read(response).await?;
        Ok((status, serde_json::from_slice(&text).unwrap_or(Value::Null)))
    }

    /// [`Self::once`] where only one status will do.
    pub async fn must(&self, method: Method, path: &str, body: &Value, expect: StatusCode) -> Result<Value> {
        let (status, value) = self.once(method, path, body).await?;
        ensure!(status == expect, "{path}: {status}: {value}");
        Ok(value)
    }
}

/// The whole body of an answer.
pub async fn read(response: Response<Incoming>) -> Result<Bytes> {
    Ok(tokio::time::timeout(PATIENCE, response.into_body().collect()).await??.to_bytes())
}
