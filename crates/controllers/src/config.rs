//! What the operator may choose.
use std::time::Duration;

use ipnet::IpNet;

/// The controllers' configuration; values only.
#[derive(Debug, Clone)]
pub struct Config {
    /// Unique among the processes that may lead, for example the host's name and something random.
    pub identity: String,
    /// Take the Lease `kube-system/kube-controller-manager` first.
    pub leader_elect: bool,
    /// Pod networks to give nodes their parts of; empty: node IPAM does not run.
    pub cluster_cidrs: Vec<IpNet>,
    /// Size of a node's part, IPv4.
    pub node_cidr_mask_v4: u8,
    /// Size of a node's part, IPv6.
    pub node_cidr_mask_v6: u8,
    /// The CA bundle published as `kube-root-ca.crt`, PEM; empty: the publisher does not run.
    pub root_ca: String,
    /// As upstream's `--controllers`: `*`, names, and `-name` for those not to run.
    pub controllers: Vec<String>,
    /// How long a node may be silent before it is `Unknown`.
    pub node_monitor_grace: Duration,
    /// How long a node that never spoke may take to begin.
    pub node_startup_grace: Duration,
    /// How often nodes are looked at.
    pub node_monitor_period: Duration,
    /// How many ended pods are kept before the oldest are removed; 0: all.
    pub terminated_pod_threshold: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            identity: "cox".into(),
            leader_elect: true,
            cluster_cidrs: Vec::new(),
            node_cidr_mask_v4: 24,
            node_cidr_mask_v6: 64,
            root_ca: String::new(),
            controllers: vec!["*".into()],
            node_monitor_grace: Duration::from_secs(50),
            node_startup_grace: Duration::from_secs(60),
            node_monitor_period: Duration::from_secs(5),
            terminated_pod_threshold: 12_500,
        }
    }
}

impl Config {
    /// Whether a controller is to run.
    pub fn runs(&self, name: &str) -> bool {
        let mut all = false;
        for entry in &self.controllers {
            if entry == name {
                return true;
            }
            if entry.strip_prefix('-') == Some(name) {
                return false;
            }
            all |= entry == "*";
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_override_the_star() {
        let config = |list: &[&str]| Config {
            controllers: list.iter().map(|s| (*s).to_owned()).collect(),
            ..Config::default()
        };
        assert!(config(&["*"]).runs("job-controller"));
        assert!(!config(&["*", "-job-controller"]).runs("job-controller"));
        assert!(config(&["job-controller"]).runs("job-controller"));
        assert!(!config(&["job-controller"]).runs("cronjob-controller"));
    }
}
