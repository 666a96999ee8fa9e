//! What makes a host a node: container runtime, kubelet, service proxy, DNS.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use serde_json::{Value, json};

use super::build::Building;
use super::flags::Flags;
use super::trust::{TrustError, node_server};
use super::{PlannedRuntime, PlannedService, Ready, ServiceType, Stage, StopWith};
use crate::containerd::{ContainerdPlaces, config_text};
use crate::spec::{LoadBalancer, Part, PodNetwork, Role};

/// Port of the kubelet.
const KUBELET: u16 = 10250;
/// Port of the DNS on the node's own address; the Service leads port 53 there.
pub(super) const DNS: u16 = 10053;
/// What a tunnel takes of each packet.
const TUNNEL: u32 = 50;

/// Kernel modules of nodes.
const MODULES: [&str; 3] = ["overlay", "br_netfilter", "nf_conntrack"];
/// Kernel settings of nodes: pods are routed; their number needs more watches than one user's programs.
const SYSCTLS: [(&str, &str); 4] = [
    ("net.ipv4.ip_forward", "1"),
    ("net.bridge.bridge-nf-call-iptables", "1"),
    ("fs.inotify.max_user_instances", "8192"),
    ("fs.inotify.max_user_watches", "524288"),
];

pub(super) fn add(building: &mut Building<'_>) -> Result<(), TrustError> {
    if !building.host.is(Role::Worker) {
        return Ok(());
    }
    building.authority()?;
    for package in ["containerd", "runc", "containernetworking-plugins", "nftables", "conntrack", "iptables"]
    {
        building.package(package);
    }
    kernel(building);
    containerd(building);
    kubelet(building)?;
    proxy(building)?;
    dns(building)
}

fn kernel(building: &mut Building<'_>) {
    for module in MODULES {
        building.plan.modules.push(module.to_owned());
    }
    for (name, value) in SYSCTLS {
        building.plan.sysctls.insert(name.to_owned(), value.to_owned());
    }
    if let Some((modules, sysctls)) = &building.options.paths.at_boot {
        building.text(modules, 0o644, MODULES.map(|m| format!("{m}\n")).concat());
        building.text(sysctls, 0o644, SYSCTLS.map(|(name, value)| format!("{name} = {value}\n")).concat());
    }
}

/// A configuration file as YAML.
fn yaml(value: &Value) -> String {
    serde_saphyr::to_string(value).expect("text, numbers, lists and maps always have a YAML form")
}

fn containerd(building: &mut Building<'_>) {
    let options = building.options;
    let paths = &options.paths;
    let socket = paths.containerd_socket();
    let places = ContainerdPlaces {
        data: paths.containerd_root.clone(),
        state: paths.containerd_state.clone(),
        opt: paths.containerd_root.join("opt"),
        registries: paths.containerd_config.with_file_name("certs.d"),
        socket: socket.clone(),
        cni_conf: paths.cni_conf.clone(),
    };
    let config = options.containerd_of(&building.host.name);
    let text = config_text(&places, &config, &paths.programs.runc);
    building.text(&paths.containerd_config, 0o644, text);
    building.directory(&paths.cni_conf, 0o755);
    building.directory(&paths.containerd_root, 0o711);
    let exec = vec![
        paths.programs.containerd.display().to_string(),
        format!("--config={}", paths.containerd_config.display()),
    ];
    let mut service = PlannedService::new("containerd", "containerd container runtime", Stage::Node, exec);
    service.kind = ServiceType::Notify;
    service.stop = StopWith::MainProcess;
    service.delegate = true;
    service.oom_score_adjust = Some(-999);
    service.open_files = Some(1_048_576);
    service.reads = vec![paths.containerd_config.clone()];
    service.ready = Ready::Socket(socket.clone());
    building.service(service);
    building.plan.runtime =
        Some(PlannedRuntime { socket, sandbox_image: config.sandbox_image, snapshotter: config.snapshotter });
}

