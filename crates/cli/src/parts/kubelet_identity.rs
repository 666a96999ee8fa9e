//! The flags of the kubelet about its own certificates.
use std::path::{Path, PathBuf};

use clap::Args;
use kubelet::identity::{Bootstrap, RotatingClient, bootstrap};
use tokio_util::sync::CancellationToken;

use crate::output::Failure;

/// Flags about the kubelet's certificates, with upstream's names.
#[derive(Args, Debug, Clone)]
pub struct IdentityFlags {
    /// With this the first client certificate is asked for, where --kubeconfig has none that is good.
    #[arg(long)]
    bootstrap_kubeconfig: Option<PathBuf>,
    /// Where certificates that the kubelet asks for are kept.
    #[arg(long, default_value = "/var/lib/kubelet/pki")]
    cert_dir: PathBuf,
    /// Replaces the client certificate before it ends.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    rotate_certificates: Option<bool>,
    /// Asks the API server for the serving certificate, and replaces it before it ends.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    rotate_server_certificates: Option<bool>,
}

impl IdentityFlags {
    /// Where the serving certificate that is asked for is kept; `None` where it comes from files.
    pub fn serving_cert_dir(&self, server_tls_bootstrap: Option<bool>) -> Option<PathBuf> {
        let asked = self.rotate_server_certificates.or(server_tls_bootstrap).unwrap_or(false);
        asked.then(|| self.cert_dir.clone())
    }

    /// Certificate and key of who was given none and may not ask for one: made once, and kept.
    pub fn own_serving_files(&self) -> (PathBuf, PathBuf) {
        (self.cert_dir.join("kubelet.crt"), self.cert_dir.join("kubelet.key"))
    }

    /// Makes those files where they are missing.
    pub fn ensure_own_serving_files(&self, node_name: &str) -> Result<(), Failure> {
        let (certificate, key) = self.own_serving_files();
        if certificate.exists() && key.exists() {
            return Ok(());
        }
        let failed = |e: &(dyn std::error::Error + 'static)| {
            Failure::new(
                format!("the kubelet's server gets no certificate: {}", base::Chain(e)),
                "name one with --tls-cert-file and --tls-private-key-file, or see --cert-dir",
            )
        };
        let names = vec![pki::AlternativeName::Dns(node_name.to_owned())];
        let (text, private) = super::health::own_certificate(node_name, names).map_err(|e| failed(&e))?;
        std::fs::create_dir_all(&self.cert_dir).map_err(|e| failed(&e))?;
        pki::write_private(&key, private.as_bytes()).map_err(|e| failed(&e))?;
        pki::write_public(&certificate, text.as_bytes()).map_err(|e| failed(&e))?;
        tracing::info!(file = %certificate.display(), "made a serving certificate that nobody else signed");
        Ok(())
    }

    /// The client of the kubelet; its certificate is asked for first where it has to be, and replaced until `stop` where
    /// the flags or the file (`rotateCertificates`) say so.
    pub async fn client(
        self,
        kubeconfig: &Path,
        node_name: &str,
        rotate: Option<bool>,
        stop: &CancellationToken,
    ) -> Result<kube::Client, Failure> {
        if let Some(bootstrap_kubeconfig) = self.bootstrap_kubeconfig {
            let what = Bootstrap {
                bootstrap_kubeconfig,
                kubeconfig: kubeconfig.to_owned(),
                cert_dir: self.cert_dir.clone(),
                node_name: node_name.to_owned(),
            };
            bootstrap(&what, stop).await.map_err(|e| Failure::of(&e))?;
        }
        let agent = format!("kubelet/{}", kubelet::KUBELET_VERSION);
        if self.rotate_certificates.or(rotate).unwrap_or(false) {
            let rotating = RotatingClient::new(kubeconfig, &self.cert_dir, node_name)
                .await
                .map_err(|e| Failure::of(&e))?;
            let client = rotating.client(&agent);
            tokio::spawn(rotating.rotate(stop.clone()));
            return Ok(client);
        }
        super::client_of(kubeconfig, "kubelet").await
    }
}
