//! The first client certificate, asked for with a bootstrap kubeconfig.
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use jiff::Timestamp;
use kube::Client;
use kube::config::{AuthInfo, Context, KubeConfigOptions, Kubeconfig, NamedAuthInfo, NamedCluster, NamedContext};
use pki::{CertificateFacts, KeyAlgorithm, PrivateKey};
use tokio_util::sync::CancellationToken;

use super::store::private_directory;
use super::{CertificateStore, Error, request, subject};

/// How long the first certificate is waited for: a person may have to approve it.
const PATIENCE: Duration = Duration::from_secs(3600);
/// Between two tries to reach the server.
const RETRY: Duration = Duration::from_secs(2);

/// Where the first certificate comes from and goes to.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    /// `--bootstrap-kubeconfig`: may create certificate requests, and little else.
    pub bootstrap_kubeconfig: PathBuf,
    /// `--kubeconfig`: written with the certificate.
    pub kubeconfig: PathBuf,
    /// `--cert-dir`.
    pub cert_dir: PathBuf,
    /// Name of this node.
    pub node_name: String,
}

fn bad(path: &Path) -> impl Fn(Box<dyn std::error::Error + Send + Sync>) -> Error + '_ {
    move |source| Error::Kubeconfig { path: path.to_owned(), source }
}

/// Makes `kubeconfig` with a client certificate, unless it is there with one that is still good.
pub async fn bootstrap(what: &Bootstrap, stop: &CancellationToken) -> Result<(), Error> {
    if still_good(&what.kubeconfig, Timestamp::now())? {
        tracing::debug!(kubeconfig = %what.kubeconfig.display(), "kubeconfig is good, no bootstrap");
        return Ok(());
    }
    let path = &what.bootstrap_kubeconfig;
    let source = Kubeconfig::read_from(path).map_err(|e| bad(path)(e.into()))?;
    let config = kube::Config::from_custom_kubeconfig(source.clone(), &KubeConfigOptions::default())
        .await
        .map_err(|e| bad(path)(e.into()))?;
    let client = Client::try_from(config).map_err(|e| bad(path)(e.into()))?;
    private_directory(&what.cert_dir)?;
    // The key outlives a restart, so that the request that waits for approval stays good.
    let kept = what.cert_dir.join("kubelet-client.key.tmp");
    let key = match pki::read(&kept)?.and_then(|text| PrivateKey::from_pem(&text).ok()) {
        Some(key) => key,
        None => {
            let key = PrivateKey::generate(KeyAlgorithm::EcdsaP256)?;
            pki::write_private(&kept, key.to_pem().as_bytes())?;
            key
        }
    };
    let wanted = request::Wanted {
        signer: "kubernetes.io/kube-apiserver-client-kubelet",
        purpose: "client auth",
        subject: subject(&what.node_name),
        names: &[],
        named: true,
        patience: PATIENCE,
    };
    let certificate = loop {
        let answer = tokio::select! {
            () = stop.cancelled() => return Err(Error::Stopped),
            answer = request::ask(&client, &key, &wanted) => answer,
        };
        match answer {
            Ok(certificate) => break certificate,
            // The server may still be starting; everything it says itself is final.
            Err(Error::Api { source, step }) if !matches!(*source, kube::Error::Api(_)) => {
                tracing::warn!(step, error = %base::Chain(&*source), "the API server does not answer yet");
                tokio::time::sleep(RETRY).await;
            }
            Err(error) => {
                // A refused key is not tried again.
                let _ = fs::remove_file(&kept);
                return Err(error);
            }
        }
    };
    let store = CertificateStore::client(&what.cert_dir);
    store.update(&certificate, &key, Timestamp::now())?;
    write_kubeconfig(&source, &store, &what.kubeconfig)?;
    let _ = fs::remove_file(&kept);
    tracing::info!(kubeconfig = %what.kubeconfig.display(), "client certificate issued, kubeconfig written");
    Ok(())
}