fn kubelet(building: &mut Building<'_>) -> Result<(), TrustError> {
    let (spec, host, trust) = (building.spec, building.host, building.trust);
    let paths = &building.options.paths;
    let pki = trust.pki();
    building.kubeconfig("kubelet", &pki.kubelet_client(&host.name), &node_server(spec))?;
    building.directory(&paths.kubelet, 0o755);
    building.directory(&paths.kubelet.join("pki"), 0o700);
    building.directory(&paths.config.join("manifests"), 0o755);
    building.directory(&paths.pod_logs, 0o755);
    let serving = pki.kubelet_serving(&host.name);
    building.file(&paths.kubelet_serving("crt"), 0o644, trust.content(&serving.certificate)?);
    building.file(&paths.kubelet_serving("key"), 0o600, trust.content(&serving.key)?);
    let mut config = json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": "0.0.0.0",
        "port": KUBELET,
        "authentication": {
            "anonymous": { "enabled": false },
            "webhook": { "enabled": true },
            "x509": { "clientCAFile": paths.pki("ca.crt") },
        },
        "authorization": { "mode": "Webhook" },
        "tlsCertFile": paths.kubelet_serving("crt"),
        "tlsPrivateKeyFile": paths.kubelet_serving("key"),
        "rotateCertificates": true,
        "clusterDNS": [spec.network.cluster_dns],
        "clusterDomain": spec.network.domain,
        "containerRuntimeEndpoint": format!("unix://{}", paths.containerd_socket().display()),
        "staticPodPath": paths.config.join("manifests"),
        "podLogsDir": paths.pod_logs,
    });
    if let Some(path) = building.options.traits.get(&host.name).and_then(|t| t.resolv_conf.as_ref()) {
        config["resolvConf"] = json!(path);
    }
    let file = paths.kubelet.join("config.yaml");
    building.text(&file, 0o644, yaml(&config));

    let mut flags = Flags::default();
    flags.path("config", &file);
    flags.path("kubeconfig", paths.kubeconfig("kubelet"));
    flags.add("hostname-override", &host.name);
    flags.add("node-ip", host.address);
    flags.path("root-dir", &paths.kubelet);
    flags.path("cert-dir", paths.kubelet.join("pki"));
    if spec.network.pod_network != PodNetwork::None {
        flags.path("cni-conf-dir", &paths.cni_conf);
        flags.path("cni-bin-dir", &paths.cni_bin);
    }
    let mtu = match (spec.network.pod_network, spec.network.mtu) {
        (PodNetwork::Vxlan, mtu) => Some(mtu.unwrap_or(1500).saturating_sub(TUNNEL)),
        (_, mtu) => mtu,
    };
    if let Some(mtu) = mtu {
        flags.add("network-plugin-mtu", mtu);
    }
    if !host.labels.is_empty() {
        let labels: Vec<String> = host.labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
        flags.add("node-labels", labels.join(","));
    }
    if !host.taints.is_empty() {
        flags.add("register-with-taints", host.taints.join(","));
    }
    let line = flags.line(&paths.program("kubelet"), spec, Part::Kubelet);
    let mut service = PlannedService::new("kubelet", "Kubernetes node agent", Stage::Node, line);
    service.after.push("containerd".into());
    if spec.api_server.load_balancer == LoadBalancer::Ours {
        service.after.push(super::balancer::NAME.into());
    }
    // Pods outlive it.
    service.stop = StopWith::MainProcess;
    service.oom_score_adjust = Some(-999);
    service.reads = vec![file, paths.kubeconfig("kubelet"), paths.kubelet_serving("crt")];
    service.ready = Ready::Tcp { address: IpAddr::V4(Ipv4Addr::LOCALHOST), port: KUBELET };
    building.service(service);
    Ok(())
}

fn proxy(building: &mut Building<'_>) -> Result<(), TrustError> {
    let (spec, host, trust) = (building.spec, building.host, building.trust);
    let paths = &building.options.paths;
    building.kubeconfig("kube-proxy", &trust.pki().part("kube-proxy"), &node_server(spec))?;
    let config = json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "bindAddress": host.address,
        "clientConnection": { "kubeconfig": paths.kubeconfig("kube-proxy") },
        "clusterCIDR": spec.network.pod_cidr,
        "hostnameOverride": host.name,
        "mode": "nftables",
    });
    let file = paths.config.join("kube-proxy.yaml");
    building.text(&file, 0o644, yaml(&config));
    let mut flags = Flags::default();
    flags.path("config", &file);
    flags.add(
        "pod-network",
        match spec.network.pod_network {
            PodNetwork::Routes => "routes",
            PodNetwork::Vxlan => "vxlan",
            PodNetwork::None => "none",
        },
    );
    let line = flags.line(&paths.program("kube-proxy"), spec, Part::KubeProxy);
    let mut service = PlannedService::new("kube-proxy", "Kubernetes service proxy", Stage::Node, line);
    service.reads = vec![file, paths.kubeconfig("kube-proxy")];
    building.service(service);
    Ok(())
}

fn dns(building: &mut Building<'_>) -> Result<(), TrustError> {
    let (spec, host, trust) = (building.spec, building.host, building.trust);
    let paths = &building.options.paths;
    building.kubeconfig("coredns", &trust.pki().part("coredns"), &node_server(spec))?;
    let exec = vec![
        paths.program("cox").display().to_string(),
        "dns".to_owned(),
        format!("--kubeconfig={}", paths.kubeconfig("coredns").display()),
        format!("--listen={}", SocketAddr::new(host.address, DNS)),
        format!("--cluster-domain={}", spec.network.domain),
        format!("--service-ip={}", spec.network.cluster_dns),
        format!("--network={},{}", spec.network.pod_cidr, spec.network.service_cidr),
    ];
    let mut service = PlannedService::new("cox-dns", "DNS of the cluster", Stage::Node, exec);
    service.reads = vec![paths.kubeconfig("coredns")];
    service.ready = Ready::Tcp { address: host.address, port: DNS };
    building.service(service);
    Ok(())
}
