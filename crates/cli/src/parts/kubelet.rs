//! `cox kubelet`.
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::kubelet_identity::IdentityFlags;
use crate::output::Failure;
use crate::parts::files::kubelet::{self as file, KubeletFile};

/// Flags of the kubelet, with upstream's names. A flag that is given wins over the file.
#[derive(Args, Debug)]
pub struct Flags {
    /// A KubeletConfiguration.
    #[arg(long)]
    config: Option<PathBuf>,
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
    /// Labels of the new Node object, as key=value.
    #[arg(long, value_delimiter = ',', value_parser = label)]
    node_labels: Vec<(String, String)>,
    /// Taints of the new Node object, as key=value:effect.
    #[arg(long, value_delimiter = ',', value_parser = taint)]
    register_with_taints: Vec<(String, String, String)>,
    /// How the machine is called where it comes from.
    #[arg(long)]
    provider_id: Option<String>,
    /// Where pods' volumes live.
    #[arg(long, default_value = "/var/lib/kubelet")]
    root_dir: PathBuf,
    /// Socket of the container runtime; unix:///run/containerd/containerd.sock if absent.
    #[arg(long)]
    container_runtime_endpoint: Option<String>,
    /// Cluster DNS servers.
    #[arg(long, value_delimiter = ',')]
    cluster_dns: Vec<IpAddr>,
    /// Domain of the cluster; cluster.local if absent.
    #[arg(long)]
    cluster_domain: Option<String>,
    /// The resolver configuration that pods inherit; /etc/resolv.conf if absent.
    #[arg(long)]
    resolv_conf: Option<PathBuf>,
    /// Directory of static pods.
    #[arg(long)]
    pod_manifest_path: Option<PathBuf>,
    /// Address of the HTTPS server; 0.0.0.0 if absent.
    #[arg(long)]
    address: Option<IpAddr>,
    /// Port of the HTTPS server; 10250 if absent.
    #[arg(long)]
    port: Option<u16>,
    /// Serving certificate.
    #[arg(long)]
    tls_cert_file: Option<PathBuf>,
    /// Its key.
    #[arg(long)]
    tls_private_key_file: Option<PathBuf>,
    /// CA of client certificates.
    #[arg(long)]
    client_ca_file: Option<PathBuf>,
    /// Whether requests without credentials are let through to authorization.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    anonymous_auth: Option<bool>,
    /// Cgroup under which pods' cgroups are made.
    #[arg(long)]
    cgroup_root: Option<String>,
    /// Most pods on this node; 110 if absent.
    #[arg(long)]
    max_pods: Option<u32>,
    /// Where to write the configuration of the pod network once the node has its range; nowhere if absent, as another
    /// agent does it then.
    #[arg(long)]
    cni_conf_dir: Option<PathBuf>,
    /// Where the CNI plugins are.
    #[arg(long)]
    cni_bin_dir: Option<PathBuf>,
    /// Largest packet of pods: 50 less than that of the nodes' links where kube-proxy runs with --pod-network=vxlan.
    #[arg(long)]
    network_plugin_mtu: Option<u32>,
    /// Whether to create the Node object; it does if absent.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    register_node: Option<bool>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("want key=value")?;
    Ok((key.to_owned(), value.to_owned()))
}

fn taint(text: &str) -> Result<(String, String, String), String> {
    let (taint, effect) = text.rsplit_once(':').ok_or("want key=value:effect or key:effect")?;
    if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
        return Err(format!("invalid taint effect: {effect}, unsupported taint effect"));
    }
    let (key, value) = taint.split_once('=').unwrap_or((taint, ""));
    Ok((key.to_owned(), value.to_owned(), effect.to_owned()))
}

