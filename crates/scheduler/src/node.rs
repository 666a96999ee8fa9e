//! What the scheduler knows of a node: its object and what the pods on it hold.
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Taint};

use crate::pod::{HostPort, Labels, PodInfo};
use crate::resources::Resources;

/// A node and its pods.
#[derive(Debug, Clone)]
pub struct NodeInfo {
    /// Name.
    pub name: String,
    /// The object.
    pub node: Arc<Node>,
    /// What pods may ask for in all.
    pub allocatable: Resources,
    /// What its pods ask for.
    pub requested: Resources,
    /// What its pods count as in scores: thousandths of a core.
    pub scored_milli_cpu: i64,
    /// What its pods count as in scores: bytes.
    pub scored_memory: i64,
    /// The pods assigned to it, assumed ones included.
    pub pods: Vec<Arc<PodInfo>>,
    /// Ports its pods hold.
    pub ports: Vec<HostPort>,
}

impl NodeInfo {
    /// A node without pods.
    pub fn new(node: Arc<Node>) -> Self {
        let status = node.status.as_ref();
        let list = status.and_then(|s| s.allocatable.as_ref().or(s.capacity.as_ref()));
        Self {
            name: node.metadata.name.clone().unwrap_or_default(),
            allocatable: Resources::from_list(list),
            requested: Resources::default(),
            scored_milli_cpu: 0,
            scored_memory: 0,
            pods: Vec::new(),
            ports: Vec::new(),
            node,
        }
    }

    /// The same pods on the node as it is now.
    pub fn replace_node(&mut self, node: Arc<Node>) {
        let fresh = Self::new(node);
        self.node = fresh.node;
        self.allocatable = fresh.allocatable;
    }

    /// Puts a pod on the node.
    pub fn add_pod(&mut self, pod: Arc<PodInfo>) {
        self.requested.add(&pod.requests.exact);
        self.scored_milli_cpu += pod.requests.scored_milli_cpu;
        self.scored_memory += pod.requests.scored_memory;
        self.ports.extend(pod.ports.iter().cloned());
        self.pods.push(pod);
    }

    /// Takes a pod off the node.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let i = self.pods.iter().position(|p| p.uid == uid)?;
        let pod = self.pods.swap_remove(i);
        self.requested.sub(&pod.requests.exact);
        self.scored_milli_cpu -= pod.requests.scored_milli_cpu;
        self.scored_memory -= pod.requests.scored_memory;
        for port in &pod.ports {
            if let Some(i) = self.ports.iter().position(|p| p == port) {
                self.ports.swap_remove(i);
            }
        }
        Some(pod)
    }

    /// Labels.
    pub fn labels(&self) -> Option<&Labels> {
        self.node.metadata.labels.as_ref()
    }

    /// One label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.labels()?.get(key).map(String::as_str)
    }

    /// Taints.
    pub fn taints(&self) -> &[Taint] {
        self.node.spec.as_ref().and_then(|s| s.taints.as_deref()).unwrap_or(&[])
    }

    /// `spec.unschedulable`.
    pub fn is_cordoned(&self) -> bool {
        self.node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false)
    }
}
