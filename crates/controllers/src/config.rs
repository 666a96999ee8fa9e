//! What the operator may choose.
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;

use crate::certificates::SignerFiles;

/// The controllers' configuration; values only.
#[derive(Debug, Clone)]
pub struct Config {
    /// Unique among the processes that may lead, for example the host's name and something random.
    pub identity: String,
    /// Take the Lease `kube-system/kube-controller-manager` first.
    pub leader_elect: bool,
    /// Pod networks to give nodes their parts of; empty: node IPAM does not run.
    pub cluster_cidrs: Vec<IpNet>,
    /// Networks of the Services, of which nodes are given no part.
    pub service_cidrs: Vec<IpNet>,
    /// Size of a node's part, IPv4.
    pub node_cidr_mask_v4: u8,
    /// Size of a node's part, IPv6.
    pub node_cidr_mask_v6: u8,
    /// The CA bundle published as `kube-root-ca.crt`, PEM; empty: the publisher does not run.
    pub root_ca: String,
    /// As upstream's `--controllers`: `*`, names, and `-name` for those not to run.
    pub controllers: Vec<String>,
    /// The key that signs the tokens of Secrets (`--service-account-private-key-file`); none: that controller does not
    /// run.
    pub service_account_key: Option<PathBuf>,
    /// The authorities that sign certificate requests, by signer name; empty: the signing controller does not run.
    pub signers: BTreeMap<String, SignerFiles>,
    /// The longest that signed certificates last (`--cluster-signing-duration`).
    pub signing_duration: Duration,
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
            service_cidrs: Vec::new(),
            node_cidr_mask_v4: 24,
            node_cidr_mask_v6: 64,
            root_ca: String::new(),
            controllers: vec!["*".into()],
            service_account_key: None,
            signers: BTreeMap::new(),
            signing_duration: Duration::from_secs(365 * 24 * 3600),
            node_monitor_grace: Duration::from_secs(50),
            node_startup_grace: Duration::from_secs(60),
            node_monitor_period: Duration::from_secs(5),
            terminated_pod_threshold: 12_500,
        }
    }
}

impl Config {
    /// Whether a controller is to run. The star stands for all but those that upstream turns on by name alone.
    pub fn runs(&self, name: &str) -> bool {
        let mut all = false;
        for entry in &self.controllers {
            let (on, entry) = entry.strip_prefix('-').map_or((true, entry.as_str()), |e| (false, e));
            if current_name(entry) == name {
                return on;
            }
            all |= on && entry == "*";
        }
        all && name != "bootstrap-signer-controller"
    }
}

/// The name of today for one that controllers had before Kubernetes 1.28; kubeadm still writes some of them.
fn current_name(name: &str) -> &str {
    match name {
        "serviceaccount-token" => "serviceaccount-token-controller",
        "endpoint" => "endpoints-controller",
        "endpointslice" => "endpointslice-controller",
        "podgc" => "pod-garbage-collector-controller",
        "resourcequota" => "resourcequota-controller",
        "namespace" => "namespace-controller",
        "serviceaccount" => "serviceaccount-controller",
        "garbagecollector" => "garbage-collector-controller",
        "daemonset" => "daemonset-controller",
        "job" => "job-controller",
        "deployment" => "deployment-controller",
        "replicaset" => "replicaset-controller",
        "replicationcontroller" => "replicationcontroller-controller",
        "statefulset" => "statefulset-controller",
        "cronjob" => "cronjob-controller",
        "csrsigning" => "certificatesigningrequest-signing-controller",
        "csrapproving" => "certificatesigningrequest-approving-controller",
        "csrcleaner" => "certificatesigningrequest-cleaner-controller",
        "bootstrapsigner" => "bootstrap-signer-controller",
        "tokencleaner" => "token-cleaner-controller",
        "nodeipam" => "node-ipam-controller",
        "nodelifecycle" => "node-lifecycle-controller",
        "ttl-after-finished" => "ttl-after-finished-controller",
        "root-ca-cert-publisher" => "root-ca-certificate-publisher-controller",
        same => same,
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
        assert!(!config(&["*"]).runs("bootstrap-signer-controller"));
        assert!(config(&["*", "bootstrapsigner"]).runs("bootstrap-signer-controller"));
        assert!(!config(&["*", "-csrsigning"]).runs("certificatesigningrequest-signing-controller"));
    }
}
