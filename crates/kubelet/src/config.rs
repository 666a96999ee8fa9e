//! What the kubelet is told; values only.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

/// The version that the node reports.
pub const KUBELET_VERSION: &str = "v1.36.0";

/// Files and addresses of the kubelet's HTTPS server.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Where to listen.
    pub address: IpAddr,
    /// Which port; 0 picks a free one, which the node then reports.
    pub port: u16,
    /// PEM file of the serving certificate.
    pub cert_file: PathBuf,
    /// PEM file of its key.
    pub key_file: PathBuf,
    /// PEM file of the CA that signs clients' certificates.
    pub client_ca_file: Option<PathBuf>,
    /// Whether bearer tokens are checked by TokenReview.
    pub token_webhook: bool,
    /// Whether requests are checked by SubjectAccessReview; without it every authenticated client may do all.
    pub access_webhook: bool,
    /// Whether requests without credentials are let through to authorization.
    pub anonymous: bool,
}

/// How much must stay free before pods are evicted or images removed.
#[derive(Debug, Clone, PartialEq)]
pub struct EvictionThresholds {
    /// Memory that must stay available, in bytes.
    pub memory_available: u64,
    /// Share of the node's file system that must stay free, in percent.
    pub nodefs_available: u8,
    /// Share of the node's inodes that must stay free, in percent.
    pub nodefs_inodes_free: u8,
    /// Share of the image file system that must stay free, in percent.
    pub imagefs_available: u8,
}

impl Default for EvictionThresholds {
    fn default() -> Self {
        EvictionThresholds {
            memory_available: 100 << 20,
            nodefs_available: 10,
            nodefs_inodes_free: 5,
            imagefs_available: 15,
        }
    }
}

/// Everything that decides how one kubelet behaves.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name of this node.
    pub node_name: String,
    /// Address that the node reports; found on the default route when absent.
    pub node_ip: Option<IpAddr>,
    /// Whether to create the Node object.
    pub register_node: bool,
    /// Labels of the new Node object beyond the standard ones.
    pub node_labels: Vec<(String, String)>,
    /// Taints of the new Node object, as (key, value, effect).
    pub node_taints: Vec<(String, String, String)>,
    /// `spec.providerID`, if any.
    pub provider_id: Option<String>,
    /// Where pods' volumes and files live (`/var/lib/kubelet`).
    pub root_dir: PathBuf,
    /// Where containers' logs live (`/var/log/pods`).
    pub pod_logs_dir: PathBuf,
    /// Socket of the CRI runtime.
    pub cri_endpoint: String,
    /// Cluster DNS servers.
    pub cluster_dns: Vec<IpAddr>,
    /// The cluster's DNS domain.
    pub cluster_domain: String,
    /// The resolver configuration that pods inherit.
    pub resolv_conf: PathBuf,
    /// Directory of static pods' manifests.
    pub static_pod_path: Option<PathBuf>,
    /// Cgroup under which `kubepods` is made (`/`); a name of its own lets several clusters share a machine.
    pub cgroup_root: String,
    /// Most pods on this node.
    pub max_pods: u32,
    /// The HTTPS server; none without it.
    pub server: Option<ServerConfig>,
    /// `serverTLSBootstrap`: the serving certificate is asked of the API server and kept in this directory; the files of
    /// `server` are not read.
    pub serving_cert_dir: Option<PathBuf>,
    /// Where to write the CNI configuration once the node has a pod CIDR; `None` when another agent does.
    pub cni_conf_dir: Option<PathBuf>,
    /// Where the CNI plugins' binaries are.
    pub cni_bin_dir: PathBuf,
    /// Largest packet of pods, where a tunnel between nodes leaves them less than the node's own links.
    pub pod_mtu: Option<u32>,
    /// The state directory of the `host-local` plugin, if not its default.
    pub cni_data_dir: Option<PathBuf>,
    /// Name of the CNI network; also distinguishes clusters on one machine.
    pub cni_network: String,
    /// How often the node's Lease is renewed.
    pub lease_renew: Duration,
    /// How long the node's Lease is good for.
    pub lease_duration: Duration,
    /// How often the node's status is written when nothing changed.
    pub status_report: Duration,
    /// When pods are evicted.
    pub eviction: EvictionThresholds,
    /// Disk use, in percent, from which unused images are removed.
    pub image_gc_high: u8,
    /// Disk use, in percent, down to which unused images are removed.
    pub image_gc_low: u8,
    /// Largest size of a container's log file before it is rotated, in bytes.
    pub container_log_max_size: u64,
    /// How many log files a container keeps.
    pub container_log_max_files: u32,
}

impl Config {
    /// Upstream's defaults for a node of that name.
    pub fn new(node_name: impl Into<String>) -> Config {
        Config {
            node_name: node_name.into(),
            node_ip: None,
            register_node: true,
            node_labels: Vec::new(),
            node_taints: Vec::new(),
            provider_id: None,
            root_dir: "/var/lib/kubelet".into(),
            pod_logs_dir: "/var/log/pods".into(),
            cri_endpoint: "unix:///run/containerd/containerd.sock".into(),
            cluster_dns: Vec::new(),
            cluster_domain: "cluster.local".into(),
            resolv_conf: "/etc/resolv.conf".into(),
            static_pod_path: None,
            cgroup_root: "/".into(),
            max_pods: 110,
            server: None,
            serving_cert_dir: None,
            cni_conf_dir: None,
            cni_bin_dir: "/usr/lib/cni".into(),
            pod_mtu: None,
            cni_data_dir: None,
            cni_network: "cox".into(),
            lease_renew: Duration::from_secs(10),
            lease_duration: Duration::from_secs(40),
            status_report: Duration::from_secs(300),
            eviction: EvictionThresholds::default(),
            image_gc_high: 85,
            image_gc_low: 80,
            container_log_max_size: 10 << 20,
            container_log_max_files: 5,
        }
    }
}
