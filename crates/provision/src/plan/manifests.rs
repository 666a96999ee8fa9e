//! Objects that a cluster has from the beginning, beside those that its API server makes itself.

use serde_json::{Value, json};

use super::node;
use crate::spec::{ClusterSpec, Role};

/// Objects that belong together.
#[derive(Clone, Debug, PartialEq)]
pub struct Manifest {
    /// Name of the file, without its ending.
    pub name: &'static str,
    /// The objects, in the order in which they are created.
    pub objects: Vec<Value>,
}

impl Manifest {
    /// As `kubectl apply -f` takes it.
    pub fn text(&self) -> String {
        let documents: Vec<String> = self
            .objects
            .iter()
            .map(|o| serde_saphyr::to_string(o).expect("objects always have a YAML form"))
            .collect();
        documents.join("---\n")
    }
}

/// The objects of a cluster.
pub fn manifests(spec: &ClusterSpec) -> Vec<Manifest> {
    vec![kubelets(), dns(spec)]
}

pub(super) const RBAC: &str = "rbac.authorization.k8s.io/v1";

fn binding(name: &str, role: &str, subject: Value) -> Value {
    json!({
        "apiVersion": RBAC,
        "kind": "ClusterRoleBinding",
        "metadata": { "name": name },
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": role },
        "subjects": [subject],
    })
}

fn group(name: &str) -> Value {
    json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "Group", "name": name })
}

/// That kubelets may ask for certificates: a first one with a bootstrap token, and the next with the one they have.
fn kubelets() -> Manifest {
    let signing = "system:certificates.k8s.io:certificatesigningrequests";
    let bootstrappers = || group("system:bootstrappers");
    Manifest {
        name: "kubelets",
        objects: vec![
            binding("cox:kubelet-bootstrap", "system:node-bootstrapper", bootstrappers()),
            binding("cox:node-autoapprove-bootstrap", &format!("{signing}:nodeclient"), bootstrappers()),
            binding(
                "cox:node-autoapprove-certificate-rotation",
                &format!("{signing}:selfnodeclient"),
                group("system:nodes"),
            ),
        ],
    }
}

/// The DNS: what it may read, and the Service that leads to it. Every node has one of its own, and its pods ask that
/// one: the loss of a node costs no other node an answer.
fn dns(spec: &ClusterSpec) -> Manifest {
    let ip = spec.network.cluster_dns;
    let name = "kube-dns";
    let mut objects = vec![
        json!({
            "apiVersion": RBAC,
            "kind": "ClusterRole",
            "metadata": { "name": "system:coredns" },
            "rules": [
                { "apiGroups": [""], "resources": ["services", "endpoints", "pods", "namespaces"], "verbs": ["list", "watch"] },
                { "apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"] },
            ],
        }),
        binding(
            "system:coredns",
            "system:coredns",
            json!({ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": "system:coredns" }),
        ),
        json!({
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": { "name": name, "namespace": "kube-system", "labels": {
                "k8s-app": "kube-dns", "kubernetes.io/cluster-service": "true", "kubernetes.io/name": "CoreDNS",
            } },
            "spec": {
                "type": "ClusterIP",
                "clusterIP": ip,
                "internalTrafficPolicy": "Local",
                "ports": [
                    { "name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53 },
                    { "name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53 },
                ],
            },
        }),
    ];
    for host in spec.hosts_with(Role::Worker) {
        let mut slice = format!("{name}-{}", host.name);
        slice.truncate(253);
        objects.push(json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": { "name": slice.trim_end_matches(['-', '.']), "namespace": "kube-system", "labels": {
                "kubernetes.io/service-name": name, "endpointslice.kubernetes.io/managed-by": "coxswain",
            } },
            "addressType": if host.address.is_ipv4() { "IPv4" } else { "IPv6" },
            "endpoints": [{
                "addresses": [host.address], "nodeName": host.name, "conditions": { "ready": true },
            }],
            "ports": [
                { "name": "dns", "port": node::DNS, "protocol": "UDP" },
                { "name": "dns-tcp", "port": node::DNS, "protocol": "TCP" },
            ],
        }));
    }
    Manifest { name: "dns", objects }
}
