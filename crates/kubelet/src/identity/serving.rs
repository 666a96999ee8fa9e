//! The serving certificate: from files that may be replaced, or asked of the API server.
use std::path::PathBuf;
use std::sync::{Arc, PoisonError, RwLock};

use kube::Client;
use pki::{AlternativeName, Fresh};
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_util::sync::CancellationToken;

use super::rotation::Rotation;
use super::store::Held;
use super::{CertificateStore, Error, subject};

/// Gives each handshake the certificate of now. Without one, handshakes fail.
#[derive(Debug, Clone)]
pub(crate) enum Serving {
    /// Read again when the files change.
    Files(Arc<Fresh<CertifiedKey>>),
    /// Put here by [`keep`].
    Asked(Arc<RwLock<Option<Arc<CertifiedKey>>>>),
}

impl ResolvesServerCert for Serving {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        match self {
            Self::Files(files) => Some(files.get()),
            Self::Asked(current) => {
                let current = current.read().unwrap_or_else(PoisonError::into_inner).clone();
                if current.is_none() {
                    tracing::debug!("no serving certificate available for the kubelet");
                }
                current
            }
        }
    }
}

fn certified(certificates: &[u8], key: &[u8]) -> Result<CertifiedKey, String> {
    let chain: Vec<CertificateDer<'static>> =
        CertificateDer::pem_slice_iter(certificates).collect::<Result<_, _>>().map_err(|e| e.to_string())?;
    let key = PrivateKeyDer::from_pem_slice(key).map_err(|e| e.to_string())?;
    let provider = rustls::crypto::aws_lc_rs::default_provider();
    let certified = CertifiedKey::from_der(chain, key, &provider).map_err(|e| e.to_string())?;
    certified.keys_match().map_err(|e| e.to_string())?;
    Ok(certified)
}

impl Serving {
    /// The certificate of these files.
    pub(crate) fn files(certificate: PathBuf, key: PathBuf) -> Result<Self, pki::FreshError> {
        let read = |contents: &[Vec<u8>]| match contents {
            [certificate, key] => certified(certificate, key),
            _ => Err("a certificate and a key are wanted".to_owned()),
        };
        Ok(Self::Files(Arc::new(Fresh::open(vec![certificate, key], read)?)))
    }

    /// None yet.
    pub(crate) fn asked() -> Self {
        Self::Asked(Arc::default())
    }
}

/// Keeps a certificate for these names in `serving` until stopped.
pub(crate) async fn keep(
    serving: Serving,
    directory: PathBuf,
    client: Client,
    node_name: String,
    names: impl Fn() -> Vec<AlternativeName> + Send,
    stop: CancellationToken,
) {
    let Serving::Asked(current) = serving else { return };
    let take = move |held: &Held| match certified(held.pem.as_bytes(), held.pem.as_bytes()) {
        Ok(key) => *current.write().unwrap_or_else(PoisonError::into_inner) = Some(Arc::new(key)),
        Err(error) => tracing::error!(error, "the new serving certificate cannot be used"),
    };
    let store = CertificateStore::serving(directory);
    let held = match store.current() {
        Ok(held) => held.filter(|h| jiff::Timestamp::now() < h.facts.not_after),
        Err(error) => {
            let error: &Error = &error;
            tracing::warn!(error = %base::Chain(error), "the kept serving certificate cannot be read");
            None
        }
    };
    if let Some(held) = &held {
        take(held);
    }
    let rotation = Rotation {
        store,
        client,
        signer: "kubernetes.io/kubelet-serving",
        purpose: "server auth",
        subject: subject(&node_name),
        names,
        renewed: take,
    };
    rotation.run(held.map(|h| h.facts), stop).await;
}
