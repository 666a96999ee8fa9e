//! The flags of the controller manager about signing certificates and tokens.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use controllers::SignerFiles;

use super::go_duration;
use crate::output::Failure;

/// Flags about signing, with upstream's names.
#[derive(Args, Debug)]
pub struct SigningFlags {
    /// CA certificate that signs certificate requests.
    #[arg(long, requires = "cluster_signing_key_file")]
    cluster_signing_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long, requires = "cluster_signing_cert_file")]
    cluster_signing_key_file: Option<PathBuf>,
    /// The longest that signed certificates last.
    #[arg(long, default_value = "8760h0m0s", value_parser = go_duration)]
    cluster_signing_duration: Duration,
    /// CA certificate for kubernetes.io/kubelet-serving.
    #[arg(long, requires = "cluster_signing_kubelet_serving_key_file")]
    cluster_signing_kubelet_serving_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long, requires = "cluster_signing_kubelet_serving_cert_file")]
    cluster_signing_kubelet_serving_key_file: Option<PathBuf>,
    /// CA certificate for kubernetes.io/kube-apiserver-client-kubelet.
    #[arg(long, requires = "cluster_signing_kubelet_client_key_file")]
    cluster_signing_kubelet_client_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long, requires = "cluster_signing_kubelet_client_cert_file")]
    cluster_signing_kubelet_client_key_file: Option<PathBuf>,
    /// CA certificate for kubernetes.io/kube-apiserver-client.
    #[arg(long, requires = "cluster_signing_kube_apiserver_client_key_file")]
    cluster_signing_kube_apiserver_client_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long, requires = "cluster_signing_kube_apiserver_client_cert_file")]
    cluster_signing_kube_apiserver_client_key_file: Option<PathBuf>,
    /// CA certificate for kubernetes.io/legacy-unknown.
    #[arg(long, requires = "cluster_signing_legacy_unknown_key_file")]
    cluster_signing_legacy_unknown_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long, requires = "cluster_signing_legacy_unknown_cert_file")]
    cluster_signing_legacy_unknown_key_file: Option<PathBuf>,
    /// Key that signs the tokens of Secrets.
    #[arg(long)]
    service_account_private_key_file: Option<PathBuf>,
}

impl SigningFlags {
    /// Writes what the flags say into the configuration.
    pub fn apply(self, config: &mut controllers::Config) -> Result<(), Failure> {
        let files = |certificate: Option<PathBuf>, key: Option<PathBuf>| {
            certificate.zip(key).map(|(certificate, key)| SignerFiles { certificate, key })
        };
        let all = files(self.cluster_signing_cert_file, self.cluster_signing_key_file);
        let own = [
            (
                controllers::KUBELET_SERVING,
                files(
                    self.cluster_signing_kubelet_serving_cert_file,
                    self.cluster_signing_kubelet_serving_key_file,
                ),
            ),
            (
                controllers::KUBELET_CLIENT,
                files(
                    self.cluster_signing_kubelet_client_cert_file,
                    self.cluster_signing_kubelet_client_key_file,
                ),
            ),
            (
                controllers::KUBE_APISERVER_CLIENT,
                files(
                    self.cluster_signing_kube_apiserver_client_cert_file,
                    self.cluster_signing_kube_apiserver_client_key_file,
                ),
            ),
            (
                controllers::LEGACY_UNKNOWN,
                files(
                    self.cluster_signing_legacy_unknown_cert_file,
                    self.cluster_signing_legacy_unknown_key_file,
                ),
            ),
        ];
        if all.is_some() && own.iter().any(|(_, files)| files.is_some()) {
            return Err(Failure::new(
                "cannot specify --cluster-signing-{cert,key}-file and other --cluster-signing-*-file flags at the same time",
                "name one CA for all signers, or one for each",
            ));
        }
        let signers = own.into_iter().filter_map(|(signer, files)| {
            files.or_else(|| all.clone()).map(|files| (signer.to_owned(), files))
        });
        config.signers = signers.collect::<BTreeMap<_, _>>();
        config.signing_duration = self.cluster_signing_duration;
        config.service_account_key = self.service_account_private_key_file;
        Ok(())
    }
}
