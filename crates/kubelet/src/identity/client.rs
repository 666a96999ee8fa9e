//! A client whose certificate is replaced while it is in use.
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use http::Request;
use kube::Client;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio_util::sync::CancellationToken;
use tower::BoxError;

use super::rotation::Rotation;
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
        let newest = store.current()?.is_some().then(|| store.current_path());
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
        let held = self.store.current().ok().flatten();
        let held = match held {
            Some(held) => Some(held.facts),
            None => facts_of(&self.kubeconfig),
        };
        let (sender, mut renewed) = tokio::sync::watch::channel(());
        let rotation = Rotation {
            client: self.client("kubelet"),
            store: self.store.clone(),
            signer: "kubernetes.io/kube-apiserver-client-kubelet",
            purpose: "client auth",
            subject: subject(&self.node_name),
            names: Vec::new,
            renewed: move |_: &super::store::Held| {
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

/// What the certificate that a kubeconfig leads to says.
fn facts_of(kubeconfig: &Path) -> Option<pki::CertificateFacts> {
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
    pki::CertificateFacts::from_pem(&pem).ok()
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
