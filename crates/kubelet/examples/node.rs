//! Runs one kubelet against a cluster: `node KUBECONFIG NAME CRI-SOCKET DIR [key=value ...]`.

use std::path::PathBuf;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt()
        .with_env_filter(tracing_subscriber::EnvFilter::from_default_env())
        .with_writer(std::io::stderr)
        .init();
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [kubeconfig, name, socket, dir, rest @ ..] = arguments.as_slice() else {
        return Err("usage: node KUBECONFIG NAME CRI-SOCKET DIR [key=value ...]".into());
    };
    let dir = PathBuf::from(dir);
    let value = |key: &str| rest.iter().find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
    let mut config = kubelet::Config::new(name.as_str());
    config.cri_endpoint = socket.clone();
    config.root_dir = dir.join("kubelet");
    config.pod_logs_dir = dir.join("pod-logs");
    config.static_pod_path = Some(dir.join("manifests"));
    config.cni_conf_dir = Some(dir.join("cni"));
    config.cni_data_dir = Some(dir.join("ipam"));
    config.cni_network = format!("{name}-net");
    config.cgroup_root = format!("/{name}");
    config.cluster_dns = vec!["10.96.0.10".parse()?];
    if let Some(ip) = value("node-ip") {
        config.node_ip = Some(ip.parse()?);
    }
    if let (Some(cert), Some(key)) = (value("cert"), value("key")) {
        config.server = Some(kubelet::ServerConfig {
            address: "0.0.0.0".parse()?,
            port: value("port").unwrap_or("0").parse()?,
            cert_file: cert.into(),
            key_file: key.into(),
            client_ca_file: value("ca").map(PathBuf::from),
            token_webhook: true,
            access_webhook: true,
            anonymous: false,
        });
    }
    let client =
        client::Remote::from_kubeconfig_file(&PathBuf::from(kubeconfig), "kubelet").await?.client()?;
    let stop = tokio_util::sync::CancellationToken::new();
    let ended = stop.clone();
    tokio::spawn(async move {
        let mut term =
            tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).expect("signals");
        term.recv().await;
        ended.cancel();
    });
    kubelet::run(config, client, stop).await?;
    Ok(())
}
