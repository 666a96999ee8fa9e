//! A node is better when CPU and memory are used up evenly.
use crate::framework::{MAX_SCORE, Plugin, Score, Scorer};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

/// Scores by how even the use of resources would be.
pub struct BalancedAllocation;

impl Plugin for BalancedAllocation {
    fn name(&self) -> &'static str {
        "NodeResourcesBalancedAllocation"
    }
}

struct Balance<'a>(&'a PodInfo);

impl Scorer for Balance<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let want = &self.0.requests.exact;
        let share = |used: i64, has: i64| (has > 0).then(|| (used as f64 / has as f64).min(1.0));
        let cpu = share(node.requested.milli_cpu + want.milli_cpu, node.allocatable.milli_cpu);
        let memory = share(node.requested.memory + want.memory, node.allocatable.memory);
        // The standard deviation of two numbers is half of their distance; one alone cannot be uneven.
        let deviation = cpu.zip(memory).map_or(0.0, |(a, b)| (a - b).abs() / 2.0);
        ((1.0 - deviation) * MAX_SCORE as f64) as i64
    }
}

impl Score for BalancedAllocation {
    fn prepare<'a>(
        &'a self,
        pod: &'a PodInfo,
        _: &'a Snapshot,
        _: &[&'a NodeInfo],
    ) -> Option<Box<dyn Scorer + 'a>> {
        // A pod that asks for nothing balances nothing.
        let want = &pod.requests.exact;
        (want.milli_cpu != 0 || want.memory != 0).then(|| Box::new(Balance(pod)) as Box<dyn Scorer>)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::scores;
    use crate::testing::{pod, roomy, snapshot};

    #[test]
    fn a_pod_goes_where_it_evens_things_out() {
        let asking = |name: &str, cpu: &str, memory: &str| {
            pod(
                name,
                json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu, "memory": memory}}}]}),
            )
        };
        let mut s = snapshot([roomy("a"), roomy("b")]);
        s.place(asking("x", "2", "1Gi"), "a");
        s.place(asking("y", "500m", "4Gi"), "b");
        let got = scores(&BalancedAllocation, &asking("p", "100m", "3Gi"), &s);
        assert!(got[0] > got[1], "{got:?}");
        assert_eq!(scores(&BalancedAllocation, &pod("q", json!({"containers": []})), &s), [0, 0]);
    }
}
