//! `cox kube-apiserver`.
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use apiserver::{
    ApiServer, Component, Config, EncryptionFile, HttpProbe, KubeletClient, ServiceAccounts, Serving,
    TlsFiles,
};
use clap::Args;

use super::admission::AdmissionFlags;
use super::api_server_identity::{AuthenticationFlags, TlsFlags};
use super::authorization::AuthorizationFlags;
use super::opened::Opened;
use crate::output::Failure;
use crate::parts::{go_duration, health, runtime_config};

/// Flags of the API server, with upstream's names.
#[derive(Args, Debug)]
pub struct Flags {
    /// Directory of the embedded store; without it, objects are kept in etcd.
    #[arg(long, conflicts_with = "etcd_servers", required_unless_present = "etcd_servers")]
    data_dir: Option<PathBuf>,
    /// Where objects are kept.
    #[command(flatten)]
    etcd: EtcdFlags,
    /// How secrets and more are sealed in the store: an EncryptionConfiguration.
    #[arg(long)]
    encryption_provider_config: Option<PathBuf>,
    /// Whether changes of that file are followed.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true", requires = "encryption_provider_config")]
    encryption_provider_config_automatic_reload: bool,
    /// What is recorded of requests.
    #[command(flatten)]
    audit: super::audit::Flags,
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// Port to listen on.
    #[arg(long, default_value_t = 6443)]
    secure_port: u16,
    /// Where others reach this server; the bind address if absent, or that of the default route where it listens on
    /// all addresses or on loopback alone.
    #[arg(long)]
    advertise_address: Option<IpAddr>,
    /// Serving certificate.
    #[arg(long)]
    tls_cert_file: PathBuf,
    /// Its key.
    #[arg(long)]
    tls_private_key_file: PathBuf,
    /// CA of client certificates; without it they say nothing.
    #[arg(long)]
    client_ca_file: Option<PathBuf>,
    /// Static tokens, CSV.
    #[arg(long)]
    token_auth_file: Option<PathBuf>,
    /// Who one is.
    #[command(flatten)]
    authentication: AuthenticationFlags,
    /// Versions, cipher suites, certificates for other names.
    #[command(flatten)]
    tls: TlsFlags,
    /// Who decides what one may.
    #[command(flatten)]
    authorization: AuthorizationFlags,
    /// What is changed or refused on the way in.
    #[command(flatten)]
    admission: AdmissionFlags,
    /// Signs service-account tokens.
    #[arg(long)]
    service_account_signing_key_file: PathBuf,
    /// Checks service-account tokens; may be given more than once.
    #[arg(long, required = true)]
    service_account_key_file: Vec<PathBuf>,
    /// Issuer of service-account tokens; of several, the first issues and all are believed.
    #[arg(long, required = true)]
    service_account_issuer: Vec<String>,
    /// The longest that service-account tokens last.
    #[arg(long, value_parser = super::go_duration)]
    service_account_max_token_expiration: Option<Duration>,
    /// Whether tokens of pods last a year, so that old clients which never read them again go on.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    service_account_extend_token_expiration: bool,
    /// Audiences of the API; the issuer if absent.
    #[arg(long, value_delimiter = ',')]
    api_audiences: Vec<String>,
    /// Whether tokens of Secrets of type bootstrap.kubernetes.io/token are taken; they are if absent.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    enable_bootstrap_token_auth: Option<bool>,
    /// Client certificate for kubelets.
    #[arg(long, requires_all = ["kubelet_client_key", "kubelet_certificate_authority"])]
    kubelet_client_certificate: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    kubelet_client_key: Option<PathBuf>,
    /// CA of the kubelets' serving certificates.
    #[arg(long)]
    kubelet_certificate_authority: Option<PathBuf>,
    /// Types of node addresses by which kubelets are reached, best first.
    #[arg(long, value_delimiter = ',', default_values = Config::KUBELET_ADDRESS_TYPES, value_parser = Config::KUBELET_ADDRESS_TYPES)]
    kubelet_preferred_address_types: Vec<String>,
    /// Whether containers may be privileged.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    allow_privileged: bool,
    /// How many API servers there are. Each says by itself that it is there, so that nothing depends on it.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
    apiserver_count: u32,
    /// How long events are kept.
    #[arg(long, default_value = "1h0m0s", value_parser = go_duration)]
    event_ttl: Duration,
    /// Versions of the API to serve or not: GROUP/VERSION=true|false, api/all, api/ga, api/beta, api/alpha.
    #[arg(long, value_delimiter = ',')]
    runtime_config: Vec<String>,
    /// Network of the Services.
    #[arg(long, default_value = "10.96.0.0/12")]
    service_cluster_ip_range: ipnet::Ipv4Net,
    /// Ports of NodePort Services.
    #[arg(long, default_value = "30000-32767", value_parser = port_range)]
    service_node_port_range: RangeInclusive<u16>,
    /// Load and time.
    #[command(flatten)]
    serving: ServingFlags,
}

