//! Asks one backend how it is: by a connection, or at `/readyz` over a connection that is kept.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::{ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme};
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::health::Outcome;
use crate::{Check, Error};

/// Most bytes of an answer that are read.
const ANSWER_LIMIT: usize = 64 << 10;

/// Whose certificates backends may show.
#[derive(Clone, Debug)]
pub enum Trust {
    /// Anybody's: they are asked how they are and told nothing.
    Anyone,
    /// Those of an authority, in PEM.
    Authority(Vec<u8>),
    /// As it is at each new connection: authorities are replaced.
    Following(Following),
}

/// Gives what backends are met with now.
#[derive(Clone)]
pub struct Following(Arc<dyn Fn() -> Arc<ClientConfig> + Send + Sync>);

impl Following {
    /// Asked at each new connection; what it gives is made by [`Trust::client`].
    pub fn new(current: impl Fn() -> Arc<ClientConfig> + Send + Sync + 'static) -> Self {
        Self(Arc::new(current))
    }
}

impl std::fmt::Debug for Following {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Following")
    }
}

impl Trust {
    /// What backends are met with.
    pub fn client(&self) -> Result<ClientConfig, Error> {
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider.clone())
            .with_safe_default_protocol_versions()
            .map_err(|e| Error::Trust(e.to_string()))?;
        if let Self::Following(following) = self {
            return Ok((*(following.0)()).clone());
        }
        let Self::Authority(pem) = self else {
            let verifier = Arc::new(TakeAny(provider));
            return Ok(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth());
        };
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_slice_iter(pem) {
            let certificate = certificate.map_err(|e| Error::Trust(e.to_string()))?;
            roots.add(certificate).map_err(|e| Error::Trust(e.to_string()))?;
        }
        if roots.is_empty() {
            return Err(Error::Trust("it holds no certificate".into()));
        }
        Ok(builder.with_root_certificates(roots).with_no_client_auth())
    }
}

/// Takes any certificate whose owner has its key.
#[derive(Debug)]
struct TakeAny(Arc<CryptoProvider>);

impl ServerCertVerifier for TakeAny {
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
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Asks one backend.
pub(crate) struct Probe {
    address: SocketAddr,
    patience: Duration,
    tls: Option<Following>,
    kept: Option<SendRequest<Empty<Bytes>>>,
}

impl Probe {
    pub(crate) fn new(address: SocketAddr, check: &Check, patience: Duration) -> Result<Self, Error> {
        let tls = match check {
            Check::Connect => None,
            Check::Readyz(Trust::Following(following)) => Some(following.clone()),
            Check::Readyz(trust) => {
                let fixed = Arc::new(trust.client()?);
                Some(Following::new(move || fixed.clone()))
            }
        };
        Ok(Self { address, patience, tls, kept: None })
    }

    /// How it is, at the latest after the patience.
    pub(crate) async fn ask(&mut self) -> Outcome {
        let patience = self.patience;
        let outcome = tokio::time::timeout(patience, self.try_ask()).await.unwrap_or(Outcome::Silent);
        if outcome == Outcome::Silent {
            self.kept = None;
        }
        outcome
    }

    async fn try_ask(&mut self) -> Outcome {
        let Some(tls) = self.tls.clone() else {
            return match TcpStream::connect(self.address).await {
                Ok(_) => Outcome::Ready,
                Err(_) => Outcome::Refused,
            };
        };
        // A connection that was closed meanwhile may just have been idle: only a new one tells.
        if let Some(kept) = self.kept.take()
            && let Some(outcome) = self.request(kept).await
        {
            return outcome;
        }
        let Ok(stream) = TcpStream::connect(self.address).await else { return Outcome::Refused };
        let stream =
            match TlsConnector::from((tls.0)()).connect(ServerName::from(self.address.ip()), stream).await {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::debug!(backend = %self.address, %error, "no TLS with a backend");
                    return Outcome::Unready;
                }
            };
        let Ok((sender, connection)) = handshake(TokioIo::new(stream)).await else { return Outcome::Refused };
        // Ends with the sender.
        tokio::spawn(connection);
        self.request(sender).await.unwrap_or(Outcome::Refused)
    }

    /// `None` if the connection broke.
    async fn request(&mut self, mut to: SendRequest<Empty<Bytes>>) -> Option<Outcome> {
        let request = http::Request::get("/readyz")
            .header(http::header::HOST, self.address.to_string())
            .header(http::header::USER_AGENT, "cox-balancer")
            .body(Empty::new())
            .ok()?;
        to.ready().await.ok()?;
        let answer = to.send_request(request).await.ok()?;
        let status = answer.status();
        let mut body = answer.into_body();
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            read += frame.ok()?.data_ref().map_or(0, Bytes::len);
            if read > ANSWER_LIMIT {
                return Some(Outcome::Unready);
            }
        }
        self.kept = Some(to);
        // One that wants to know first who asks is there and well enough to say so.
        Some(if status.is_server_error() { Outcome::Unready } else { Outcome::Ready })
    }
}
