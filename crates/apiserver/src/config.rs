//! What an API server is told.
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use apiserver_authn::Anonymous;
use apiserver_http::endpoints::Component;
use apiserver_http::{TlsFiles, TlsOptions};
use ipnet::Ipv4Net;
use storage::Storage;

use crate::authentication::Authentication;

/// One of `--authorization-mode`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthorizationMode {
    /// `Node`.
    Node,
    /// `RBAC`.
    Rbac,
    /// `AlwaysAllow`.
    AlwaysAllow,
    /// `AlwaysDeny`.
    AlwaysDeny,
}

/// How service-account tokens are made and checked.
#[derive(Debug, Clone)]
pub struct ServiceAccounts {
    /// `--service-account-signing-key-file`.
    pub signing_key: PathBuf,
    /// `--service-account-key-file`.
    pub keys: Vec<PathBuf>,
    /// The first `--service-account-issuer`.
    pub issuer: String,
    /// The others: their tokens are still good.
    pub former_issuers: Vec<String>,
    /// `--service-account-max-token-expiration`.
    pub max_token_expiration: Option<Duration>,
    /// `--service-account-extend-token-expiration`.
    pub extend_token_expiration: bool,
    /// `--api-audiences`; empty: the issuer.
    pub audiences: Vec<String>,
}

/// How kubelets are reached.
#[derive(Debug, Clone)]
pub struct KubeletClient {
    /// `--kubelet-client-certificate`.
    pub certificate: PathBuf,
    /// `--kubelet-client-key`.
    pub key: PathBuf,
    /// `--kubelet-certificate-authority`.
    pub authority: PathBuf,
}

/// What an API server is told.
pub struct Config {
    /// Where objects are kept.
    pub storage: Arc<dyn Storage>,
    /// Address and port of the HTTPS listener.
    pub listen: SocketAddr,
    /// `--advertise-address`: where the `kubernetes` Service leads.
    pub advertise: IpAddr,
    /// `--tls-cert-file` and `--tls-private-key-file`.
    pub tls: TlsFiles,
    /// Versions, cipher suites, certificates for other names.
    pub tls_options: TlsOptions,
    /// `--client-ca-file`.
    pub client_ca: PathBuf,
    /// `--token-auth-file`.
    pub token_file: Option<PathBuf>,
    /// `--anonymous-auth`, or the paths that a configuration file names.
    pub anonymous: Anonymous,
    /// Issuers of tokens, a webhook, a front proxy.
    pub authentication: Authentication,
    /// `--authorization-mode`, in order.
    pub authorization: Vec<AuthorizationMode>,
    /// Service-account tokens.
    pub service_accounts: ServiceAccounts,
    /// Client of kubelets; without one, logs and exec are refused.
    pub kubelet: Option<KubeletClient>,
    /// `--service-cluster-ip-range`.
    pub service_cidr: Ipv4Net,
    /// `--service-node-port-range`.
    pub node_ports: RangeInclusive<u16>,
    /// Whether other servers share the store: each says that it is there, and the `kubernetes` Service leads to all
    /// (`--endpoint-reconciler-type=lease`).
    pub shared: bool,
    /// What `componentstatuses` shows.
    pub components: Vec<Arc<dyn Component>>,
}
