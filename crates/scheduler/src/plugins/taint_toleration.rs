//! Nodes with taints take only pods that tolerate them, and are worse for pods that merely had better not come.
use k8s_openapi::api::core::v1::{Taint, Toleration};

use crate::framework::{Filter, Plugin, Prepared, Rejection, Score, Scorer, Wakes, normalize};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

const REASON: &str = "node(s) had untolerated taint(s)";

/// Whether one of the tolerations tolerates a taint.
pub fn tolerates(tolerations: &[Toleration], taint: &Taint) -> bool {
    tolerations.iter().any(|t| {
        let text = |o: &Option<String>| o.clone().unwrap_or_default();
        let (effect, key) = (text(&t.effect), text(&t.key));
        if !(effect.is_empty() || effect == taint.effect) || !(key.is_empty() || key == taint.key) {
            return false;
        }
        match t.operator.as_deref() {
            None | Some("" | "Equal") => text(&t.value) == text(&taint.value),
            Some("Exists") => true,
            _ => false,
        }
    })
}

/// Whether a node has no taint that keeps the pod away.
pub fn tolerates_node(pod: &PodInfo, node: &NodeInfo) -> bool {
    let tolerations = tolerations(pod);
    node.taints()
        .iter()
        .filter(|t| t.effect == "NoSchedule" || t.effect == "NoExecute")
        .all(|t| tolerates(tolerations, t))
}

fn tolerations(pod: &PodInfo) -> &[Toleration] {
    pod.spec().and_then(|s| s.tolerations.as_deref()).unwrap_or(&[])
}

/// Filters and scores by taints.
pub struct TaintToleration;

impl Plugin for TaintToleration {
    fn name(&self) -> &'static str {
        "TaintToleration"
    }

    fn wakes(&self) -> Wakes {
        Wakes::NODE_ADD.or(Wakes::NODE_TAINTS)
    }
}

impl Filter for TaintToleration {
    fn prepare<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> Prepared<'a> {
        Prepared::Judge(Box::new(move |node: &NodeInfo| {
            if tolerates_node(pod, node) { Ok(()) } else { Err(Rejection::unresolvable(REASON)) }
        }))
    }
}

struct Untolerated<'a>(&'a [Toleration]);

impl Scorer for Untolerated<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let soft = |t: &&Taint| t.effect == "PreferNoSchedule" && !tolerates(self.0, t);
        i64::try_from(node.taints().iter().filter(soft).count()).unwrap_or(i64::MAX)
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize(scores, true);
    }
}

impl Score for TaintToleration {
    fn prepare<'a>(
        &'a self,
        pod: &'a PodInfo,
        _: &'a Snapshot,
        feasible: &[&'a NodeInfo],
    ) -> Option<Box<dyn Scorer + 'a>> {
        let any = feasible.iter().any(|n| n.taints().iter().any(|t| t.effect == "PreferNoSchedule"));
        any.then(|| Box::new(Untolerated(tolerations(pod))) as Box<dyn Scorer>)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{scores, verdict};
    use crate::testing::{info, node, pod, snapshot};

    #[test]
    fn a_taint_wants_a_toleration_with_its_key_value_and_effect() {
        let check = |toleration: Value, expect: bool| {
            let taints = json!([{"key": "k", "value": "v", "effect": "NoSchedule"}, {"key": "soft", "effect": "PreferNoSchedule"}]);
            let node = info("a", json!({"spec": {"taints": taints}}));
            let p = pod("p", json!({"containers": [], "tolerations": [toleration.clone()]}));
            let got = verdict(&TaintToleration, &p, &Snapshot::default(), &node);
            assert_eq!(got, if expect { "" } else { REASON }, "{toleration}");
        };
        check(json!({"key": "k", "value": "v", "effect": "NoSchedule"}), true);
        check(json!({"key": "k", "operator": "Equal", "value": "v"}), true);
        check(json!({"key": "k", "operator": "Exists"}), true);
        check(json!({"operator": "Exists"}), true);
        check(json!({"key": "k", "value": "w"}), false);
        check(json!({"key": "l", "operator": "Exists"}), false);
        check(json!({"key": "k", "operator": "Exists", "effect": "NoExecute"}), false);
    }

    #[test]
    fn soft_taints_make_a_node_worse() {
        let taint = |key: &str| json!({"key": key, "effect": "PreferNoSchedule"});
        let s = snapshot([
            node("a", json!({})),
            node("b", json!({"spec": {"taints": [taint("x")]}})),
            node("c", json!({"spec": {"taints": [taint("x"), taint("y")]}})),
        ]);
        assert_eq!(scores(&TaintToleration, &pod("p", json!({"containers": []})), &s), [100, 50, 0]);
    }
}
