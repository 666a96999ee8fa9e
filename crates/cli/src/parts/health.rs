//! `/healthz`, `/livez` and `/readyz` of the parts that serve nothing else: the controller manager, the scheduler.
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use clap::Args;
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper_util::rt::{TokioExecutor, TokioIo};
use pki::{AlternativeName, Authority, CertificateSpec, KeyAlgorithm, Subject, Usage};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::output::Failure;

/// Port of the controller manager where nobody says another.
pub const CONTROLLER_MANAGER_PORT: u16 = 10257;
/// Port of the scheduler where nobody says another.
pub const SCHEDULER_PORT: u16 = 10259;

/// Connections at a time; more wait.
const MOST: usize = 64;
/// How long a handshake, and then a request, may take.
const TIME: Duration = Duration::from_secs(30);

/// Flags about where a part tells of its health, with upstream's names.
#[derive(Args, Debug)]
pub struct HealthFlags {
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// Port for /healthz, /livez and /readyz over HTTPS; 0: none.
    #[arg(long)]
    secure_port: Option<u16>,
    /// Serving certificate; one that nobody signed is made if absent.
    #[arg(long, requires = "tls_private_key_file")]
    tls_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long, requires = "tls_cert_file")]
    tls_private_key_file: Option<PathBuf>,
}

/// Certificate and key, PEM.
type Pair = (String, String);

/// A certificate that its own authority signed, as upstream makes one: for who knows no better.
pub fn own_certificate(host: &str, names: Vec<AlternativeName>) -> Result<Pair, pki::Error> {
    let (now, year) = (jiff::Timestamp::now(), Duration::from_secs(365 * 24 * 3600));
    let subject = Subject::new(format!("{host}-ca@{}", now.as_second()));
    let authority = Authority::create(&subject, KeyAlgorithm::EcdsaP256, year, now)?;
    let spec = CertificateSpec {
        subject: Subject::new(format!("{host}@{}", now.as_second())),
        names,
        usages: vec![Usage::Server],
        validity: year,
    };
    let issued = authority.issue(&spec, KeyAlgorithm::EcdsaP256, now)?;
    Ok((format!("{}{}", issued.certificate_pem, authority.certificate_pem()), issued.key.to_pem()))
}

fn acceptor((certificate, key): Pair) -> Result<TlsAcceptor, String> {
    let chain = CertificateDer::pem_slice_iter(certificate.as_bytes())
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| e.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| e.to_string())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .map_err(|e| e.to_string())?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

fn answer(path: &str) -> Response<Full<Bytes>> {
    let (code, text) = match path {
        "/healthz" | "/livez" | "/readyz" => (StatusCode::OK, "ok"),
        _ => (StatusCode::NOT_FOUND, "404 page not found\n"),
    };
    let mut response = Response::new(Full::new(Bytes::from_static(text.as_bytes())));
    *response.status_mut() = code;
    let plain = header::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, plain);
    response.headers_mut().insert("x-content-type-options", header::HeaderValue::from_static("nosniff"));
    response
}

impl HealthFlags {
    /// Serves until `stop`; returns when it listens. `port`: where no flag says another.
    pub async fn serve(self, port: u16, stop: &CancellationToken) -> Result<(), Failure> {
        let port = self.secure_port.unwrap_or(port);
        if port == 0 {
            return Ok(());
        }
        let pair = match (self.tls_cert_file, self.tls_private_key_file) {
            (Some(certificate), Some(key)) => {
                let read = |path: PathBuf| {
                    std::fs::read_to_string(&path).map_err(|e| {
                        Failure::new(format!("cannot read {}: {e}", path.display()), "see --tls-cert-file")
                    })
                };
                (read(certificate)?, read(key)?)
            }
            _ => {
                let names = vec![
                    AlternativeName::Dns("localhost".into()),
                    AlternativeName::Ip(std::net::Ipv4Addr::LOCALHOST.into()),
                ];
                own_certificate("localhost", names).map_err(|e| Failure::of(&e))?
            }
        };
        let acceptor = acceptor(pair).map_err(|e| Failure::new(e, "see --tls-cert-file"))?;
        let address = SocketAddr::new(self.bind_address, port);
        let listener = TcpListener::bind(address).await.map_err(|e| {
            Failure::new(format!("cannot listen on {address}: {e}"), "see --bind-address and --secure-port")
        })?;
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept(listener, acceptor)));
        Ok(())
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor) {
    let places = Arc::new(tokio::sync::Semaphore::new(MOST));
    loop {
        let Ok(place) = places.clone().acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(e) => {
                tracing::warn!(error = %e, "cannot take a connection");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            let _place = place;
            let serve = async {
                let stream = acceptor.accept(stream).await.ok()?;
                let service =
                    hyper::service::service_fn(|request: Request<hyper::body::Incoming>| async move {
                        Ok::<_, Infallible>(answer(request.uri().path()))
                    });
                let builder = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                builder.serve_connection(TokioIo::new(stream), service).await.ok()
            };
            let _ = tokio::time::timeout(TIME, serve).await;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn health_and_nothing_else_is_served() {
        for path in ["/healthz", "/livez", "/readyz"] {
            assert_eq!(answer(path).status(), StatusCode::OK);
        }
        assert_eq!(answer("/metrics").status(), StatusCode::NOT_FOUND);
    }

    #[test]
    fn a_certificate_of_ones_own_can_be_served() {
        let names = vec![AlternativeName::Dns("n1".into())];
        assert!(acceptor(own_certificate("n1", names).unwrap()).is_ok());
    }
}
