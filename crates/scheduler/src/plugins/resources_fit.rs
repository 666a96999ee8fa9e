//! A node must have what a pod asks for, and is better the more it has left.
use std::borrow::Cow;

use crate::framework::{Filter, MAX_SCORE, Plugin, Prepared, Reason, Rejection, Score, Scorer, Wakes};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

/// Filters by requests, scores by what is least allocated.
pub struct ResourcesFit;

impl Plugin for ResourcesFit {
    fn name(&self) -> &'static str {
        "NodeResourcesFit"
    }

    fn wakes(&self) -> Wakes {
        Wakes::NODE_ADD.or(Wakes::NODE_ALLOCATABLE).or(Wakes::POD_GONE)
    }
}

/// Every resource that a node lacks for a pod, and whether it lacks one even without any other pod.
pub fn insufficient(pod: &PodInfo, node: &NodeInfo) -> Result<(), Rejection> {
    let (want, has, used) = (&pod.requests.exact, &node.allocatable, &node.requested);
    let mut reasons: Vec<Reason> = Vec::new();
    let mut hopeless = false;
    let pods = i64::try_from(node.pods.len()).unwrap_or(i64::MAX);
    if pods.saturating_add(1) > has.pods {
        reasons.push(Cow::Borrowed("Too many pods"));
    }
    let mut check = |want: i64, has: i64, used: i64, reason: &dyn Fn() -> Reason| {
        if want > 0 && want > has.saturating_sub(used) {
            reasons.push(reason());
            hopeless |= want > has;
        }
    };
    check(want.milli_cpu, has.milli_cpu, used.milli_cpu, &|| "Insufficient cpu".into());
    check(want.memory, has.memory, used.memory, &|| "Insufficient memory".into());
    check(want.ephemeral_storage, has.ephemeral_storage, used.ephemeral_storage, &|| {
        "Insufficient ephemeral-storage".into()
    });
    for (name, amount) in &want.other {
        check(*amount, has.other(name), used.other(name), &|| format!("Insufficient {name}").into());
    }
    if reasons.is_empty() { Ok(()) } else { Err(Rejection { reasons, unresolvable: hopeless }) }
}

impl Filter for ResourcesFit {
    fn prepare<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> Prepared<'a> {
        Prepared::Judge(Box::new(move |node: &NodeInfo| insufficient(pod, node)))
    }
}

struct LeastAllocated<'a>(&'a PodInfo);

impl Scorer for LeastAllocated<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let free = |has: i64, used: i64| {
            (has > 0).then(|| if used > has { 0 } else { (has - used) * MAX_SCORE / has })
        };
        let want = &self.0.requests;
        let cpu = free(node.allocatable.milli_cpu, node.scored_milli_cpu + want.scored_milli_cpu);
        let memory = free(node.allocatable.memory, node.scored_memory + want.scored_memory);
        match (cpu, memory) {
            (Some(a), Some(b)) => i64::midpoint(a, b),
            (Some(a), None) | (None, Some(a)) => a,
            (None, None) => 0,
        }
    }
}

impl Score for ResourcesFit {
    fn prepare<'a>(
        &'a self,
        pod: &'a PodInfo,
        _: &'a Snapshot,
        _: &[&'a NodeInfo],
    ) -> Option<Box<dyn Scorer + 'a>> {
        Some(Box::new(LeastAllocated(pod)))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{scores, verdict};
    use crate::testing::{info, pod, roomy, snapshot};

    fn asking(requests: Value) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": requests}}]})
    }

    #[test]
    fn names_every_resource_that_is_missing() {
        let check = |requests: Value, expect: &str| {
            let mut node = info(
                "a",
                json!({"status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "2", "x.y/gpu": "1"}}}),
            );
            node.add_pod(pod("other", asking(json!({"cpu": "3", "memory": "1Gi"}))));
            let p = pod("p", asking(requests.clone()));
            assert_eq!(verdict(&ResourcesFit, &p, &Snapshot::default(), &node), expect, "{requests}");
        };
        check(json!({}), "");
        check(json!({"cpu": "1"}), "");
        check(json!({"cpu": "1001m"}), "Insufficient cpu");
        check(json!({"cpu": "2", "memory": "9Gi"}), "Insufficient cpu, Insufficient memory");
        check(json!({"x.y/gpu": "1"}), "");
        check(json!({"x.y/gpu": "2"}), "Insufficient x.y/gpu");
        check(json!({"other.io/x": "1"}), "Insufficient other.io/x");
    }

    #[test]
    fn a_full_node_takes_no_pod_and_an_impossible_wish_is_hopeless() {
        let mut node = info("a", json!({"status": {"allocatable": {"cpu": "4", "pods": "1"}}}));
        let p = pod("p", asking(json!({"cpu": "3"})));
        assert_eq!(insufficient(&p, &node), Ok(()));
        node.add_pod(pod("other", asking(json!({"cpu": "2"}))));
        let e = insufficient(&p, &node).expect_err("no room");
        assert_eq!(
            (e.reasons.join(", ").as_str(), e.unresolvable),
            ("Too many pods, Insufficient cpu", false)
        );
        let e = insufficient(&pod("q", asking(json!({"cpu": "5"}))), &node).expect_err("no room ever");
        assert!(e.unresolvable);
    }

    #[test]
    fn emptier_nodes_score_higher() {
        let mut s = snapshot([roomy("a"), roomy("b")]);
        s.place(pod("other", asking(json!({"cpu": "2", "memory": "4Gi"}))), "b");
        let got = scores(&ResourcesFit, &pod("p", asking(json!({"cpu": "1", "memory": "2Gi"}))), &s);
        assert_eq!(got, [75, 25]);
    }
}
