//! `cox kube-proxy`.
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use ipnet::IpNet;

use crate::output::Failure;

/// Flags of the proxy, with upstream's names.
#[derive(Args, Debug)]
pub struct Flags {
    /// How to reach the API server.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Name of this node; the host's name if absent.
    #[arg(long)]
    hostname_override: Option<String>,
    /// Network of the pods.
    #[arg(long)]
    cluster_cidr: Option<IpNet>,
    /// Address of this node; that of the default route if absent.
    #[arg(long)]
    bind_address: Option<IpAddr>,
    /// How Services are made real.
    #[arg(long, default_value = "nftables", value_parser = ["nftables"])]
    proxy_mode: String,
    /// Removes the rules and ends.
    #[arg(long)]
    cleanup: bool,
}

/// Runs the proxy until it is asked to stop.
pub async fn run(flags: Box<Flags>) -> Result<ExitCode, Failure> {
    if flags.cleanup {
        return super::ended(proxy::cleanup(proxy::Config::TABLE).await.map(drop));
    }
    let stop = super::stop_on_signal()?;
    let client = super::client_of(&flags.kubeconfig, "kube-proxy").await?;
    let address = match flags.bind_address.filter(|a| !a.is_unspecified()) {
        Some(address) => address,
        None => super::own_address().await?,
    };
    let node = flags.hostname_override.unwrap_or_else(super::host_name);
    let config =
        proxy::Config { cluster_cidr: flags.cluster_cidr, ..proxy::Config::new(node, vec![address]) };
    super::ended(proxy::run(config, client, stop).await)
}
