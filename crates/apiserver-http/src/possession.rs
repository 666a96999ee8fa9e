//! That a client has the key of the certificate it shows.
use std::sync::Arc;

use rustls::client::danger::HandshakeSignatureValid;
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, SignatureScheme};
use rustls_pki_types::{CertificateDer, SubjectPublicKeyInfoDer, UnixTime};
use x509_parser::prelude::{FromDer as _, X509Certificate, X509Version};

/// The key of a certificate.
struct Key {
    info: Vec<u8>,
    bits: Vec<u8>,
}

/// The key of a certificate of X.509's first version: `openssl x509 -req` makes those where nobody asks for extensions, Go
/// takes them, and the TLS library knows the third alone.
fn first_version(certificate: &CertificateDer<'_>) -> Option<Key> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let key = certificate.public_key();
    (certificate.version() == X509Version::V1)
        .then(|| Key { info: key.raw.to_vec(), bits: key.subject_public_key.data.to_vec() })
}

/// Lets a client show any certificate whose key it has, or none: who it is, and whether the certificate is good, is the
/// authenticator's question, so that a bad one is answered with 401 and not with a broken handshake.
#[derive(Debug)]
pub struct Possession {
    /// Verifies signatures.
    pub provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for Possession {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn verify_client_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        match first_version(cert) {
            None => rustls::crypto::verify_tls12_signature(message, cert, dss, algorithms),
            Some(key) => {
                let fitting = algorithms.mapping.iter().find(|(scheme, _)| *scheme == dss.scheme);
                let good = fitting.is_some_and(|(_, all)| {
                    all.iter().any(|one| one.verify_signature(&key.bits, message, dss.signature()).is_ok())
                });
                if good {
                    return Ok(HandshakeSignatureValid::assertion());
                }
                Err(rustls::CertificateError::BadSignature.into())
            }
        }
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        match first_version(cert) {
            None => rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms),
            Some(key) => {
                let info = SubjectPublicKeyInfoDer::from(key.info);
                rustls::crypto::verify_tls13_signature_with_raw_key(message, &info, dss, algorithms)
            }
        }
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
