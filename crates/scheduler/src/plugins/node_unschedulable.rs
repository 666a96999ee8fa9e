//! Cordoned nodes take no pods, save those that tolerate it.
use k8s_openapi::api::core::v1::Taint;

use super::taint_toleration::tolerates;
use crate::framework::{Filter, Plugin, Prepared, Rejection, Wakes};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

const REASON: &str = "node(s) were unschedulable";

/// Filters by the node's `spec.unschedulable`.
pub struct NodeUnschedulable;

impl Plugin for NodeUnschedulable {
    fn name(&self) -> &'static str {
        "NodeUnschedulable"
    }

    fn wakes(&self) -> Wakes {
        Wakes::NODE_ADD.or(Wakes::NODE_TAINTS)
    }
}

impl Filter for NodeUnschedulable {
    fn prepare<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> Prepared<'a> {
        Prepared::Judge(Box::new(move |node: &NodeInfo| {
            if !node.is_cordoned() {
                return Ok(());
            }
            let taint = Taint {
                key: "node.kubernetes.io/unschedulable".into(),
                effect: "NoSchedule".into(),
                ..Taint::default()
            };
            let tolerated =
                pod.spec().and_then(|s| s.tolerations.as_ref()).is_some_and(|t| tolerates(t, &taint));
            if tolerated { Ok(()) } else { Err(Rejection::unresolvable(REASON)) }
        }))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::verdict;
    use crate::testing::{info, pod};

    #[test]
    fn cordoned_nodes_take_only_who_tolerates_it() {
        let check = |cordoned: bool, spec, expect: &str| {
            let node = info("a", json!({"spec": {"unschedulable": cordoned}}));
            assert_eq!(verdict(&NodeUnschedulable, &pod("p", spec), &Snapshot::default(), &node), expect);
        };
        check(false, json!({"containers": []}), "");
        check(true, json!({"containers": []}), REASON);
        let tolerations = json!([{"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"}]);
        check(true, json!({"containers": [], "tolerations": tolerations}), "");
    }
}
