//! What makes a host a control plane: API server, controllers, scheduler.

use std::net::{IpAddr, Ipv4Addr};

use super::build::Building;
use super::flags::Flags;
use super::trust::TrustError;
use super::{PlannedService, Ready, Stage, etcd};
use crate::spec::{Part, Role, Topology};

/// What strangers may see: that a server is there and well, and what who joins needs to tell it from another.
const AUTHENTICATION: &str = "\
apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
anonymous:
  enabled: true
  conditions:
  - path: /healthz
  - path: /livez
  - path: /readyz
  - path: /version
  - path: /api/v1/namespaces/kube-public/configmaps/cluster-info
";

pub(super) fn add(building: &mut Building<'_>) -> Result<(), TrustError> {
    if !building.host.is(Role::ControlPlane) {
        return Ok(());
    }
    files(building)?;
    api_server(building);
    controllers(building);
    scheduler(building);
    Ok(())
}

fn files(building: &mut Building<'_>) -> Result<(), TrustError> {
    let (trust, spec, host) = (building.trust, building.spec, building.host);
    let (pki, paths) = (trust.pki(), &building.options.paths);
    building.authority()?;
    let pairs = [
        ("apiserver", pki.api_server_of(&host.name)),
        ("apiserver-kubelet-client", pki.api_server_kubelet_client()),
        ("front-proxy-client", pki.front_proxy_client()),
    ];
    for (name, pair) in pairs {
        building.trusted(&format!("{name}.crt"), &pair.certificate)?;
        building.trusted(&format!("{name}.key"), &pair.key)?;
    }
    building.trusted("ca.key", &pki.authority().key)?;
    building.trusted("front-proxy-ca.crt", &pki.front_proxy_authority().certificate)?;
    building.trusted("sa.key", &pki.service_account_key())?;
    building.trusted("sa.pub", &pki.service_account_public_key())?;
    if spec.etcd != Topology::Embedded {
        building.directory(&paths.pki("etcd"), 0o700);
        building.trusted("etcd/ca.crt", &pki.etcd_authority().certificate)?;
        building.trusted("apiserver-etcd-client.crt", &pki.etcd_client().certificate)?;
        building.trusted("apiserver-etcd-client.key", &pki.etcd_client().key)?;
    }
    building.directory(&paths.config.join("encryption"), 0o700);
    building.file(&encryption(building), 0o600, trust.encryption());
    building.text(&authentication(building), 0o644, AUTHENTICATION);
    // They speak to the server beside them: if it is lost, others lead.
    let own = format!("https://127.0.0.1:{}", spec.api_server.port);
    building.kubeconfig("controller-manager", &pki.part("kube-controller-manager"), &own)?;
    building.kubeconfig("scheduler", &pki.part("kube-scheduler"), &own)?;
    building.kubeconfig("admin", &pki.admin(), &format!("https://{}", spec.endpoint()))
}

fn encryption(building: &Building<'_>) -> std::path::PathBuf {
    building.options.paths.config.join("encryption/config.yaml")
}

fn authentication(building: &Building<'_>) -> std::path::PathBuf {
    building.options.paths.config.join("authentication.yaml")
}