/// How much is served at a time, and how long anything may take.
#[derive(Args, Debug)]
struct ServingFlags {
    /// Reading requests at a time; 0: no limit.
    #[arg(long, default_value_t = 400)]
    max_requests_inflight: usize,
    /// Writing requests at a time; 0: no limit.
    #[arg(long, default_value_t = 200)]
    max_mutating_requests_inflight: usize,
    /// How long a request may take that is neither a watch nor a stream.
    #[arg(long, default_value = "60s", value_parser = go_duration)]
    request_timeout: Duration,
    /// How many seconds a watch without a timeout of its own lasts at least.
    #[arg(long, default_value_t = 1800)]
    min_request_timeout: u64,
    /// How long a server that is asked to stop goes on while it says that it is not ready.
    #[arg(long, default_value = "0s", value_parser = go_duration)]
    shutdown_delay_duration: Duration,
    /// Chance that an HTTP/2 client is asked to connect anew, at most 0.02.
    #[arg(long, default_value_t = 0.0, value_parser = chance)]
    goaway_chance: f64,
}

impl From<ServingFlags> for Serving {
    fn from(flags: ServingFlags) -> Self {
        Self {
            max_requests_inflight: flags.max_requests_inflight,
            max_mutating_requests_inflight: flags.max_mutating_requests_inflight,
            request_timeout: flags.request_timeout,
            min_request_timeout: Duration::from_secs(flags.min_request_timeout),
            shutdown_delay: flags.shutdown_delay_duration,
            goaway_chance: flags.goaway_chance,
        }
    }
}

fn chance(text: &str) -> Result<f64, String> {
    match text.parse::<f64>() {
        Ok(chance) if (0.0..=0.02).contains(&chance) => Ok(chance),
        _ => Err("--goaway-chance can not be less than 0 or greater than 0.02".into()),
    }
}

/// Flags about etcd, with upstream's names.
#[derive(Args, Debug)]
struct EtcdFlags {
    /// URLs of the etcd members, comma separated.
    #[arg(long, value_delimiter = ',')]
    etcd_servers: Vec<String>,
    /// CA of etcd's serving certificates.
    #[arg(long)]
    etcd_cafile: Option<PathBuf>,
    /// Client certificate for etcd.
    #[arg(long, requires = "etcd_keyfile")]
    etcd_certfile: Option<PathBuf>,
    /// Its key.
    #[arg(long, requires = "etcd_certfile")]
    etcd_keyfile: Option<PathBuf>,
    /// Prefix of all keys in etcd.
    #[arg(long, default_value = "/registry")]
    etcd_prefix: String,
    /// How often etcd's history is forgotten; 0: never by this server.
    #[arg(long, default_value = "5m", value_parser = go_duration)]
    etcd_compaction_interval: Duration,
    /// Form of the storage.
    #[arg(long, default_value = "etcd3", value_parser = ["etcd3"])]
    storage_backend: String,
    /// Other etcds for some resources.
    #[arg(long, value_parser = no_overrides)]
    etcd_servers_overrides: Option<String>,
}

fn no_overrides(text: &str) -> Result<String, String> {
    if text.is_empty() {
        return Ok(String::new());
    }
    Err("all resources are kept in one etcd: leave it out, and move what the other etcd holds into the one that \
         --etcd-servers names"
        .into())
}

impl EtcdFlags {
    fn options(self) -> storage::etcd::Options {
        let client = self.etcd_certfile.zip(self.etcd_keyfile);
        let tls = self.etcd_cafile.map(|authority| storage::etcd::TlsFiles { authority, client });
        storage::etcd::Options {
            endpoints: self.etcd_servers,
            tls,
            prefix: self.etcd_prefix,
            compaction: Some(self.etcd_compaction_interval),
            ..storage::etcd::Options::default()
        }
    }
}

fn port_range(text: &str) -> Result<RangeInclusive<u16>, String> {
    let (first, last) = text.split_once('-').ok_or("want FIRST-LAST, for example 30000-32767")?;
    let number = |s: &str| s.trim().parse::<u16>().map_err(|e| format!("{s}: {e}"));
    let range = number(first)?..=number(last)?;
    if range.is_empty() { Err("the range is empty".into()) } else { Ok(range) }
}

