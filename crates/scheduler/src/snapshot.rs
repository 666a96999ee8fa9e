//! The cluster as the scheduler sees it: changed by one event at a time, read by one cycle at a time, never copied.
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use k8s_openapi::api::core::v1::Node;

use crate::node::NodeInfo;
use crate::pod::{Labels, PodInfo};
use crate::volumes::Volumes;

/// Nodes, their pods, and what spans nodes.
///
/// Nodes are shared values that are copied when changed while somebody else holds them, so a clone of a snapshot,
/// as preemption makes to try things out, costs one pointer for each node.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    nodes: Vec<Arc<NodeInfo>>,
    by_name: HashMap<String, usize>,
    /// Where each pod is, by UID.
    places: HashMap<String, String>,
    /// Pods on nodes that were not seen yet.
    homeless: HashMap<String, Vec<Arc<PodInfo>>>,
    /// Pods with rules about other pods, with their nodes, by UID.
    with_rules: BTreeMap<String, (String, Arc<PodInfo>)>,
    /// Pods that a preemption makes room for, with their nodes, by UID.
    nominated: BTreeMap<String, (String, Arc<PodInfo>)>,
    namespaces: BTreeMap<String, Labels>,
    volumes: Arc<Volumes>,
}

impl Snapshot {
    /// All nodes.
    pub fn nodes(&self) -> &[Arc<NodeInfo>] {
        &self.nodes
    }

    /// One node.
    pub fn node(&self, name: &str) -> Option<&Arc<NodeInfo>> {
        self.by_name.get(name).map(|i| &self.nodes[*i])
    }

    /// Labels of all namespaces.
    pub fn namespaces(&self) -> &BTreeMap<String, Labels> {
        &self.namespaces
    }

    /// Claims, volumes and storage classes.
    pub fn volumes(&self) -> &Volumes {
        &self.volumes
    }

    /// The same, to be changed.
    pub fn volumes_mut(&mut self) -> &mut Volumes {
        Arc::make_mut(&mut self.volumes)
    }

    /// Pods with rules about other pods and the nodes they are on.
    pub fn with_rules(&self) -> impl Iterator<Item = (&NodeInfo, &PodInfo)> {
        self.with_rules.values().filter_map(|(node, pod)| Some((&**self.node(node)?, &**pod)))
    }

    /// The pods a node is kept free for.
    pub fn nominated_to<'a>(&'a self, node: &'a str) -> impl Iterator<Item = &'a Arc<PodInfo>> {
        self.nominated.values().filter(move |(n, _)| n == node).map(|(_, pod)| pod)
    }

    /// Whether any node is kept free for a pod.
    pub fn has_nominations(&self) -> bool {
        !self.nominated.is_empty()
    }

    /// Keeps room on a node for a pod; `None` forgets that.
    pub fn nominate(&mut self, pod: &Arc<PodInfo>, node: Option<&str>) {
        match node {
            Some(node) => {
                self.nominated.insert(pod.uid.clone(), (node.to_owned(), pod.clone()));
            }
            None => {
                self.nominated.remove(&pod.uid);
            }
        }
    }

    /// Forgets a nomination of a pod that is gone.
    pub fn forget_nomination(&mut self, uid: &str) {
        self.nominated.remove(uid);
    }

    /// Takes in a node as it is now.
    pub fn set_node(&mut self, node: Arc<Node>) {
        let name = node.metadata.name.clone().unwrap_or_default();
        if let Some(i) = self.by_name.get(&name) {
            Arc::make_mut(&mut self.nodes[*i]).replace_node(node);
            return;
        }
        let mut info = NodeInfo::new(node);
        for pod in self.homeless.remove(&name).into_iter().flatten() {
            info.add_pod(pod);
        }
        self.by_name.insert(name, self.nodes.len());
        self.nodes.push(Arc::new(info));
    }