fn api_server(building: &mut Building<'_>) {
    let (spec, host) = (building.spec, building.host);
    let paths = &building.options.paths;
    let pki = |file: &str| paths.pki(file);
    let mut flags = Flags::default();
    flags.add("advertise-address", host.address);
    // System pods of others need it: pod networks, storage drivers.
    flags.add("allow-privileged", "true");
    flags.add("bind-address", "0.0.0.0");
    flags.add("secure-port", spec.api_server.port);
    flags.path("tls-cert-file", pki("apiserver.crt"));
    flags.path("tls-private-key-file", pki("apiserver.key"));
    flags.path("client-ca-file", pki("ca.crt"));
    flags.path("authentication-config", authentication(building));
    flags.add("authorization-mode", "Node,RBAC");
    flags.add("enable-admission-plugins", "NodeRestriction");
    if spec.etcd == Topology::Embedded {
        flags.path("data-dir", &paths.db);
    } else {
        flags.add("etcd-servers", etcd::endpoints(spec.etcd_hosts()));
        flags.path("etcd-cafile", pki("etcd/ca.crt"));
        flags.path("etcd-certfile", pki("apiserver-etcd-client.crt"));
        flags.path("etcd-keyfile", pki("apiserver-etcd-client.key"));
    }
    flags.path("encryption-provider-config", encryption(building));
    flags.add("encryption-provider-config-automatic-reload", true);
    flags.path("kubelet-certificate-authority", pki("ca.crt"));
    flags.path("kubelet-client-certificate", pki("apiserver-kubelet-client.crt"));
    flags.path("kubelet-client-key", pki("apiserver-kubelet-client.key"));
    flags.path("requestheader-client-ca-file", pki("front-proxy-ca.crt"));
    flags.add("requestheader-allowed-names", "front-proxy-client");
    flags.add("requestheader-username-headers", "X-Remote-User");
    flags.add("requestheader-group-headers", "X-Remote-Group");
    flags.add("requestheader-extra-headers-prefix", "X-Remote-Extra-");
    flags.add("service-account-issuer", format!("https://kubernetes.default.svc.{}", spec.network.domain));
    flags.path("service-account-key-file", pki("sa.pub"));
    flags.path("service-account-signing-key-file", pki("sa.key"));
    flags.add("service-cluster-ip-range", spec.network.service_cidr);
    let (first, last) = spec.network.node_ports;
    flags.add("service-node-port-range", format!("{first}-{last}"));
    // What it tells others of (the authorities) and how it checks tokens is read at its start alone; all other
    // certificates are followed.
    let mut reads = vec![authentication(building)];
    reads.extend(["ca.crt", "front-proxy-ca.crt", "sa.key", "sa.pub"].map(pki));
    let ready = Ready::Https {
        address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        port: spec.api_server.port,
        path: "/readyz".into(),
        authority: pki("ca.crt"),
        client: None,
    };
    let line = flags.line(&paths.program("kube-apiserver"), spec, Part::KubeApiserver);
    let mut service = PlannedService::new("kube-apiserver", "Kubernetes API server", Stage::ApiServer, line);
    if spec.etcd_hosts().iter().any(|h| h.name == host.name) {
        service.after.push("etcd".into());
    }
    service.reads = reads;
    service.ready = ready;
    service.open_files = Some(1_048_576);
    if spec.etcd == Topology::Embedded {
        let db = paths.db.clone();
        building.directory(&db, 0o700);
    }
    building.service(service);
}

fn controllers(building: &mut Building<'_>) {
    let (spec, paths) = (building.spec, &building.options.paths);
    let mut flags = Flags::default();
    flags.path("kubeconfig", paths.kubeconfig("controller-manager"));
    flags.add("leader-elect", true);
    flags.add("controllers", "*,bootstrap-signer-controller,token-cleaner-controller");
    flags.add("use-service-account-credentials", true);
    flags.add("cluster-cidr", spec.network.pod_cidr);
    flags.add("node-cidr-mask-size", spec.network.node_mask);
    flags.path("root-ca-file", paths.pki("ca.crt"));
    flags.path("cluster-signing-cert-file", paths.pki("ca.crt"));
    flags.path("cluster-signing-key-file", paths.pki("ca.key"));
    flags.path("service-account-private-key-file", paths.pki("sa.key"));
    let line = flags.line(&paths.program("kube-controller-manager"), spec, Part::KubeControllerManager);
    let name = "kube-controller-manager";
    let mut service = PlannedService::new(name, "Kubernetes controllers", Stage::Controllers, line);
    service.after.push("kube-apiserver".into());
    service.reads = vec![paths.kubeconfig("controller-manager"), paths.pki("ca.crt"), paths.pki("sa.key")];
    building.service(service);
}

fn scheduler(building: &mut Building<'_>) {
    let (spec, paths) = (building.spec, &building.options.paths);
    let mut flags = Flags::default();
    flags.path("kubeconfig", paths.kubeconfig("scheduler"));
    flags.add("leader-elect", true);
    let line = flags.line(&paths.program("kube-scheduler"), spec, Part::KubeScheduler);
    let mut service = PlannedService::new("kube-scheduler", "Kubernetes scheduler", Stage::Controllers, line);
    service.after.push("kube-apiserver".into());
    service.reads = vec![paths.kubeconfig("scheduler")];
    building.service(service);
}
