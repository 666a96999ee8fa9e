//! `cox kube-proxy`.
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use ipnet::IpNet;
use net::pod_network::{Vxlan, Way};

use crate::output::Failure;
use crate::parts::files::proxy::{self as file, ProxyFile};

/// Flags of the proxy, with upstream's names.
#[derive(Args, Debug)]
pub struct Flags {
    /// A KubeProxyConfiguration; of the other flags only --hostname-override and --kubeconfig count beside it.
    #[arg(long)]
    config: Option<PathBuf>,
    /// How to reach the API server; clientConnection.kubeconfig of the file if absent.
    #[arg(long, required_unless_present_any = ["config", "cleanup", "master"])]
    kubeconfig: Option<PathBuf>,
    /// URL of the API server; it wins over the kubeconfig's.
    #[arg(long)]
    master: Option<String>,
    /// Name of this node; the host's name if absent.
    #[arg(long)]
    hostname_override: Option<String>,
    /// Network of the pods; of two, one for each family, IPv4 is served.
    #[arg(long, value_delimiter = ',')]
    cluster_cidr: Vec<IpNet>,
    /// Address of this node; that of the default route if absent.
    #[arg(long)]
    bind_address: Option<IpAddr>,
    /// How Services are made real: nftables.
    #[arg(long)]
    proxy_mode: Option<String>,
    /// Which of this node's addresses serve node ports: networks, or "primary", which is what it does if absent.
    #[arg(long, value_delimiter = ',')]
    nodeport_addresses: Vec<String>,
    /// Shortest time between two changes of the rules, such as 1s.
    #[arg(long, value_parser = super::go_duration)]
    nftables_min_sync_period: Option<std::time::Duration>,
    /// How often to look whether somebody else changed the rules, such as 30s.
    #[arg(long, value_parser = super::go_duration)]
    nftables_sync_period: Option<std::time::Duration>,
    /// How pods of other nodes are reached: `routes` to nodes on one network, a `vxlan` between all nodes, or `none`,
    /// as another agent sees to it. Counts beside a file too; needs the network of the pods.
    #[arg(long, value_enum, default_value_t = PodNetwork::None)]
    pod_network: PodNetwork,
    /// Removes the rules and ends.
    #[arg(long)]
    cleanup: bool,
}

/// How pods of other nodes are reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum PodNetwork {
    None,
    Routes,
    Vxlan,
}

impl PodNetwork {
    fn way(self) -> Option<Way> {
        match self {
            Self::None => None,
            Self::Routes => Some(Way::Routes),
            Self::Vxlan => Some(Way::Vxlan(Vxlan::default())),
        }
    }
}

/// The network that is served, of one for each family.
pub fn ipv4_network(cidrs: &str) -> Result<Option<IpNet>, ipnet::AddrParseError> {
    let all: Vec<IpNet> =
        cidrs.split(',').filter(|c| !c.is_empty()).map(|c| c.trim().parse()).collect::<Result<_, _>>()?;
    Ok(v4_first(&all))
}

fn v4_first(all: &[IpNet]) -> Option<IpNet> {
    all.iter().find(|net| net.addr().is_ipv4()).or(all.first()).copied()
}

/// Whether there is such a mode here.
fn check_mode(mode: &str) -> Result<(), Failure> {
    match mode {
        "" | "nftables" => Ok(()),
        // Upstream's own default: what Services do is the same, and nobody has to change a file for it.
        "iptables" => {
            tracing::warn!("Services are made real with nftables, in place of iptables");
            Ok(())
        }
        "ipvs" => Err(Failure::new(
            format!("proxy mode {mode:?} is not supported: Services are made real with nftables"),
            "leave the mode out, or set it to nftables (--proxy-mode, or mode in the file)",
        )),
        other => Err(Failure::new(
            format!("unknown proxy mode {other:?}"),
            "leave the mode out, or set it to nftables",
        )),
    }
}

impl Flags {
    /// What was asked for, by flags or by the file.
    fn settled(&self) -> Result<ProxyFile, Failure> {
        let Some(path) = &self.config else {
            return Ok(ProxyFile {
                kubeconfig: self.kubeconfig.clone(),
                hostname_override: self.hostname_override.clone(),
                bind_address: self.bind_address,
                cluster_cidr: v4_first(&self.cluster_cidr),
                mode: self.proxy_mode.clone(),
                node_port_addresses: self.nodeport_addresses.clone(),
                min_sync_period: self.nftables_min_sync_period,
                sync_period: self.nftables_sync_period,
            });
        };
        let (mut file, warnings) = file::read(path)?;
        for warning in warnings {
            tracing::warn!(file = %path.display(), "{warning}");
        }
        let given = [
            ("--bind-address", self.bind_address.is_some()),
            ("--cluster-cidr", !self.cluster_cidr.is_empty()),
            ("--proxy-mode", self.proxy_mode.is_some()),
            ("--nodeport-addresses", !self.nodeport_addresses.is_empty()),
            ("--nftables-min-sync-period", self.nftables_min_sync_period.is_some()),
            ("--nftables-sync-period", self.nftables_sync_period.is_some()),
        ];
        for (flag, _) in given.iter().filter(|(_, given)| *given) {
            tracing::warn!("{flag} is ignored: --config is given");
        }
        file.kubeconfig = self.kubeconfig.clone().or(file.kubeconfig);
        file.hostname_override = self.hostname_override.clone().or(file.hostname_override);
        Ok(file)
    }
}