impl Flags {
    /// Flags first, then the file, then the defaults.
    fn settled(self, file: KubeletFile) -> Result<kubelet::Config, Failure> {
        let serving_cert_dir = self.identity.serving_cert_dir(file.server_tls_bootstrap);
        let own = self.identity.own_serving_files();
        let pair = match (
            self.tls_cert_file.or(file.tls_cert_file),
            self.tls_private_key_file.or(file.tls_private_key_file),
        ) {
            (Some(certificate), Some(key)) => (certificate, key),
            // A certificate that is asked for comes from no file.
            (None, None) => serving_cert_dir.clone().map_or(own, |dir| (dir.clone(), dir)),
            (certificate, _) => {
                let (flag, field) = match certificate {
                    None => ("tls-cert-file", "tlsCertFile"),
                    Some(_) => ("tls-private-key-file", "tlsPrivateKeyFile"),
                };
                return Err(Failure::new(
                    format!("the kubelet's server has no {flag}"),
                    format!("name it with --{flag}, or {field} in the file"),
                ));
            }
        };
        let or = |flag: Vec<IpAddr>, file: Vec<IpAddr>| if flag.is_empty() { file } else { flag };
        let node = self.hostname_override.unwrap_or_else(super::host_name).to_lowercase();
        let defaults = kubelet::Config::new(node);
        let server = kubelet::ServerConfig {
            address: self.address.or(file.address).unwrap_or(std::net::Ipv4Addr::UNSPECIFIED.into()),
            port: self.port.or(file.port).unwrap_or(10250),
            cert_file: pair.0,
            key_file: pair.1,
            client_ca_file: self.client_ca_file.or(file.client_ca_file),
            token_webhook: file.token_webhook.unwrap_or(true),
            access_webhook: file.access_webhook.unwrap_or(true),
            anonymous: self.anonymous_auth.or(file.anonymous).unwrap_or(false),
        };
        let lease_duration = file.lease_duration.unwrap_or(defaults.lease_duration);
        let taints =
            if self.register_with_taints.is_empty() { file.taints } else { self.register_with_taints };
        Ok(kubelet::Config {
            node_ip: self.node_ip,
            node_labels: self.node_labels,
            node_taints: taints,
            provider_id: self.provider_id.or(file.provider_id),
            register_node: self.register_node.or(file.register_node).unwrap_or(defaults.register_node),
            root_dir: self.root_dir,
            pod_logs_dir: file.pod_logs_dir.unwrap_or(defaults.pod_logs_dir),
            cri_endpoint: self
                .container_runtime_endpoint
                .or(file.container_runtime_endpoint)
                .unwrap_or(defaults.cri_endpoint),
            cluster_dns: or(self.cluster_dns, file.cluster_dns),
            cluster_domain: self.cluster_domain.or(file.cluster_domain).unwrap_or(defaults.cluster_domain),
            resolv_conf: self.resolv_conf.or(file.resolv_conf).unwrap_or(defaults.resolv_conf),
            static_pod_path: self.pod_manifest_path.or(file.static_pod_path),
            cgroup_root: self.cgroup_root.or(file.cgroup_root).unwrap_or(defaults.cgroup_root),
            cni_conf_dir: self.cni_conf_dir,
            cni_bin_dir: self.cni_bin_dir.unwrap_or(defaults.cni_bin_dir),
            pod_mtu: self.network_plugin_mtu.filter(|mtu| *mtu > 0),
            max_pods: self.max_pods.or(file.max_pods).unwrap_or(defaults.max_pods),
            server: Some(server),
            serving_cert_dir,
            // As upstream renews it: four times in its life.
            lease_renew: lease_duration / 4,
            lease_duration,
            status_report: file.status_report.unwrap_or(defaults.status_report),
            eviction: file.eviction.unwrap_or(defaults.eviction),
            image_gc_high: file.image_gc_high.unwrap_or(defaults.image_gc_high),
            image_gc_low: file.image_gc_low.unwrap_or(defaults.image_gc_low),
            container_log_max_size: file.container_log_max_size.unwrap_or(defaults.container_log_max_size),
            container_log_max_files: file.container_log_max_files.unwrap_or(defaults.container_log_max_files),
            ..defaults
        })
    }
}

/// Runs the kubelet until it is asked to stop.
pub async fn run(flags: Box<Flags>) -> Result<ExitCode, Failure> {
    let (file, warnings) = match &flags.config {
        Some(path) => file::read(path)?,
        None => Default::default(),
    };
    for warning in warnings {
        tracing::warn!(file = flags.config.as_deref().map(|p| p.display().to_string()), "{warning}");
    }
    let stop = super::stop_on_signal()?;
    let (kubeconfig, identity) = (flags.kubeconfig.clone(), flags.identity.clone());
    let rotate = file.rotate_certificates;
    let config = flags.settled(file)?;
    if config.server.as_ref().is_some_and(|server| server.cert_file == identity.own_serving_files().0) {
        identity.ensure_own_serving_files(&config.node_name)?;
    }
    let client = identity.client(&kubeconfig, &config.node_name, rotate, &stop).await?;
    super::ended(kubelet::run(config, client, stop).await)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::args::{Cli, Command};

    fn flags(more: &[&str]) -> Flags {
        let line = ["cox", "kubelet", "--kubeconfig", "k", "--hostname-override", "N1"];
        match Cli::try_parse_from(line.iter().chain(more)).unwrap().command {
            Command::Kubelet(flags) => *flags,
            _ => panic!("another verb"),
        }
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let file = || KubeletFile {
            tls_cert_file: Some("file.crt".into()),
            tls_private_key_file: Some("file.key".into()),
            max_pods: Some(50),
            port: Some(11250),
            anonymous: Some(true),
            lease_duration: Some(std::time::Duration::from_secs(60)),
            ..KubeletFile::default()
        };
        let config = flags(&[]).settled(file()).unwrap();
        let server = config.server.unwrap();
        assert_eq!((config.node_name.as_str(), config.max_pods, server.port), ("n1", 50, 11250));
        assert!(server.anonymous && server.access_webhook);
        assert_eq!(config.lease_renew.as_secs(), 15);

        let more = ["--max-pods=7", "--port", "1", "--anonymous-auth=false", "--tls-cert-file", "flag.crt"];
        let config = flags(&more).settled(file()).unwrap();
        let server = config.server.unwrap();
        assert_eq!((config.max_pods, server.port, server.anonymous), (7, 1, false));
        assert_eq!(server.cert_file, PathBuf::from("flag.crt"));

        let server = flags(&["--cert-dir=/pki"]).settled(KubeletFile::default()).unwrap().server.unwrap();
        assert_eq!(server.cert_file, PathBuf::from("/pki/kubelet.crt"));

        let failure = flags(&["--tls-private-key-file=k"]).settled(KubeletFile::default()).unwrap_err();
        assert!(failure.what.contains("tls-cert-file"), "{failure}");
    }

    #[test]
    fn taints_and_labels_are_read() {
        let with = flags(&["--node-labels=a=b,c=", "--register-with-taints=k=v:NoSchedule,x:NoExecute"]);
        assert_eq!(with.node_labels, [("a".into(), "b".into()), ("c".into(), String::new())]);
        let taints =
            [("k".into(), "v".into(), "NoSchedule".into()), ("x".into(), String::new(), "NoExecute".into())];
        assert_eq!(with.register_with_taints, taints);
        assert!(taint("k=v:Never").is_err() && taint("k").is_err() && label("k").is_err());
    }
}
