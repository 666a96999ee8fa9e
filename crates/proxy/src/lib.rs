//! Services to nftables: observe, render, apply.
//!
//! One task: it reads Services and EndpointSlices through shared informers, turns the Services that changed into rules
//! and writes what differs as one transaction, at once for the first change and then at most every
//! [`Config::min_sync_period`].
//! Read [`desired::ports`] (objects to model), then [`rules::service`] (model to rules); [`run`] is the loop.
//! It owns one table of the kernel and touches no other. Beside it, [`keep_pod_network`] keeps the way to other nodes'
//! pods, which upstream's proxy leaves to others: a node needs one program less. What it is not: no load balancer.

mod apply;
pub mod desired;
mod flows;
pub mod objects;
mod observe;
mod pod_network;
pub mod rules;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use base::Chain;
use client::Informers;
use ipnet::{IpNet, Ipv4Net};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use apply::cleanup;
pub use pod_network::{PodNetworkConfig, keep_pod_network};

use crate::apply::Table;
use crate::observe::Observed;
use crate::rules::Base;

/// What a proxy needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// The node that endpoints of this host name.
    pub node_name: String,
    /// This host's addresses, the main one first.
    pub node_ips: Vec<IpAddr>,
    /// Addresses of pods, of the whole cluster; what pods send elsewhere leaves with the node's address.
    pub cluster_cidr: Option<IpNet>,
    /// Addresses of Services; those that are not taken are dropped.
    pub service_cidr: Option<IpNet>,
    /// Addresses that serve node ports; none means `node_ips`. Loopback never does.
    pub node_port_addresses: Vec<IpAddr>,
    /// Name of the table in the kernel; has to differ between clusters of one host.
    pub table: String,
    /// Shortest time between two syncs.
    pub min_sync_period: Duration,
    /// How often to look whether somebody else changed the table.
    pub verify_period: Duration,
}

impl Config {
    /// The table's usual name.
    pub const TABLE: &str = "cox-proxy";

    /// The usual configuration of a node.
    pub fn new(node_name: impl Into<String>, node_ips: Vec<IpAddr>) -> Self {
        Self {
            node_name: node_name.into(),
            node_ips,
            cluster_cidr: None,
            service_cidr: None,
            node_port_addresses: Vec::new(),
            table: Self::TABLE.into(),
            min_sync_period: Duration::from_millis(100),
            verify_period: Duration::from_secs(300),
        }
    }
}

/// Why a proxy cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The table's name would not do as one.
    #[error("`{0}` is no name for a table: letters, digits, `-` and `_`, a letter first, at most 60")]
    TableName(String),
}

/// Serves Services on this node until `stop`; the rules stay, so that traffic flows while nobody watches them.
///
/// Has to run on the network namespace that it is to serve.
pub async fn run(config: Config, client: kube::Client, stop: CancellationToken) -> Result<(), Error> {
    check_table_name(&config.table)?;
    let informers = Informers::new(client);
    let mut observed = Observed::new(&informers, config.node_name.clone());
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = observed.synced() => {}
    }
    prepare_host(&config.table).await;
    let base = base_rules(&config);
    let node_addresses = base.node_port_addresses.clone();
    let mut table = Table::new(config.table.clone(), base);
    let mut backoff = client::Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    let mut verify_at = Instant::now() + config.verify_period;
    loop {
        let started = Instant::now();
        let changes = observed.take();
        let keys: Vec<_> = changes.iter().map(|c| (&c.key, c.ports.as_slice())).collect();
        let wait = match table.sync(&keys).await {
            Ok(applied) => {
                backoff.reset();
                if applied.whole {
                    tracing::info!(
                        table = config.table,
                        services = observed.len(),
                        "wrote all service rules"
                    );
                } else if applied.changes > 0 {
                    tracing::debug!(
                        services = changes.len(), changes = applied.changes, took = ?started.elapsed(),
                        "changed service rules"
                    );
                }
                None
            }
            Err(error) => {
                tracing::error!(error = %Chain(&error), table = config.table, "cannot write service rules");
                Some(backoff.fail())
            }
        };
        let ports: Vec<_> = changes.into_iter().flat_map(observe::Changed::with_gone).collect();
        flows::forget_stale(&ports, &node_addresses).await;

        // Failed: once more after a while. Otherwise as soon as something changes, but not too often.
        if let Some(delay) = wait {
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                () = tokio::time::sleep(delay) => continue,
            }
        }
        let verify = tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = observed.changed() => false,
            () = tokio::time::sleep_until(verify_at) => true,
        };
        if verify {
            verify_at = Instant::now() + config.verify_period;
            match table.verify().await {
                Ok(true) => {}
                Ok(false) => tracing::warn!(table = config.table, "somebody else changed the service rules"),
                Err(error) => tracing::warn!(error = %Chain(&error), "cannot read the service rules back"),
            }
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = tokio::time::sleep_until(started + config.min_sync_period) => {}
        }
    }
}

