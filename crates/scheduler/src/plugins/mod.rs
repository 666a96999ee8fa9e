//! One file per plugin: a zero-I/O struct, its reasons, an `impl` per extension point, tests of verdicts.
mod balanced_allocation;
mod inter_pod_affinity;
mod node_affinity;
mod node_name;
mod node_ports;
mod node_unschedulable;
mod resources_fit;
mod taint_toleration;
mod topology_spread;
mod volume_binding;

pub use balanced_allocation::BalancedAllocation;
pub use inter_pod_affinity::InterPodAffinity;
pub use node_affinity::NodeAffinity;
pub use node_name::NodeName;
pub use node_ports::NodePorts;
pub use node_unschedulable::NodeUnschedulable;
pub use resources_fit::ResourcesFit;
pub use taint_toleration::TaintToleration;
pub use topology_spread::PodTopologySpread;
pub use volume_binding::VolumeBinding;

#[cfg(test)]
mod testing {
    use crate::framework::{Filter, Prepared, Score};
    use crate::node::NodeInfo;
    use crate::pod::PodInfo;
    use crate::snapshot::Snapshot;

    /// The reasons a filter gives for one node, joined; empty: it fits.
    pub fn verdict(filter: &dyn Filter, pod: &PodInfo, snapshot: &Snapshot, node: &NodeInfo) -> String {
        match filter.prepare(pod, snapshot) {
            Prepared::Skip => String::new(),
            Prepared::Reject(r) => r.reasons.join(", "),
            Prepared::Judge(judge) => {
                judge.filter(node).err().map_or_else(String::new, |r| r.reasons.join(", "))
            }
        }
    }

    /// The normalized scores of all nodes of a snapshot.
    pub fn scores(score: &dyn Score, pod: &PodInfo, snapshot: &Snapshot) -> Vec<i64> {
        let nodes: Vec<&NodeInfo> = snapshot.nodes().iter().map(|n| &**n).collect();
        let Some(scorer) = score.prepare(pod, snapshot, &nodes) else { return vec![0; nodes.len()] };
        let mut scores: Vec<i64> = nodes.iter().map(|n| scorer.score(n)).collect();
        scorer.normalize(&mut scores);
        scores
    }
}