/// Runs the API server until it is asked to stop.
pub async fn run(flags: Box<Flags>) -> Result<ExitCode, Failure> {
    let stop = super::stop_on_signal()?;
    let flags = *flags;
    let (authentication, anonymous) = flags.authentication.settled()?;
    let authorization = flags.authorization.settled()?;
    let admission = flags.admission.settled()?;
    let advertise = match flags.advertise_address {
        Some(address) => address,
        None if flags.bind_address.is_unspecified() || flags.bind_address.is_loopback() => {
            super::own_address("--advertise-address").await?
        }
        None => flags.bind_address,
    };
    // Where upstream asks them too: on this host, at the ports they have when nobody says another.
    let mut components: Vec<Arc<dyn Component>> = vec![
        Arc::new(HttpProbe::local("controller-manager", health::CONTROLLER_MANAGER_PORT)),
        Arc::new(HttpProbe::local("scheduler", health::SCHEDULER_PORT)),
    ];
    let opened = match flags.data_dir {
        Some(dir) => Opened::embedded(dir).await?,
        None => Opened::etcd(flags.etcd.options()).await?,
    };
    components.extend(opened.components);
    let kubelet = match (
        flags.kubelet_client_certificate,
        flags.kubelet_client_key,
        flags.kubelet_certificate_authority,
    ) {
        (Some(certificate), Some(key), Some(authority)) => {
            Some(KubeletClient { certificate, key, authority })
        }
        _ => None,
    };
    let not_served = runtime_config::not_served(&flags.runtime_config)
        .map_err(|what| Failure::new(what, "see --runtime-config"))?;
    tracing::debug!(count = flags.apiserver_count, "API servers tell of themselves with leases");
    let mut issuers = flags.service_account_issuer.into_iter();
    let issuer = issuers.next().unwrap_or_default();
    let config = Config {
        storage: opened.storage,
        audit: flags.audit.config(),
        encryption: flags
            .encryption_provider_config
            .map(|path| EncryptionFile { path, reload: flags.encryption_provider_config_automatic_reload }),
        listen: SocketAddr::new(flags.bind_address, flags.secure_port),
        advertise,
        tls: TlsFiles { certificate: flags.tls_cert_file, key: flags.tls_private_key_file },
        client_ca: flags.client_ca_file,
        token_file: flags.token_auth_file,
        anonymous,
        authentication,
        tls_options: flags.tls.settled(),
        authorization: authorization.modes,
        authorization_config: authorization.config,
        authorization_policy: authorization.policy,
        admission,
        service_accounts: ServiceAccounts {
            signing_key: flags.service_account_signing_key_file,
            keys: flags.service_account_key_file,
            issuer,
            former_issuers: issuers.collect(),
            max_token_expiration: flags.service_account_max_token_expiration,
            extend_token_expiration: flags.service_account_extend_token_expiration,
            audiences: flags.api_audiences,
        },
        bootstrap_tokens: flags.enable_bootstrap_token_auth.unwrap_or(true),
        kubelet,
        kubelet_address_types: flags.kubelet_preferred_address_types,
        allow_privileged: flags.allow_privileged,
        event_ttl: flags.event_ttl,
        not_served,
        service_cidr: flags.service_cluster_ip_range,
        node_ports: flags.service_node_port_range,
        shared: opened.shared,
        serving: flags.serving.into(),
        components,
    };
    let server = ApiServer::start(config, stop.clone()).await.map_err(|e| Failure::of(&e))?;
    tracing::info!(address = %server.address(), "the API server serves");
    stop.cancelled().await;
    server.stopped().await;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        flags: Flags,
    }

    fn parse(extra: &[&str]) -> Result<Flags, String> {
        use clap::Parser as _;
        let files = ["tls-cert-file", "tls-private-key-file", "client-ca-file"];
        let accounts =
            ["service-account-signing-key-file", "service-account-key-file", "service-account-issuer"];
        let needed = files.iter().chain(&accounts).map(|flag| format!("--{flag}=x"));
        let line = std::iter::once("kube-apiserver".to_owned()).chain(needed);
        Line::try_parse_from(line.chain(extra.iter().map(|s| (*s).to_owned())))
            .map(|line| line.flags)
            .map_err(|e| e.to_string())
    }

    #[test]
    fn etcd_or_a_directory_is_named() {
        assert!(parse(&["--data-dir=/x"]).is_ok());
        let flags =
            parse(&["--etcd-servers=https://a:2379,https://b:2379", "--storage-backend=etcd3"]).unwrap();
        assert_eq!(flags.etcd.etcd_servers, ["https://a:2379", "https://b:2379"]);
        assert_eq!(flags.etcd.etcd_compaction_interval, Duration::from_secs(300));
        assert!(parse(&[]).is_err());
        assert!(parse(&["--data-dir=/x", "--etcd-servers=https://a:2379"]).is_err());
        assert!(
            parse(&["--data-dir=/x", "--etcd-servers-overrides=/events#https://c:2379"])
                .is_err_and(|e| e.contains("one etcd"))
        );
        assert!(parse(&["--etcd-servers=https://a:2379", "--etcd-certfile=x"]).is_err());
    }

    #[test]
    fn chances_are_checked() {
        assert_eq!(chance("0.02"), Ok(0.02));
        assert!(chance("0.03").is_err() && chance("-1").is_err() && chance("x").is_err());
    }

    #[test]
    fn port_ranges_are_checked() {
        assert_eq!(port_range("30000-32767").unwrap(), 30000..=32767);
        assert!(port_range("3-1").is_err());
        assert!(port_range("x").is_err());
    }
}