fn check_table_name(name: &str) -> Result<(), Error> {
    let fits = name.len() <= 60
        && name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-' || c == '_');
    if fits { Ok(()) } else { Err(Error::TableName(name.to_owned())) }
}

fn base_rules(config: &Config) -> Base {
    let v4_net = |net: Option<IpNet>| -> Option<Ipv4Net> {
        match net? {
            IpNet::V4(net) => Some(net.trunc()),
            IpNet::V6(_) => None,
        }
    };
    let addresses =
        if config.node_port_addresses.is_empty() { &config.node_ips } else { &config.node_port_addresses };
    let v4 = addresses.iter().filter_map(|a| match a {
        IpAddr::V4(a) if !a.is_loopback() && !a.is_unspecified() => Some(*a),
        _ => None,
    });
    let mut node_port_addresses: Vec<Ipv4Addr> = v4.collect();
    node_port_addresses.sort_unstable();
    node_port_addresses.dedup();
    Base {
        cluster_cidr: v4_net(config.cluster_cidr),
        service_cidr: v4_net(config.service_cidr),
        node_port_addresses,
    }
}

/// Lets the kernel forward packets, and says so if another firewall will not.
async fn prepare_host(table: &str) {
    const FORWARD: &str = "/proc/sys/net/ipv4/ip_forward";
    match std::fs::read_to_string(FORWARD) {
        Ok(on) if on.trim() == "1" => {}
        _ => match std::fs::write(FORWARD, "1") {
            Ok(()) => tracing::info!(setting = "net.ipv4.ip_forward", "packets between pods are forwarded"),
            Err(error) => tracing::warn!(
                %error, setting = "net.ipv4.ip_forward", "cannot let the kernel forward packets; pods will not reach each other"
            ),
        },
    }
    match apply::forward_drops(table).await {
        Ok(chains) => {
            for chain in chains {
                tracing::warn!(
                    chain,
                    "another firewall drops what is forwarded by default; pods may not reach anything"
                );
            }
        }
        Err(error) => tracing::debug!(error = %Chain(&error), "cannot look for other firewalls"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_names_are_names_of_tables() {
        for name in ["cox-proxy", "a", "cox_2"] {
            assert!(check_table_name(name).is_ok(), "{name}");
        }
        for name in ["", "2x", "a b", "a;flush ruleset", "a\nb", &"a".repeat(61)] {
            assert!(check_table_name(name).is_err(), "{name}");
        }
    }

    #[test]
    fn node_ports_are_served_at_the_nodes_own_ipv4_addresses() {
        let ip = |a: &str| a.parse::<IpAddr>().expect("an address");
        let mut config = Config::new("n", vec![ip("192.0.2.2"), ip("fd00::2"), ip("127.0.0.1")]);
        config.cluster_cidr = "10.244.1.2/16".parse().ok();
        let base = base_rules(&config);
        assert_eq!(base.node_port_addresses, [Ipv4Addr::new(192, 0, 2, 2)]);
        assert_eq!(base.cluster_cidr, "10.244.0.0/16".parse().ok());
        config.node_port_addresses = vec![ip("10.0.0.4")];
        assert_eq!(base_rules(&config).node_port_addresses, [Ipv4Addr::new(10, 0, 0, 4)]);
    }
}
