//! `cox kubelet`.
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::kubelet_identity::IdentityFlags;
use crate::output::Failure;

/// Flags of the kubelet, with upstream's names.
#[derive(Args, Debug)]
pub struct Flags {
    /// How to reach the API server.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// The kubelet's own certificates.
    #[command(flatten)]
    identity: IdentityFlags,
    /// Name of this node; the host's name if absent.
    #[arg(long)]
    hostname_override: Option<String>,
    /// Address of this node; that of the default route if absent.
    #[arg(long)]
    node_ip: Option<IpAddr>,
    /// Where pods' volumes live.
    #[arg(long, default_value = "/var/lib/kubelet")]
    root_dir: PathBuf,
    /// Socket of the container runtime.
    #[arg(long, default_value = "unix:///run/containerd/containerd.sock")]
    container_runtime_endpoint: String,
    /// Cluster DNS servers.
    #[arg(long, value_delimiter = ',')]
    cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster.
    #[arg(long, default_value = "cluster.local")]
    cluster_domain: String,
    /// Directory of static pods.
    #[arg(long)]
    pod_manifest_path: Option<PathBuf>,
    /// Address of the HTTPS server.
    #[arg(long, default_value = "0.0.0.0")]
    address: IpAddr,
    /// Port of the HTTPS server.
    #[arg(long, default_value_t = 10250)]
    port: u16,
    /// Serving certificate.
    #[arg(long, required_unless_present = "rotate_server_certificates")]
    tls_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long, required_unless_present = "rotate_server_certificates")]
    tls_private_key_file: Option<PathBuf>,
    /// CA of client certificates.
    #[arg(long)]
    client_ca_file: Option<PathBuf>,
    /// Whether requests without credentials are let through to authorization.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    anonymous_auth: bool,
    /// Cgroup under which pods' cgroups are made.
    #[arg(long, default_value = "/")]
    cgroup_root: String,
    /// Most pods on this node.
    #[arg(long, default_value_t = 110)]
    max_pods: u32,
    /// Whether to create the Node object.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    register_node: bool,
}

/// Runs the kubelet until it is asked to stop.
pub async fn run(flags: Box<Flags>) -> Result<ExitCode, Failure> {
    let stop = super::stop_on_signal()?;
    let node = flags.hostname_override.unwrap_or_else(super::host_name);
    let serving_cert_dir = flags.identity.serving_cert_dir(None);
    let client = flags.identity.client(&flags.kubeconfig, &node, None, &stop).await?;
    let config = kubelet::Config {
        node_ip: flags.node_ip,
        register_node: flags.register_node,
        root_dir: flags.root_dir,
        cri_endpoint: flags.container_runtime_endpoint,
        cluster_dns: flags.cluster_dns,
        cluster_domain: flags.cluster_domain,
        static_pod_path: flags.pod_manifest_path,
        cgroup_root: flags.cgroup_root,
        max_pods: flags.max_pods,
        server: Some(kubelet::ServerConfig {
            address: flags.address,
            port: flags.port,
            cert_file: flags.tls_cert_file.unwrap_or_default(),
            key_file: flags.tls_private_key_file.unwrap_or_default(),
            client_ca_file: flags.client_ca_file,
            token_webhook: true,
            access_webhook: true,
            anonymous: flags.anonymous_auth,
        }),
        serving_cert_dir,
        ..kubelet::Config::new(node)
    };
    super::ended(kubelet::run(config, client, stop).await)
}