/// The node's addresses that serve node ports: none said means the main one.
fn node_port_addresses(wanted: &[String], own: &[IpAddr]) -> Result<Vec<IpAddr>, Failure> {
    if wanted.iter().all(|w| w == "primary") {
        return Ok(Vec::new());
    }
    let networks: Vec<IpNet> = wanted
        .iter()
        .map(|w| {
            w.parse().map_err(|e| {
                Failure::new(
                    format!("node port addresses: {w:?}: {e}"),
                    "name networks such as 192.0.2.0/24, or \"primary\" alone",
                )
            })
        })
        .collect::<Result<_, _>>()?;
    let found: Vec<IpAddr> = own.iter().copied().filter(|a| networks.iter().any(|n| n.contains(a))).collect();
    if found.is_empty() {
        return Err(Failure::new(
            format!("no address of this node is in {}", wanted.join(", ")),
            "see nodePortAddresses, --nodeport-addresses",
        ));
    }
    Ok(found)
}

/// Runs the proxy until it is asked to stop.
pub async fn run(flags: Box<Flags>) -> Result<ExitCode, Failure> {
    if flags.cleanup {
        return super::ended(proxy::cleanup(proxy::Config::TABLE).await.map(drop));
    }
    let settled = flags.settled()?;
    check_mode(settled.mode.as_deref().unwrap_or_default())?;
    if settled.kubeconfig.is_none() && flags.master.is_none() {
        return Err(Failure::new(
            "no kubeconfig is given",
            "name one with --kubeconfig, or with clientConnection.kubeconfig in the file",
        ));
    }
    let stop = super::stop_on_signal()?;
    let remote = super::remote(settled.kubeconfig.as_deref(), flags.master.as_deref(), "kube-proxy").await?;
    let client = remote.client().map_err(|e| Failure::of(&e))?;
    let address = match settled.bind_address.filter(|a| !a.is_unspecified()) {
        Some(address) => address,
        None => super::own_address("--bind-address").await?,
    };
    let node_port_addresses = if settled.node_port_addresses.is_empty() {
        Vec::new()
    } else {
        let own = net::host::addresses().await.map_err(|e| Failure::of(&e))?;
        let own: Vec<IpAddr> = own.into_iter().map(|a| a.address).collect();
        node_port_addresses(&settled.node_port_addresses, &own)?
    };
    let node = settled.hostname_override.unwrap_or_else(super::host_name).to_lowercase();
    let defaults = proxy::Config::new(node, vec![address]);
    let config = proxy::Config {
        cluster_cidr: settled.cluster_cidr,
        node_port_addresses,
        min_sync_period: settled.min_sync_period.unwrap_or(defaults.min_sync_period),
        verify_period: settled.sync_period.unwrap_or(defaults.verify_period),
        ..defaults
    };
    let Some(way) = flags.pod_network.way() else {
        return super::ended(proxy::run(config, client, stop).await);
    };
    let Some(IpNet::V4(cluster)) = config.cluster_cidr else {
        return Err(Failure::new(
            "--pod-network needs the network of all pods",
            "name it with --cluster-cidr, or with clusterCIDR in the file",
        ));
    };
    let pods = proxy::PodNetworkConfig {
        node_name: config.node_name.clone(),
        way,
        cluster,
        verify_period: POD_NETWORK_VERIFY,
    };
    let pods = proxy::keep_pod_network(pods, client.clone(), stop.clone());
    let services = async {
        let ended = proxy::run(config, client, stop.clone()).await;
        stop.cancel();
        ended
    };
    let ((), services) = tokio::join!(pods, services);
    super::ended(services)
}

/// How often to look whether somebody else changed the routes between nodes.
const POD_NETWORK_VERIFY: std::time::Duration = std::time::Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_that_are_not_there_are_told_with_what_to_do() {
        assert!(["", "nftables", "iptables"].into_iter().all(|mode| check_mode(mode).is_ok()));
        let failure = check_mode("ipvs").unwrap_err();
        assert!(failure.what.contains("ipvs") && failure.next.contains("nftables"), "{failure}");
        assert!(check_mode("ebpf").unwrap_err().what.contains("unknown proxy mode"));
    }

    #[test]
    fn node_ports_are_served_where_asked() {
        let own = [IpAddr::from([192, 0, 2, 7]), IpAddr::from([10, 0, 0, 7])];
        let ask = |wanted: &[&str]| {
            let wanted: Vec<String> = wanted.iter().map(|w| (*w).to_owned()).collect();
            node_port_addresses(&wanted, &own)
        };
        assert!(ask(&["primary"]).unwrap().is_empty());
        assert_eq!(ask(&["0.0.0.0/0"]).unwrap(), own);
        assert_eq!(ask(&["10.0.0.0/8"]).unwrap(), own[1..]);
        assert!(ask(&["203.0.113.0/24"]).unwrap_err().what.contains("no address"));
        assert!(ask(&["10.0.0.1"]).is_err());
    }

    #[test]
    fn of_two_networks_the_first_family_is_served() {
        let net = |text: &str| ipv4_network(text).unwrap().map(|n| n.to_string());
        assert_eq!(net("").as_deref(), None);
        assert_eq!(net("fd00::/48,10.244.0.0/16").as_deref(), Some("10.244.0.0/16"));
        assert!(ipv4_network("10.244.0.0/99").is_err());
    }
}