    /// Forgets a node. Its pods stay known until they are gone themselves.
    pub fn remove_node(&mut self, name: &str) {
        let Some(i) = self.by_name.remove(name) else { return };
        let gone = self.nodes.swap_remove(i);
        if let Some(moved) = self.nodes.get(i) {
            self.by_name.insert(moved.name.clone(), i);
        }
        if !gone.pods.is_empty() {
            self.homeless.insert(name.to_owned(), gone.pods.clone());
        }
    }

    /// Puts a pod on a node, wherever it was before.
    pub fn place(&mut self, pod: Arc<PodInfo>, node: &str) {
        self.remove_pod(&pod.uid);
        self.nominated.remove(&pod.uid);
        self.places.insert(pod.uid.clone(), node.to_owned());
        if pod.affinity.is_some() {
            self.with_rules.insert(pod.uid.clone(), (node.to_owned(), pod.clone()));
        }
        match self.by_name.get(node) {
            Some(i) => Arc::make_mut(&mut self.nodes[*i]).add_pod(pod),
            None => self.homeless.entry(node.to_owned()).or_default().push(pod),
        }
    }

    /// Takes a pod off its node.
    pub fn remove_pod(&mut self, uid: &str) -> Option<Arc<PodInfo>> {
        let node = self.places.remove(uid)?;
        self.with_rules.remove(uid);
        if let Some(i) = self.by_name.get(&node) {
            return Arc::make_mut(&mut self.nodes[*i]).remove_pod(uid);
        }
        let pods = self.homeless.get_mut(&node)?;
        let pod = pods.iter().position(|p| p.uid == uid).map(|i| pods.swap_remove(i));
        if pods.is_empty() {
            self.homeless.remove(&node);
        }
        pod
    }

    /// Where a pod is.
    pub fn place_of(&self, uid: &str) -> Option<&str> {
        self.places.get(uid).map(String::as_str)
    }

    /// Takes in a namespace's labels; `None`: it is gone.
    pub fn set_namespace(&mut self, name: &str, labels: Option<Labels>) {
        match labels {
            Some(labels) => {
                self.namespaces.insert(name.to_owned(), labels);
            }
            None => {
                self.namespaces.remove(name);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::testing::{node, pod};

    #[test]
    fn pods_count_on_their_node_even_when_they_come_first() {
        let mut s = Snapshot::default();
        let p = pod("a", json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": "1"}}}]}));
        s.place(p.clone(), "n");
        s.set_node(node("n", json!({})));
        assert_eq!(s.node("n").map(|n| n.requested.milli_cpu), Some(1000));
        s.set_node(node("n", json!({"status": {"allocatable": {"cpu": "4"}}})));
        assert_eq!(s.node("n").map(|n| (n.requested.milli_cpu, n.allocatable.milli_cpu)), Some((1000, 4000)));
        s.remove_node("n");
        s.set_node(node("n", json!({})));
        assert_eq!(s.node("n").map(|n| n.pods.len()), Some(1));
        s.remove_pod(&p.uid);
        assert_eq!(s.node("n").map(|n| n.requested.milli_cpu), Some(0));
        assert_eq!(s.place_of(&p.uid), None);
    }

    #[test]
    fn a_clone_does_not_see_later_changes() {
        let mut s = Snapshot::default();
        s.set_node(node("n", json!({})));
        let before = s.clone();
        s.place(pod("a", json!({"containers": []})), "n");
        assert_eq!(before.node("n").map(|n| n.pods.len()), Some(0));
        assert_eq!(s.node("n").map(|n| n.pods.len()), Some(1));
    }

    #[test]
    fn removing_a_node_keeps_the_others_findable() {
        let mut s = Snapshot::default();
        for name in ["a", "b", "c"] {
            s.set_node(node(name, json!({})));
        }
        s.remove_node("a");
        for name in ["b", "c"] {
            assert_eq!(s.node(name).map(|n| n.name.as_str()), Some(name));
        }
        assert!(s.node("a").is_none());
    }
}
