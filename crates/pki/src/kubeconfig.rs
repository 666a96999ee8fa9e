//! Kubeconfigs: read and written in the shape `kubectl config` gives them, credentials inside.

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde::Serialize;

/// How the user of a [`Kubeconfig`] proves who it is. Prints without the secrets.
#[derive(Clone, PartialEq, Eq)]
pub enum Credentials {
    /// A client certificate and its key, both PEM.
    ClientCertificate {
        /// The certificate.
        certificate_pem: String,
        /// Its key.
        key_pem: String,
    },
    /// A bearer token.
    Token(String),
}

impl std::fmt::Debug for Credentials {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::ClientCertificate { .. } => "ClientCertificate(secret)",
            Self::Token(_) => "Token(secret)",
        })
    }
}

/// A kubeconfig of one cluster, one user, one context.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kubeconfig {
    /// Name of the cluster entry.
    pub cluster: String,
    /// URL of the API server.
    pub server: String,
    /// Who to trust, as PEM.
    pub authority_pem: String,
    /// Name of the user entry.
    pub user: String,
    /// What the user has.
    pub credentials: Credentials,
    /// Namespace of the context, if not `default`.
    pub namespace: Option<String>,
}

impl Kubeconfig {
    /// Name of the context: `user@cluster`, as kubeadm names it.
    pub fn context(&self) -> String {
        format!("{}@{}", self.user, self.cluster)
    }

    /// The file's text.
    pub fn to_yaml(&self) -> String {
        let encode = |text: &str| STANDARD.encode(text);
        let user = match &self.credentials {
            Credentials::ClientCertificate { certificate_pem, key_pem } => UserData {
                client_certificate_data: Some(encode(certificate_pem)),
                client_key_data: Some(encode(key_pem)),
                token: None,
            },
            Credentials::Token(token) => UserData { token: Some(token), ..UserData::default() },
        };
        let file = File {
            api_version: "v1",
            clusters: [ClusterEntry {
                cluster: ClusterData {
                    certificate_authority_data: encode(&self.authority_pem),
                    server: &self.server,
                },
                name: &self.cluster,
            }],
            contexts: [ContextEntry {
                context: ContextData {
                    cluster: &self.cluster,
                    namespace: self.namespace.as_deref(),
                    user: &self.user,
                },
                name: self.context(),
            }],
            current_context: self.context(),
            kind: "Config",
            users: [UserEntry { name: &self.user, user }],
        };
        kubeconfig_yaml(&file)
    }
}

/// As `kubectl` writes it: certificates and keys in one line each.
pub fn kubeconfig_yaml(file: &impl Serialize) -> String {
    let mut options = serde_saphyr::SerializerOptions::default();
    options.prefer_block_scalars = false;
    options.compact_list_indent = true;
    let mut text = String::new();
    serde_saphyr::to_fmt_writer_with_options(&mut text, file, options)
        .expect("strings, lists and maps always have a YAML form");
    text
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct File<'a> {
    #[serde(rename = "apiVersion")]
    api_version: &'a str,
    clusters: [ClusterEntry<'a>; 1],
    contexts: [ContextEntry<'a>; 1],
    current_context: String,
    kind: &'a str,
    users: [UserEntry<'a>; 1],
}

#[derive(Serialize)]
struct ClusterEntry<'a> {
    cluster: ClusterData<'a>,
    name: &'a str,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct ClusterData<'a> {
    certificate_authority_data: String,
    server: &'a str,
}

#[derive(Serialize)]
struct ContextEntry<'a> {
    context: ContextData<'a>,
    name: String,
}

#[derive(Serialize)]
struct ContextData<'a> {
    cluster: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    namespace: Option<&'a str>,
    user: &'a str,
}

#[derive(Serialize)]
struct UserEntry<'a> {
    name: &'a str,
    user: UserData<'a>,
}

#[derive(Default, Serialize)]
#[serde(rename_all = "kebab-case")]
struct UserData<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    client_certificate_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    client_key_data: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    token: Option<&'a str>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn has_the_shape_kubectl_writes() {
        let file = Kubeconfig {
            cluster: "home".into(),
            server: "https://127.0.0.1:6443".into(),
            authority_pem: "CA".into(),
            user: "kubernetes-admin".into(),
            credentials: Credentials::Token("abc".into()),
            namespace: None,
        };
        let want = "\
apiVersion: v1
clusters:
- cluster:
    certificate-authority-data: Q0E=
    server: https://127.0.0.1:6443
  name: home
contexts:
- context:
    cluster: home
    user: kubernetes-admin
  name: kubernetes-admin@home
current-context: kubernetes-admin@home
kind: Config
users:
- name: kubernetes-admin
  user:
    token: abc
";
        assert_eq!(file.to_yaml(), want);
        assert!(!format!("{file:?}").contains("abc"));
    }
}
