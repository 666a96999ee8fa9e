//! What an API server is told.
use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use apiserver_admission::{DefaultTolerationSeconds, Selection, Settings};
use apiserver_authn::Anonymous;
pub use apiserver_authz::config::Mode as AuthorizationMode;
use apiserver_http::endpoints::Component;
use apiserver_http::{Serving, TlsFiles, TlsOptions};
use ipnet::Ipv4Net;
use storage::Storage;

use crate::authentication::Authentication;

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

impl ServiceAccounts {
    /// One issuer that is its own audience, and upstream's defaults for the rest.
    pub fn new(signing_key: PathBuf, keys: Vec<PathBuf>, issuer: &str) -> Self {
        Self {
            signing_key,
            keys,
            issuer: issuer.to_owned(),
            former_issuers: Vec::new(),
            max_token_expiration: None,
            extend_token_expiration: true,
            audiences: Vec::new(),
        }
    }
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

/// How values are sealed before they are stored.
#[derive(Debug, Clone)]
pub struct EncryptionFile {
    /// `--encryption-provider-config`.
    pub path: PathBuf,
    /// `--encryption-provider-config-automatic-reload`.
    pub reload: bool,
}

/// Which plugins of admission run, and how.
#[derive(Debug, Clone, Default)]
pub struct Admission {
    /// `--enable-admission-plugins`, `--disable-admission-plugins`.
    pub plugins: Selection,
    /// `--admission-control-config-file`.
    pub settings: Settings,
    /// `--default-not-ready-toleration-seconds`, `--default-unreachable-toleration-seconds`.
    pub tolerations: DefaultTolerationSeconds,
}

/// What an API server is told.
pub struct Config {
    /// Where objects are kept.
    pub storage: Arc<dyn Storage>,
    /// How they are sealed there; as they are without it.
    pub encryption: Option<EncryptionFile>,
    /// What is recorded of requests, and where.
    pub audit: Option<apiserver_audit::Config>,
    /// Address and port of the HTTPS listener.
    pub listen: SocketAddr,
    /// `--advertise-address`: where the `kubernetes` Service leads.
    pub advertise: IpAddr,
    /// `--tls-cert-file` and `--tls-private-key-file`.
    pub tls: TlsFiles,
    /// Versions, cipher suites, certificates for other names.
    pub tls_options: TlsOptions,
    /// `--client-ca-file`; without it, client certificates say nothing.
    pub client_ca: Option<PathBuf>,
    /// `--token-auth-file`.
    pub token_file: Option<PathBuf>,
    /// `--anonymous-auth`, or the paths that a configuration file names.
    pub anonymous: Anonymous,
    /// Issuers of tokens, a webhook, a front proxy.
    pub authentication: Authentication,
    /// `--authorization-mode`, in order.
    pub authorization: Vec<AuthorizationMode>,
    /// `--authorization-config`: says it in place of the modes, and is followed when it changes.
    pub authorization_config: Option<PathBuf>,
    /// `--authorization-policy-file`, for ABAC.
    pub authorization_policy: Option<PathBuf>,
    /// What is changed or refused on the way in.
    pub admission: Admission,
    /// Service-account tokens.
    pub service_accounts: ServiceAccounts,
    /// `--enable-bootstrap-token-auth`.
    pub bootstrap_tokens: bool,
    /// Client of kubelets; without one, logs and exec are refused.
    pub kubelet: Option<KubeletClient>,
    /// Types of node addresses by which kubelets are reached, best first (`--kubelet-preferred-address-types`).
    pub kubelet_address_types: Vec<String>,
    /// `--allow-privileged`: whether containers may be. It holds for all servers of a process.
    pub allow_privileged: bool,
    /// `--event-ttl`: how long events are kept.
    pub event_ttl: Duration,
    /// Groups and versions that are not served (`--runtime-config`).
    pub not_served: BTreeSet<(String, String)>,
    /// `--service-cluster-ip-range`.
    pub service_cidr: Ipv4Net,
    /// `--service-node-port-range`.
    pub node_ports: RangeInclusive<u16>,
    /// Whether other servers share the store: each says that it is there, and the `kubernetes` Service leads to all
    /// (`--endpoint-reconciler-type=lease`).
    pub shared: bool,
    /// Load and time.
    pub serving: Serving,
    /// What `componentstatuses` shows.
    pub components: Vec<Arc<dyn Component>>,
}

impl Config {
    /// How kubelets are reached where nothing else is said.
    pub const KUBELET_ADDRESS_TYPES: [&str; 5] =
        ["InternalIP", "Hostname", "InternalDNS", "ExternalDNS", "ExternalIP"];

    /// What upstream's server does when it is told nothing more: it listens on port 6443 of every address and allows
    /// everything.
    pub fn new(
        storage: Arc<dyn Storage>,
        tls: TlsFiles,
        client_ca: PathBuf,
        service_accounts: ServiceAccounts,
    ) -> Self {
        Self {
            storage,
            encryption: None,
            audit: None,
            listen: SocketAddr::from(([0, 0, 0, 0], 6443)),
            advertise: IpAddr::from([0, 0, 0, 0]),
            tls,
            client_ca: Some(client_ca),
            token_file: None,
            anonymous: Anonymous::Refused,
            authentication: Authentication::default(),
            tls_options: TlsOptions::default(),
            authorization: vec![AuthorizationMode::AlwaysAllow],
            authorization_config: None,
            authorization_policy: None,
            admission: Admission::default(),
            service_accounts,
            bootstrap_tokens: true,
            kubelet: None,
            kubelet_address_types: Self::KUBELET_ADDRESS_TYPES.map(str::to_owned).to_vec(),
            allow_privileged: true,
            event_ttl: Duration::from_secs(3600),
            not_served: BTreeSet::new(),
            service_cidr: Ipv4Net::new_assert(std::net::Ipv4Addr::new(10, 96, 0, 0), 12),
            node_ports: 30000..=32767,
            shared: false,
            serving: Serving::default(),
            components: Vec::new(),
        }
    }
}