/// Whether there is a kubeconfig whose client certificate has not ended.
fn still_good(path: &Path, now: Timestamp) -> Result<bool, Error> {
    if !path.exists() {
        return Ok(false);
    }
    let file = Kubeconfig::read_from(path).map_err(|e| bad(path)(e.into()))?;
    let context = file.current_context.as_ref().and_then(|c| file.contexts.iter().find(|x| x.name == *c));
    let user = context.and_then(|c| c.context.as_ref()).and_then(|c| c.user.as_ref());
    let user = user.and_then(|u| file.auth_infos.iter().find(|a| a.name == *u));
    let Some(auth) = user.and_then(|a| a.auth_info.as_ref()) else { return Ok(false) };
    let pem = match (&auth.client_certificate, &auth.client_certificate_data) {
        (_, Some(data)) => {
            use base64::Engine as _;
            let bytes = base64::engine::general_purpose::STANDARD.decode(data).unwrap_or_default();
            Some(String::from_utf8_lossy(&bytes).into_owned())
        }
        (Some(path), None) => pki::read(Path::new(path))?,
        (None, None) => None,
    };
    let facts = pem.and_then(|pem| CertificateFacts::from_pem(&pem).ok());
    Ok(facts.is_some_and(|f| f.not_before <= now && now < f.not_after))
}

/// A kubeconfig for the same cluster whose user has the current certificate of the store.
fn write_kubeconfig(source: &Kubeconfig, store: &CertificateStore, to: &Path) -> Result<(), Error> {
    let context = source.current_context.as_ref().and_then(|c| source.contexts.iter().find(|x| x.name == *c));
    let cluster = context.and_then(|c| c.context.as_ref()).map(|c| c.cluster.as_str());
    let cluster = cluster.and_then(|c| source.clusters.iter().find(|x| x.name == c));
    let current = Some(store.current_path().display().to_string());
    let file = Kubeconfig {
        api_version: Some("v1".into()),
        kind: Some("Config".into()),
        clusters: vec![NamedCluster {
            name: "default-cluster".into(),
            cluster: cluster.and_then(|c| c.cluster.clone()),
            ..NamedCluster::default()
        }],
        auth_infos: vec![NamedAuthInfo {
            name: "default-auth".into(),
            auth_info: Some(AuthInfo {
                client_certificate: current.clone(),
                client_key: current,
                ..AuthInfo::default()
            }),
            ..NamedAuthInfo::default()
        }],
        contexts: vec![NamedContext {
            name: "default-context".into(),
            context: Some(Context {
                cluster: "default-cluster".into(),
                user: Some("default-auth".into()),
                namespace: Some("default".into()),
                ..Context::default()
            }),
            ..NamedContext::default()
        }],
        current_context: Some("default-context".into()),
        ..Kubeconfig::default()
    };
    let text = serde_saphyr::to_string(&file).map_err(|e| bad(to)(e.into()))?;
    if let Some(directory) = to.parent() {
        fs::create_dir_all(directory)
            .map_err(|source| Error::Make { path: directory.to_owned(), source })?;
    }
    Ok(pki::write_private(to, text.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kubeconfig_leads_to_the_current_certificate() {
        let dir = tempfile::tempdir().unwrap();
        let source = Kubeconfig::from_yaml(
            "apiVersion: v1\nkind: Config\ncurrent-context: c\ncontexts: [{name: c, context: {cluster: k, user: u}}]\n\
             clusters: [{name: k, cluster: {server: 'https://a:6443', certificate-authority-data: QUJD}}]\n\
             users: [{name: u, user: {token: abcdef.0123456789abcdef}}]\n",
        )
        .unwrap();
        let store = CertificateStore::client(dir.path());
        let to = dir.path().join("etc/kubeconfig");
        write_kubeconfig(&source, &store, &to).unwrap();
        let text = fs::read_to_string(&to).unwrap();
        assert!(!text.contains("0123456789abcdef"), "{text}");
        assert!(text.contains("https://a:6443") && text.contains("QUJD"), "{text}");
        let read = Kubeconfig::from_yaml(&text).unwrap();
        let user = read.auth_infos[0].auth_info.as_ref().unwrap();
        assert!(user.client_certificate.as_ref().unwrap().ends_with("kubelet-client-current.pem"));
        assert_eq!(user.client_certificate, user.client_key);
        assert!(!still_good(&to, Timestamp::now()).unwrap(), "there is no certificate yet");
        assert!(!still_good(&dir.path().join("none"), Timestamp::now()).unwrap());
    }
}
