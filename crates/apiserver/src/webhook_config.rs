//! The kubeconfig of a webhook: where a server is, whom to trust, who we are to it.
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::outbound::OutboundTrust;

/// A server that is asked, as a kubeconfig file names it.
#[derive(Debug, Clone)]
pub struct WebhookConfig {
    /// Where it is.
    pub url: String,
    /// Whom to trust, who we are.
    pub trust: OutboundTrust,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    current_context: Option<String>,
    #[serde(default)]
    clusters: Vec<NamedCluster>,
    #[serde(default)]
    users: Vec<NamedUser>,
    #[serde(default)]
    contexts: Vec<NamedContext>,
}

#[derive(Deserialize)]
struct NamedCluster {
    name: String,
    cluster: Cluster,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Cluster {
    server: String,
    certificate_authority: Option<String>,
    certificate_authority_data: Option<String>,
    tls_server_name: Option<String>,
}

#[derive(Deserialize)]
struct NamedUser {
    name: String,
    #[serde(default)]
    user: User,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case")]
struct User {
    client_certificate: Option<String>,
    client_certificate_data: Option<String>,
    client_key: Option<String>,
    client_key_data: Option<String>,
}

#[derive(Deserialize)]
struct NamedContext {
    name: String,
    context: Context,
}

#[derive(Deserialize)]
struct Context {
    cluster: String,
    #[serde(default)]
    user: String,
}

/// PEM given as base64 or as the path of a file, relative to the kubeconfig.
fn pem(base: &Path, data: Option<&String>, file: Option<&String>) -> Result<Option<String>, String> {
    if let Some(data) = data {
        let bytes = STANDARD.decode(data.trim()).map_err(|e| format!("data of a certificate or key: {e}"))?;
        return String::from_utf8(bytes).map(Some).map_err(|e| e.to_string());
    }
    let Some(file) = file.filter(|f| !f.is_empty()) else { return Ok(None) };
    let path = base.parent().unwrap_or(Path::new("/")).join(file);
    match pki::read(&path) {
        Ok(Some(text)) => Ok(Some(text)),
        Ok(None) => Err(format!("{} does not exist", path.display())),
        Err(error) => Err(format!("{error}: {}", error.source)),
    }
}

impl WebhookConfig {
    /// Reads the file and all that it leads to; the error says what is wrong.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = match pki::read(path) {
            Ok(Some(text)) => text,
            Ok(None) => return Err("it does not exist".into()),
            Err(error) => return Err(error.source.to_string()),
        };
        let file: File = serde_saphyr::from_str(&text).map_err(|e| e.to_string())?;
        let context = match file.current_context.as_deref().filter(|c| !c.is_empty()) {
            Some(name) => file.contexts.iter().find(|c| c.name == name),
            None => file.contexts.first(),
        };
        let context = &context.ok_or("it has no current context")?.context;
        let cluster = file.clusters.iter().find(|c| c.name == context.cluster);
        let cluster = &cluster.ok_or_else(|| format!("it has no cluster {:?}", context.cluster))?.cluster;
        let none = User::default();
        let user = file.users.iter().find(|u| u.name == context.user).map_or(&none, |u| &u.user);
        let authorities =
            pem(path, cluster.certificate_authority_data.as_ref(), cluster.certificate_authority.as_ref())?;
        let certificate = pem(path, user.client_certificate_data.as_ref(), user.client_certificate.as_ref())?;
        let key = pem(path, user.client_key_data.as_ref(), user.client_key.as_ref())?;
        Ok(Self {
            url: cluster.server.clone(),
            trust: OutboundTrust {
                authorities,
                identity: certificate.zip(key),
                server_name: cluster.tls_server_name.clone(),
            },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leads_to_a_server() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("ca.pem"), "CA").unwrap();
        let path = dir.path().join("webhook.yaml");
        let yaml = "apiVersion: v1\nkind: Config\ncurrent-context: w\nclusters: [{name: s, cluster: {server: 'https://a/b', \
                    certificate-authority: ca.pem}}]\nusers: [{name: u, user: {client-certificate-data: QQ==, client-key-data: \
                    Qg==}}]\ncontexts: [{name: w, context: {cluster: s, user: u}}]\n";
        std::fs::write(&path, yaml).unwrap();
        let read = WebhookConfig::read(&path).unwrap();
        assert_eq!((read.url.as_str(), read.trust.authorities.as_deref()), ("https://a/b", Some("CA")));
        assert_eq!(read.trust.identity, Some(("A".into(), "B".into())));
        std::fs::write(&path, yaml.replace("ca.pem", "none.pem")).unwrap();
        assert!(WebhookConfig::read(&path).unwrap_err().contains("none.pem does not exist"));
    }
}
