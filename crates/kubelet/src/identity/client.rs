//! A client whose certificate is replaced while it is in use.
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use http::Request;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use pki::CertificateFacts;
use tokio_util::sync::CancellationToken;
use tower::BoxError;

use super::rotation::Rotation;
use super::store::Held;
use super::{CertificateStore, Error, subject};

/// A client that speaks with the newest certificate there is. Requests under way end on the connection they are on.
pub struct RotatingClient {
    current: Arc<RwLock<Client>>,
    kubeconfig: PathBuf,
    store: CertificateStore,
    node_name: String,
}

impl RotatingClient {
    /// Begins with what `kubeconfig` says; new certificates go to, and come from, the store in `cert_dir`.
    pub async fn new(kubeconfig: &Path, cert_dir: &Path, node_name: &str) -> Result<Self, Error> {
        let store = CertificateStore::client(cert_dir);
        let newest = in_use(store.current()?, kubeconfig).0.then(|| store.current_path());
        let client = connect(kubeconfig, newest.as_deref()).await?;
        Ok(Self {
            current: Arc::new(RwLock::new(client)),
            kubeconfig: kubeconfig.to_owned(),
            store,
            node_name: node_name.to_owned(),
        })
    }

    /// The client; clones of it all change their certificate at once.
    pub fn client(&self, user_agent: &str) -> Client {
        let current = self.current.clone();
        let service = tower::service_fn(move |request: Request<kube::client::Body>| {
            let client = current.read().unwrap_or_else(PoisonError::into_inner).clone();
            async move { client.send(request).await.map_err(BoxError::from) }
        });
        ::client::in_process(service, user_agent)
    }

    /// Replaces the certificate before it ends, until stopped.
    pub async fn rotate(self, stop: CancellationToken) {
        let (_, held) = in_use(self.store.current().ok().flatten(), &self.kubeconfig);
        let (sender, mut renewed) = tokio::sync::watch::channel(());
        let rotation = Rotation {
            client: self.client("kubelet"),
            store: self.store.clone(),
            signer: "kubernetes.io/kube-apiserver-client-kubelet",
            purpose: "client auth",
            subject: subject(&self.node_name),
            names: Vec::new,
            renewed: move |_: &Held| {
                let _ = sender.send(());
            },
        };
        let swap = async {
            while renewed.changed().await.is_ok() {
                match connect(&self.kubeconfig, Some(&self.store.current_path())).await {
                    Ok(client) => {
                        *self.current.write().unwrap_or_else(PoisonError::into_inner) = client;
                    }
                    Err(error) => {
                        tracing::error!(error = %base::Chain(&error), "the new certificate cannot be used");
                    }
                }
            }
        };
        tokio::join!(rotation.run(held, stop), swap);
    }
}

/// Whether the certificate to use is that of the store, and what it says; else it is that of the kubeconfig, which is used
/// where it was issued later: somebody renewed it, maybe with another authority.
fn in_use(stored: Option<Held>, kubeconfig: &Path) -> (bool, Option<CertificateFacts>) {
    let given = facts_of(kubeconfig);
    match stored.map(|held| held.facts) {
        Some(stored) if given.as_ref().is_none_or(|g| g.not_before <= stored.not_before) => {
            (true, Some(stored))
        }
        _ => (false, given),
    }
}

/// What the certificate that a kubeconfig leads to says.
fn facts_of(kubeconfig: &Path) -> Option<CertificateFacts> {
    use base64::Engine as _;
    let file = Kubeconfig::read_from(kubeconfig).ok()?;
    let auth = file.auth_infos.first()?.auth_info.as_ref()?;
    let pem = match (&auth.client_certificate_data, &auth.client_certificate) {
        (Some(data), _) => {
            let bytes = base64::engine::general_purpose::STANDARD.decode(data).ok()?;
            String::from_utf8_lossy(&bytes).into_owned()
        }
        (None, Some(path)) => pki::read(Path::new(path)).ok()??,
        (None, None) => return None,
    };
    CertificateFacts::from_pem(&pem).ok()
}

/// A client as the kubeconfig says, with the certificate and key of `newest` in place of its own.
async fn connect(kubeconfig: &Path, newest: Option<&Path>) -> Result<Client, Error> {
    let bad = |source: BoxError| Error::Kubeconfig { path: kubeconfig.to_owned(), source };
    let file = Kubeconfig::read_from(kubeconfig).map_err(|e| bad(e.into()))?;
    let mut config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default())
        .await
        .map_err(|e| bad(e.into()))?;
    if let Some(newest) = newest {
        let path = newest.display().to_string();
        config.auth_info.client_certificate = Some(path.clone());
        config.auth_info.client_certificate_data = None;
        config.auth_info.client_key = Some(path);
        config.auth_info.client_key_data = None;
    }
    Client::try_from(config).map_err(|e| bad(e.into()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use pki::{Authority, Credentials, KeyAlgorithm, PrivateKey, Subject};

    use super::*;

    #[test]
    fn what_was_issued_last_is_used() {
        let dir = tempfile::tempdir().unwrap();
        let kubeconfig = dir.path().join("kubelet.conf");
        let hours = |n: u64| Duration::from_secs(n * 3600);
        let start: jiff::Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        let ca = Authority::create(&Subject::new("ca"), KeyAlgorithm::EcdsaP256, hours(1000), start).unwrap();
        let issue = |after: u64| {
            let spec = pki::CertificateSpec {
                subject: Subject::new("system:node:a"),
                names: Vec::new(),
                usages: vec![pki::Usage::Client],
                validity: hours(10),
            };
            ca.issue(&spec, KeyAlgorithm::EcdsaP256, start.checked_add(hours(after)).unwrap()).unwrap()
        };
        let write = |after: u64| {
            let issued = issue(after);
            let file = pki::Kubeconfig {
                cluster: "c".into(),
                server: "https://a:6443".into(),
                authority_pem: ca.certificate_pem().into(),
                user: "u".into(),
                credentials: Credentials::ClientCertificate {
                    certificate_pem: issued.certificate_pem,
                    key_pem: issued.key.to_pem(),
                },
                namespace: None,
            };
            std::fs::write(&kubeconfig, file.to_yaml()).unwrap();
        };
        let store = CertificateStore::client(dir.path());
        let key: PrivateKey = {
            let issued = issue(5);
            store.update(&issued.certificate_pem, &issued.key, start).unwrap();
            issued.key
        };
        let stored = || store.current().unwrap();
        let uses = || {
            let (is_stored, facts) = in_use(stored(), &kubeconfig);
            (is_stored, facts.unwrap().matches(&key))
        };
        write(1);
        assert_eq!(uses(), (true, true), "it was rotated since");
        write(7);
        assert_eq!(uses(), (false, false), "it was renewed since");
        assert!(matches!(in_use(None, &kubeconfig), (false, Some(_))));
        std::fs::remove_file(&kubeconfig).unwrap();
        assert_eq!(uses(), (true, true));
    }
}
