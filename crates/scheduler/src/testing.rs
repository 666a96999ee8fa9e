//! Pods and nodes for tests.
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;
use serde_json::{Value, json};

use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

/// A pod with this spec in namespace `default`; its UID is its name.
pub fn pod(name: &str, spec: Value) -> Arc<PodInfo> {
    labelled(name, json!({}), spec)
}

/// A pod with labels.
pub fn labelled(name: &str, labels: Value, spec: Value) -> Arc<PodInfo> {
    let pod = json!({
        "metadata": { "name": name, "namespace": "default", "uid": name, "labels": labels },
        "spec": spec,
    });
    Arc::new(PodInfo::new(Arc::new(serde_json::from_value(pod).expect("a pod"))))
}

/// A node with the name label.
pub fn node(name: &str, mut more: Value) -> Arc<Node> {
    more["metadata"]["name"] = name.into();
    more["metadata"]["labels"]["kubernetes.io/hostname"] = name.into();
    Arc::new(serde_json::from_value(more).expect("a node"))
}

/// A node with room for 110 pods, 4 cores and 8 GiB.
pub fn roomy(name: &str) -> Arc<Node> {
    node(name, json!({"status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "110"}}}))
}

/// The scheduler's view of a node without pods.
pub fn info(name: &str, more: Value) -> NodeInfo {
    NodeInfo::new(node(name, more))
}

/// A snapshot of these nodes.
pub fn snapshot(nodes: impl IntoIterator<Item = Arc<Node>>) -> Snapshot {
    let mut snapshot = Snapshot::default();
    nodes.into_iter().for_each(|n| snapshot.set_node(n));
    snapshot
}
