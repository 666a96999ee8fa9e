//! Connections to where requests are forwarded.

use std::{
    io,
    net::IpAddr,
    sync::{Arc, LazyLock},
    time::Duration,
};

use http::Uri;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::Duplex;

/// How long a TCP connection and its TLS handshake may take together.
const DIAL_LIMIT: Duration = Duration::from_secs(30);

/// Gives the TLS configuration of now.
type Current = Arc<dyn Fn() -> Arc<ClientConfig> + Send + Sync>;

/// Connects to URIs, with TLS for `https`.
#[derive(Clone, Default)]
pub struct Dialer {
    tls: Option<Current>,
    server_name: Option<ServerName<'static>>,
}

/// Why no connection came about.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The URI has no host, or a scheme other than `http` and `https`.
    #[error("cannot dial {0}")]
    Target(Uri),
    /// `https` without a TLS configuration.
    #[error("no TLS configuration to dial {0}")]
    NoTls(Uri),
    /// TCP failed.
    #[error("dial tcp {address}: {error}")]
    Tcp {
        /// Host and port.
        address: String,
        /// What failed.
        #[source]
        error: io::Error,
    },
    /// The server's certificate or ours was not accepted, or it is not TLS.
    #[error("tls handshake with {address}: {error}")]
    Tls {
        /// Host and port.
        address: String,
        /// What failed.
        #[source]
        error: io::Error,
    },
}

impl Dialer {
    /// Connects without TLS only.
    pub fn plain() -> Self {
        Self::default()
    }

    /// Connects to `https` URIs with this configuration (client certificate, roots).
    ///
    /// The configuration must not offer HTTP/2: upgrades are a matter of HTTP/1.1.
    pub fn tls(config: Arc<ClientConfig>) -> Self {
        Self::following(move || config.clone())
    }

    /// As [`Self::tls`], with a configuration that is asked for at each connection, as certificates are replaced.
    pub fn following(current: impl Fn() -> Arc<ClientConfig> + Send + Sync + 'static) -> Self {
        Self { tls: Some(Arc::new(current)), server_name: None }
    }

    /// Connects to `https` URIs of servers whose certificates nobody here can judge, and shows them none of ours.
    ///
    /// As upstream does for the proxies to pods and services; never for kubelets.
    pub fn unverified() -> Self {
        Self::tls(unverified())
    }

    /// Expects this name in the server's certificate in place of the URI's host.
    pub fn with_server_name(mut self, name: ServerName<'static>) -> Self {
        self.server_name = Some(name);
        self
    }

    /// Connects to a URI's host and port.
    pub async fn dial(&self, uri: &Uri) -> Result<Box<dyn Duplex>, DialError> {
        let tls = match uri.scheme_str() {
            Some("http") => None,
            Some("https") => Some(self.tls.as_ref().ok_or_else(|| DialError::NoTls(uri.clone()))?()),
            _ => return Err(DialError::Target(uri.clone())),
        };
        let host = uri.host().ok_or_else(|| DialError::Target(uri.clone()))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if tls.is_some() { 443 } else { 80 });
        let address = match host.parse() {
            Ok(IpAddr::V6(ip)) => format!("[{ip}]:{port}"),
            _ => format!("{host}:{port}"),
        };
        let connect = async {
            let tcp_error = |error| DialError::Tcp { address: address.clone(), error };
            let stream = TcpStream::connect((host, port)).await.map_err(tcp_error)?;
            // Keystrokes must not wait for their acknowledgement.
            stream.set_nodelay(true).map_err(tcp_error)?;
            let Some(config) = tls else { return Ok(Box::new(stream) as Box<dyn Duplex>) };
            let name = match &self.server_name {
                Some(name) => name.clone(),
                None => ServerName::try_from(host.to_owned()).map_err(|_| DialError::Target(uri.clone()))?,
            };
            let stream = TlsConnector::from(config).connect(name, stream).await;
            let stream = stream.map_err(|error| DialError::Tls { address: address.clone(), error })?;
            Ok(Box::new(stream) as Box<dyn Duplex>)
        };
        match tokio::time::timeout(DIAL_LIMIT, connect).await {
            Ok(connected) => connected,
            Err(_) => {
                let error = io::Error::new(io::ErrorKind::TimedOut, "i/o timeout");
                Err(DialError::Tcp { address: address.clone(), error })
            }
        }
    }
}

/// TLS to servers whose certificates nobody here can judge, such as pods that answer probes; it shows them none of ours.
pub fn unverified() -> Arc<ClientConfig> {
    static CONFIG: LazyLock<Arc<ClientConfig>> = LazyLock::new(|| {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .expect("the provider has the default protocol versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
            .with_no_client_auth();
        Arc::new(config)
    });
    CONFIG.clone()
}

/// Takes any certificate whose key the server holds.
#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
