//! A pod chooses its nodes by their labels.
use crate::framework::{Filter, Plugin, Prepared, Rejection, Score, Scorer, Wakes, normalize};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

const REASON: &str = "node(s) didn't match Pod's node affinity/selector";

/// Filters and scores by `nodeSelector` and node affinity.
pub struct NodeAffinity;

impl Plugin for NodeAffinity {
    fn name(&self) -> &'static str {
        "NodeAffinity"
    }

    fn wakes(&self) -> Wakes {
        Wakes::NODE_ADD.or(Wakes::NODE_LABELS)
    }
}

impl Filter for NodeAffinity {
    fn prepare<'a>(&'a self, pod: &'a PodInfo, _: &'a Snapshot) -> Prepared<'a> {
        if pod.node_terms.is_empty() {
            return Prepared::Skip;
        }
        Prepared::Judge(Box::new(move |node: &NodeInfo| {
            if pod.node_terms.allow(node) { Ok(()) } else { Err(Rejection::unresolvable(REASON)) }
        }))
    }
}

struct Preferred<'a>(&'a PodInfo);

impl Scorer for Preferred<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let terms = self.0.node_terms.preferred.iter();
        terms.filter(|(_, term)| term.matches(node)).map(|(weight, _)| weight).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        normalize(scores, false);
    }
}

impl Score for NodeAffinity {
    fn prepare<'a>(
        &'a self,
        pod: &'a PodInfo,
        _: &'a Snapshot,
        _: &[&'a NodeInfo],
    ) -> Option<Box<dyn Scorer + 'a>> {
        (!pod.node_terms.preferred.is_empty()).then(|| Box::new(Preferred(pod)) as Box<dyn Scorer>)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{scores, verdict};
    use crate::testing::{info, node, pod, snapshot};

    fn required(terms: Value) -> Value {
        json!({"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": terms}}}})
    }

    #[test]
    fn all_of_one_term_must_match() {
        let node = info("a", json!({"metadata": {"labels": {"zone": "z1", "cores": "8"}}}));
        let expr = |key: &str, op: &str, values: Value| json!({"key": key, "operator": op, "values": values});
        for (spec, expect) in [
            (json!({"containers": [], "nodeSelector": {"zone": "z1"}}), true),
            (json!({"containers": [], "nodeSelector": {"zone": "z2"}}), false),
            (required(json!([{"matchExpressions": [expr("zone", "In", json!(["z1", "z2"]))]}])), true),
            (required(json!([{"matchExpressions": [expr("zone", "NotIn", json!(["z1"]))]}])), false),
            (required(json!([{"matchExpressions": [expr("x", "DoesNotExist", json!([]))]}])), true),
            (required(json!([{"matchExpressions": [expr("cores", "Gt", json!(["4"]))]}])), true),
            (required(json!([{"matchExpressions": [expr("cores", "Lt", json!(["4"]))]}])), false),
            (required(json!([{"matchFields": [expr("metadata.name", "In", json!(["a"]))]}])), true),
            (required(json!([{"matchFields": [expr("metadata.name", "In", json!(["b"]))]}])), false),
            (required(json!([{}])), false),
            (required(json!([{}, {"matchExpressions": [expr("zone", "Exists", json!([]))]}])), true),
        ] {
            let got = verdict(&NodeAffinity, &pod("p", spec.clone()), &Snapshot::default(), &node);
            assert_eq!(got, if expect { "" } else { REASON }, "{spec}");
        }
    }

    #[test]
    fn preferred_terms_add_their_weights() {
        let s = snapshot([
            node("a", json!({"metadata": {"labels": {"x": "1"}}})),
            node("b", json!({"metadata": {"labels": {"x": "1", "y": "1"}}})),
            node("c", json!({})),
        ]);
        let term = |weight: i32, key: &str| json!({"weight": weight, "preference": {"matchExpressions": [{"key": key, "operator": "Exists"}]}});
        let p = pod(
            "p",
            json!({"containers": [], "affinity": {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": [term(1, "x"), term(3, "y")]}}}),
        );
        assert_eq!(scores(&NodeAffinity, &p, &s), [25, 100, 0]);
    }
}
