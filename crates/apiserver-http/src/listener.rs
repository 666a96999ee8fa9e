//! The HTTPS listener.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use http::{Request, Version};
use http_body::Body as _;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::body::BoxError;
use crate::cork::cork;
use crate::inline::Inline;
use crate::possession::Possession;
use crate::server::{Peer, Server};
use crate::tls::{self, Certificates, TlsOptions};
use crate::unread::Shared;

/// A client has this long for its TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// A client has this long to send its headers (upstream: `ReadHeaderTimeout`).
const HEADERS: Duration = Duration::from_secs(32);
/// Requests under way have this long to end after a stop.
const DRAIN: Duration = Duration::from_secs(10);
/// Streams of one HTTP/2 connection at a time (apiserver/pkg/server/secure_serving.go).
const STREAMS: u32 = 100;

/// Bytes of all headers of a request (net/http, `DefaultMaxHeaderBytes`).
const MAX_HEADERS: u32 = 1024 * 1024;
/// Streams that were reset before they were served, after which a connection is closed.
const RESETS: usize = 20;
/// Streams that we had to reset, after which a connection is closed.
const LOCAL_RESETS: usize = 1024;

/// Certificate and key of the server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsFiles {
    /// PEM, leaf first.
    pub certificate: PathBuf,
    /// PEM.
    pub key: PathBuf,
}

/// Why the listener does not listen.
#[derive(Debug, thiserror::Error)]
pub enum ListenerError {
    /// The address is taken, or is not ours.
    #[error("cannot listen on {address}: is another server running there? choose another with --secure-port")]
    Bind {
        /// What was asked for.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// A PEM file cannot be used.
    #[error("cannot use {}: {why}", path.display())]
    Pem {
        /// The file.
        path: PathBuf,
        /// Why not.
        why: String,
    },
    /// Versions and cipher suites leave nothing to speak.
    #[error("the TLS settings cannot be used")]
    Tls(#[from] rustls::Error),
}

/// A bound HTTPS listener.
pub struct Listener {
    tcp: TcpListener,
    tls: Arc<ServerConfig>,
}

impl Listener {
    /// Binds the address and loads the certificate.
    pub async fn bind(
        address: SocketAddr,
        files: &TlsFiles,
        options: &TlsOptions,
    ) -> Result<Self, ListenerError> {
        let tls = Arc::new(tls_config(files, options)?);
        let tcp =
            TcpListener::bind(address).await.map_err(|source| ListenerError::Bind { address, source })?;
        Ok(Self { tcp, tls })
    }

    /// The address that is listened on.
    pub fn address(&self) -> std::io::Result<SocketAddr> {
        self.tcp.local_addr()
    }

    /// Serves until `stop`, then lets requests end; watches are ended by [`Server::drain`].
    pub async fn serve(self, server: Arc<Server>, stop: CancellationToken) {
        let acceptor = tokio_rustls::TlsAcceptor::from(self.tls);
        let connections = TaskTracker::new();
        loop {
            let accepted = tokio::select! {
                () = stop.cancelled() => break,
                accepted = self.tcp.accept() => accepted,
            };
            match accepted {
                Ok((stream, address)) => {
                    let work = connection(stream, address, acceptor.clone(), server.clone(), stop.clone());
                    connections.spawn(work);
                }
                Err(e) => {
                    // Out of file descriptors, mostly: give connections time to end.
                    tracing::warn!(error = %e, "a connection was not accepted");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
        // Nobody may connect who would then wait for an answer that does not come.
        drop(self.tcp);
        connections.close();
        if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
            tracing::info!(connections = connections.len(), "connections were cut at the end of the drain");
        }
    }
}

/// What a connection's requests tell about it.
#[derive(Default)]
struct Signs {
    /// There was one.
    spoke: AtomicBool,
    /// The connection shall end when those under way are answered.
    go_away: Notify,
}

async fn connection(
    stream: TcpStream,
    address: SocketAddr,
    acceptor: tokio_rustls::TlsAcceptor,
    server: Arc<Server>,
    stop: CancellationToken,
) {
    let _ = stream.set_nodelay(true);
    let Ok(Ok(tls)) = tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await else {
        tracing::debug!("a TLS handshake failed");
        return;
    };
    let certificates: Vec<CertificateDer<'static>> = tls
        .get_ref()
        .1
        .peer_certificates()
        .map(|all| all.iter().map(|c| c.clone().into_owned()).collect())
        .unwrap_or_default();
    let peer = Peer { certificates: certificates.into(), local: None, address: Some(address.ip()) };
    let signs = Arc::new(Signs::default());
    let (seen, chance) = (signs.clone(), server.limits.serving.goaway_chance);
    let service = service_fn(move |request: Request<Incoming>| {
        let (server, peer) = (server.clone(), peer.clone());
        seen.spoke.store(true, Ordering::Relaxed);
        // Clients who keep one connection for ever would never find servers that came later.
        if chance > 0.0 && request.version() == Version::HTTP_2 && rand::random::<f64>() < chance {
            seen.go_away.notify_one();
        }
        async move {
            if request.version() != Version::HTTP_2 || request.body().is_end_stream() {
                let request = request.map(|body| body.map_err(BoxError::from).boxed_unsync());
                return Ok::<_, std::convert::Infallible>(server.handle(peer, request).await);
            }
            let (head, body) = request.into_parts();
            let body = Shared::new(body);
            let request = Request::from_parts(head, body.clone().map_err(BoxError::from).boxed_unsync());
            let response = server.handle(peer, request).await;
            body.drain().await;
            Ok(response)
        }
    });
    let mut builder = Builder::new(Inline);
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .max_buf_size(MAX_HEADERS as usize)
        .half_close(true);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS)
        .initial_stream_window_size(256 * 1024)
        .initial_connection_window_size(256 * 1024 * STREAMS)
        .max_header_list_size(MAX_HEADERS)
        // Streams opened only to be reset (CVE-2023-44487), and frames that make us reset them.
        .max_pending_accept_reset_streams(RESETS)
        .max_local_error_reset_streams(Some(LOCAL_RESETS))
        .keep_alive_interval(Duration::from_secs(30))
        .keep_alive_timeout(Duration::from_secs(15));
    let (stream, cork) = cork(tls);
    let serving = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut serving = std::pin::pin!(serving);
    let silent = async {
        tokio::time::sleep(HEADERS).await;
        if signs.spoke.load(Ordering::Relaxed) {
            std::future::pending::<()>().await;
        }
    };
    let result = tokio::select! {
        result = cork.drive(serving.as_mut()) => result,
        () = silent => return tracing::debug!("a client connected and said nothing"),
        () = async { tokio::select! { () = stop.cancelled() => {} () = signs.go_away.notified() => {} } } => {
            serving.as_mut().graceful_shutdown();
            cork.drive(serving).await
        }
    };
    if let Err(e) = result {
        tracing::debug!(error = %e, "a connection ended early");
    }
}

fn tls_config(files: &TlsFiles, options: &TlsOptions) -> Result<ServerConfig, ListenerError> {
    let certificates = Certificates::open(files, &options.sni)
        .map_err(|e| ListenerError::Pem { path: e.path, why: e.why })?;
    let provider = Arc::new(tls::provider(options));
    let verifier = Arc::new(Possession { provider: provider.clone() });
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(options.min_version.versions())?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}
