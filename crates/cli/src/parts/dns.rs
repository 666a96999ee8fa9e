//! `cox dns`: the cluster DNS alone.
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use crate::output::Failure;

/// Flags of the cluster DNS.
#[derive(Args, Debug)]
pub struct Flags {
    /// How to reach the API server; in a pod, as its service account if absent.
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Addresses and ports to listen on, UDP and TCP.
    #[arg(long, value_delimiter = ',', required = true)]
    listen: Vec<SocketAddr>,
    /// Domain of the cluster.
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// Addresses of the kube-dns Service: ns.dns leads there, and questions are never forwarded there.
    #[arg(long, value_delimiter = ',')]
    service_ip: Vec<IpAddr>,
    /// Networks of pods and Services, whose addresses nobody else can name.
    #[arg(long, value_delimiter = ',')]
    network: Vec<ipnet::IpNet>,
    /// The resolvers that answer for all other names.
    #[arg(long, default_value = "/etc/resolv.conf")]
    resolv_conf: PathBuf,
}

/// Runs the DNS until it is asked to stop.
pub async fn run(flags: Box<Flags>) -> Result<ExitCode, Failure> {
    let stop = super::stop_on_signal()?;
    let client = match &flags.kubeconfig {
        Some(path) => super::client_of(path, "coredns").await?,
        None => {
            let agent = format!("coredns/{}", super::VERSION);
            let pod = client::Remote::in_cluster(&agent).map_err(|e| Failure::of(&e))?;
            pod.client().map_err(|e| Failure::of(&e))?
        }
    };
    let config = dns::Config {
        domain: flags.cluster_domain,
        resolv_conf: Some(flags.resolv_conf),
        service_ips: flags.service_ip,
        networks: flags.network,
        ..dns::Config::new(flags.listen)
    };
    super::ended(dns::run(config, client, stop).await)
}
