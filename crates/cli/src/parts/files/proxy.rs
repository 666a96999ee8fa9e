//! `KubeProxyConfiguration`. Upstream: k8s.io/kube-proxy/config/v1alpha1, 1.36.
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use ipnet::IpNet;

use super::{Fields, Ignored, LOGGING, Wrong, load};
use crate::output::Failure;

/// What the proxy takes from the file.
#[derive(Debug, Default, PartialEq)]
pub struct ProxyFile {
    /// `clientConnection.kubeconfig`.
    pub kubeconfig: Option<PathBuf>,
    /// `hostnameOverride`.
    pub hostname_override: Option<String>,
    /// `bindAddress`.
    pub bind_address: Option<IpAddr>,
    /// `clusterCIDR`.
    pub cluster_cidr: Option<IpNet>,
    /// `mode`.
    pub mode: Option<String>,
    /// `nodePortAddresses`: networks of this node's addresses, or `primary`.
    pub node_port_addresses: Vec<String>,
    /// `nftables.minSyncPeriod`.
    pub min_sync_period: Option<Duration>,
    /// `nftables.syncPeriod`.
    pub sync_period: Option<Duration>,
}

const IGNORED: &Ignored = &[
    ("featureGates", "null"),
    ("clientConnection.acceptContentTypes", "null"),
    ("clientConnection.contentType", "\"application/vnd.kubernetes.protobuf\""),
    ("clientConnection.qps", "5"),
    ("clientConnection.burst", "10"),
    ("logging", LOGGING),
    ("healthzBindAddress", "\"0.0.0.0:10256\""),
    ("metricsBindAddress", "\"127.0.0.1:10249\""),
    ("bindAddressHardFail", "false"),
    ("enableProfiling", "false"),
    ("showHiddenMetricsForVersion", "null"),
    ("iptables", r#"{"masqueradeAll":false,"masqueradeBit":14,"localhostNodePorts":true}"#),
    ("ipvs", r#"{"strictARP":false}"#),
    ("nftables.masqueradeAll", "false"),
    ("nftables.masqueradeBit", "14"),
    ("winkernel", r#"{"enableDSR":false,"forwardHealthCheckVip":false}"#),
    ("windowsRunAsService", "false"),
    ("detectLocalMode", "\"ClusterCIDR\""),
    ("detectLocal", "null"),
    ("oomScoreAdj", "-999"),
    ("portRange", "null"),
    (
        "conntrack",
        r#"{"maxPerCore":32768,"min":131072,"tcpBeLiberal":false,"tcpEstablishedTimeout":"24h0m0s",
            "tcpCloseWaitTimeout":"1h0m0s"}"#,
    ),
    ("configSyncPeriod", "\"15m0s\""),
];

/// Reads the file; answers what it says, and the warnings.
pub fn read(path: &Path) -> Result<(ProxyFile, Vec<String>), Failure> {
    load(path, "kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration", fields, IGNORED)
}

fn fields(f: &mut Fields) -> Result<ProxyFile, Wrong> {
    let mut file = ProxyFile {
        kubeconfig: f.take("clientConnection.kubeconfig")?,
        hostname_override: f.take("hostnameOverride")?,
        bind_address: f.text("bindAddress")?,
        cluster_cidr: None,
        mode: f.take("mode")?,
        node_port_addresses: f.take("nodePortAddresses")?.unwrap_or_default(),
        min_sync_period: f.duration("nftables.minSyncPeriod")?,
        sync_period: f.duration("nftables.syncPeriod")?,
    };
    let cidrs: String = f.take("clusterCIDR")?.unwrap_or_default();
    file.cluster_cidr =
        super::super::proxy::ipv4_network(&cidrs).map_err(|e| f.invalid("clusterCIDR", &e))?;
    // What kubeadm leaves empty is not set.
    file.kubeconfig = file.kubeconfig.filter(|path| !path.as_os_str().is_empty());
    file.hostname_override = file.hostname_override.filter(|name| !name.is_empty());
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::super::parse;
    use super::*;

    fn file(text: &str) -> Result<(ProxyFile, Vec<String>), Wrong> {
        let text =
            format!("apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n{text}");
        parse(&text, "kubeproxy.config.k8s.io/v1alpha1", "KubeProxyConfiguration", fields, IGNORED)
    }

    #[test]
    fn what_kubeadm_writes_is_taken_without_a_word() {
        let (file, warnings) = file(
            "bindAddress: 0.0.0.0\nbindAddressHardFail: false\nclientConnection:\n  acceptContentTypes: \"\"\n  burst: 0\n  \
             contentType: \"\"\n  kubeconfig: /var/lib/kube-proxy/kubeconfig.conf\n  qps: 0\nclusterCIDR: 10.244.0.0/16\n\
             configSyncPeriod: 0s\nconntrack:\n  maxPerCore: null\n  min: null\n  tcpBeLiberal: false\n  \
             tcpCloseWaitTimeout: null\n  tcpEstablishedTimeout: null\n  udpStreamTimeout: 0s\n  udpTimeout: 0s\n\
             detectLocal:\n  bridgeInterface: \"\"\n  interfaceNamePrefix: \"\"\ndetectLocalMode: \"\"\n\
             enableProfiling: false\nhealthzBindAddress: \"\"\nhostnameOverride: \"\"\niptables:\n  \
             localhostNodePorts: null\n  masqueradeAll: false\n  masqueradeBit: null\n  minSyncPeriod: 0s\n  syncPeriod: 0s\n\
             logging:\n  flushFrequency: 0\n  options:\n    json:\n      infoBufferSize: \"0\"\n    text:\n      \
             infoBufferSize: \"0\"\n  verbosity: 0\nmetricsBindAddress: \"\"\nmode: \"\"\nnftables:\n  \
             masqueradeAll: false\n  masqueradeBit: null\n  minSyncPeriod: 0s\n  syncPeriod: 0s\nnodePortAddresses: null\n\
             oomScoreAdj: null\nportRange: \"\"\nshowHiddenMetricsForVersion: \"\"\nwindowsRunAsService: false\n",
        )
        .unwrap();
        assert_eq!(warnings, [""; 0]);
        let expect = ProxyFile {
            kubeconfig: Some("/var/lib/kube-proxy/kubeconfig.conf".into()),
            bind_address: Some(IpAddr::from([0, 0, 0, 0])),
            cluster_cidr: Some("10.244.0.0/16".parse().unwrap()),
            mode: Some(String::new()),
            ..ProxyFile::default()
        };
        assert_eq!(file, expect);
    }

    #[test]
    fn what_is_not_done_is_named() {
        let (_, warnings) = file("conntrack: {maxPerCore: 3}\nnftables: {masqueradeAll: true}").unwrap();
        assert_eq!(
            warnings,
            [
                "conntrack has no effect: it is not supported",
                "nftables.masqueradeAll has no effect: it is not supported"
            ]
        );
        assert_eq!(file("clusterCIDRs: x").unwrap_err(), "unknown field \"clusterCIDRs\"");
        assert!(file("clusterCIDR: x").unwrap_err().starts_with("clusterCIDR: "));
        assert!(file("nftables: {syncPeriod: 5}").unwrap_err().starts_with("nftables.syncPeriod: "));
    }
}
