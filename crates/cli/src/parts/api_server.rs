//! `cox kube-apiserver`.
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use apiserver::{Anonymous, ApiServer, AuthorizationMode, Config, KubeletClient, ServiceAccounts, TlsFiles};
use clap::{Args, ValueEnum};
use storage::{Embedded, Options};

use super::api_server_identity::{AuthenticationFlags, TlsFlags};
use crate::output::Failure;

/// One of `--authorization-mode`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum Mode {
    /// Kubelets: what their pods need.
    #[value(name = "Node")]
    Node,
    /// Roles and bindings.
    #[value(name = "RBAC")]
    Rbac,
    /// Everybody may do everything.
    #[value(name = "AlwaysAllow")]
    AlwaysAllow,
    /// Nobody may do anything.
    #[value(name = "AlwaysDeny")]
    AlwaysDeny,
}

/// Flags of the API server, with upstream's names.
#[derive(Args, Debug)]
pub struct Flags {
    /// Directory of the embedded store.
    #[arg(long)]
    data_dir: PathBuf,
    /// Address to listen on.
    #[arg(long, default_value = "0.0.0.0")]
    bind_address: IpAddr,
    /// Port to listen on.
    #[arg(long, default_value_t = 6443)]
    secure_port: u16,
    /// Where others reach this server; the bind address if absent.
    #[arg(long)]
    advertise_address: Option<IpAddr>,
    /// Serving certificate.
    #[arg(long)]
    tls_cert_file: PathBuf,
    /// Its key.
    #[arg(long)]
    tls_private_key_file: PathBuf,
    /// CA of client certificates.
    #[arg(long)]
    client_ca_file: PathBuf,
    /// Static tokens, CSV.
    #[arg(long)]
    token_auth_file: Option<PathBuf>,
    /// Who one is.
    #[command(flatten)]
    authentication: AuthenticationFlags,
    /// Versions, cipher suites, certificates for other names.
    #[command(flatten)]
    tls: TlsFlags,
    /// Who decides what one may, in order.
    #[arg(long, value_delimiter = ',', default_value = "AlwaysAllow")]
    authorization_mode: Vec<Mode>,
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
    /// Client certificate for kubelets.
    #[arg(long, requires_all = ["kubelet_client_key", "kubelet_certificate_authority"])]
    kubelet_client_certificate: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    kubelet_client_key: Option<PathBuf>,
    /// CA of the kubelets' serving certificates.
    #[arg(long)]
    kubelet_certificate_authority: Option<PathBuf>,
    /// Network of the Services.
    #[arg(long, default_value = "10.96.0.0/12")]
    service_cluster_ip_range: ipnet::Ipv4Net,
    /// Ports of NodePort Services.
    #[arg(long, default_value = "30000-32767", value_parser = port_range)]
    service_node_port_range: RangeInclusive<u16>,
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
    let dir = flags.data_dir.clone();
    let storage = tokio::task::spawn_blocking(move || Embedded::open(&dir, Options::default()))
        .await
        .map_err(|e| Failure::of(&e))?
        .map_err(|e| Failure::of(&e))?;
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
    let (authentication, mut anonymous) = flags.authentication.settled()?;
    if flags.authorization_mode.iter().any(|m| matches!(m, Mode::AlwaysAllow)) && anonymous != Anonymous::Refused {
        tracing::warn!("anonymous requests are not allowed with the AlwaysAllow authorizer, refusing them");
        anonymous = Anonymous::Refused;
    }
    let mut issuers = flags.service_account_issuer.into_iter();
    let issuer = issuers.next().unwrap_or_default();
    let config = Config {
        storage: Arc::new(storage),
        listen: SocketAddr::new(flags.bind_address, flags.secure_port),
        advertise: flags.advertise_address.unwrap_or(flags.bind_address),
        tls: TlsFiles { certificate: flags.tls_cert_file, key: flags.tls_private_key_file },
        client_ca: flags.client_ca_file,
        token_file: flags.token_auth_file,
        anonymous,
        authentication,
        tls_options: flags.tls.settled(),
        authorization: flags
            .authorization_mode
            .iter()
            .map(|mode| match mode {
                Mode::Node => AuthorizationMode::Node,
                Mode::Rbac => AuthorizationMode::Rbac,
                Mode::AlwaysAllow => AuthorizationMode::AlwaysAllow,
                Mode::AlwaysDeny => AuthorizationMode::AlwaysDeny,
            })
            .collect(),
        service_accounts: ServiceAccounts {
            signing_key: flags.service_account_signing_key_file,
            keys: flags.service_account_key_file,
            issuer,
            former_issuers: issuers.collect(),
            max_token_expiration: flags.service_account_max_token_expiration,
            extend_token_expiration: flags.service_account_extend_token_expiration,
            audiences: flags.api_audiences,
        },
        kubelet,
        service_cidr: flags.service_cluster_ip_range,
        node_ports: flags.service_node_port_range,
        components: Vec::new(),
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

    #[test]
    fn port_ranges_are_checked() {
        assert_eq!(port_range("30000-32767").unwrap(), 30000..=32767);
        assert!(port_range("3-1").is_err());
        assert!(port_range("x").is_err());
    }
}
