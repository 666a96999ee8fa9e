//! Which Nodes a DaemonSet's pods belong on.
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{
    Affinity, Node, NodeAffinity, NodeSelector, NodeSelectorRequirement, NodeSelectorTerm, Pod, PodSpec,
    Toleration,
};

use crate::pods;
use crate::taint_eviction::tolerates;

/// Tolerated by every daemon pod, key and effect.
const TOLERATED: [(&str, &str); 6] = [
    ("node.kubernetes.io/not-ready", "NoExecute"),
    ("node.kubernetes.io/unreachable", "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    ("node.kubernetes.io/unschedulable", "NoSchedule"),
];
const ON_HOST_NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

/// Adds the tolerations that every daemon pod has.
pub fn add_tolerations(spec: &mut PodSpec) {
    let more = spec.host_network.unwrap_or(false).then_some(ON_HOST_NETWORK);
    let tolerations = spec.tolerations.get_or_insert_default();
    for (key, effect) in TOLERATED.into_iter().chain(more) {
        let there = tolerations.iter().any(|t| {
            t.key.as_deref() == Some(key)
                && t.effect.as_deref() == Some(effect)
                && t.operator.as_deref() == Some("Exists")
        });
        if !there {
            tolerations.push(Toleration {
                key: Some(key.into()),
                operator: Some("Exists".into()),
                effect: Some(effect.into()),
                ..Toleration::default()
            });
        }
    }
}

/// Ties a pod to one Node and leaves the binding to the scheduler.
pub fn pin(spec: &mut PodSpec, node: &str) {
    let only = NodeSelectorRequirement {
        key: "metadata.name".into(),
        operator: "In".into(),
        values: Some(vec![node.to_owned()]),
    };
    let term = NodeSelectorTerm { match_fields: Some(vec![only]), match_expressions: None };
    let affinity: &mut Affinity = spec.affinity.get_or_insert_default();
    let on_nodes: &mut NodeAffinity = affinity.node_affinity.get_or_insert_default();
    on_nodes.required_during_scheduling_ignored_during_execution =
        Some(NodeSelector { node_selector_terms: vec![term] });
}

/// The Node that a daemon pod runs on, or is tied to.
pub fn node_of(pod: &Pod) -> Option<String> {
    let bound = pods::node_name(pod);
    if !bound.is_empty() {
        return Some(bound.to_owned());
    }
    let affinity = pod.spec.as_ref()?.affinity.as_ref()?.node_affinity.as_ref()?;
    let terms = &affinity.required_during_scheduling_ignored_during_execution.as_ref()?.node_selector_terms;
    let fields = terms.iter().flat_map(|t| t.match_fields.iter().flatten());
    fields
        .into_iter()
        .find(|f| f.key == "metadata.name" && f.operator == "In")
        .and_then(|f| f.values.as_ref()?.first().cloned())
}

/// Whether a pod should run on a Node, and whether one that runs there may stay.
pub fn fits(set: &DaemonSet, node: &Node) -> (bool, bool) {
    let mut spec = set.spec.as_ref().and_then(|s| s.template.spec.clone()).unwrap_or_default();
    add_tolerations(&mut spec);
    let name = node.metadata.name.as_deref().unwrap_or("");
    let named = spec.node_name.as_deref().is_none_or(|n| n.is_empty() || n == name);
    if !named || !selected(&spec, node) {
        return (false, false);
    }
    let taints: Vec<_> = node.spec.iter().flat_map(|s| s.taints.iter().flatten()).collect();
    let tolerations = spec.tolerations.as_deref().unwrap_or(&[]);
    let bears = |effect: &str| {
        taints
            .iter()
            .filter(|t| t.effect == effect)
            .all(|taint| tolerations.iter().any(|t| tolerates(t, taint)))
    };
    (bears("NoExecute") && bears("NoSchedule"), bears("NoExecute"))
}

fn selected(spec: &PodSpec, node: &Node) -> bool {
    let labels = node.metadata.labels.clone().unwrap_or_default();
    if !spec.node_selector.iter().flatten().all(|(k, v)| labels.get(k) == Some(v)) {
        return false;
    }
    let required = spec
        .affinity
        .as_ref()
        .and_then(|a| a.node_affinity.as_ref()?.required_during_scheduling_ignored_during_execution.as_ref());
    let Some(required) = required else { return true };
    let name = node.metadata.name.as_deref();
    required.node_selector_terms.iter().any(|term| {
        let expressions = term.match_expressions.as_deref().unwrap_or(&[]);
        let fields = term.match_fields.as_deref().unwrap_or(&[]);
        !(expressions.is_empty() && fields.is_empty())
            && expressions.iter().all(|e| meets(e, labels.get(&e.key).map(String::as_str)))
            && fields.iter().all(|f| meets(f, name.filter(|_| f.key == "metadata.name")))
    })
}

fn meets(requirement: &NodeSelectorRequirement, value: Option<&str>) -> bool {
    let values = requirement.values.as_deref().unwrap_or(&[]);
    let listed = || value.is_some_and(|v| values.iter().any(|x| x == v));
    let number = |text: &str| text.parse::<i64>().ok();
    let compare = |holds: fn(&i64, &i64) -> bool| {
        let (have, bound) = (value.and_then(number), values.first().and_then(|v| number(v)));
        matches!((have, bound), (Some(have), Some(bound)) if holds(&have, &bound))
    };
    match &*requirement.operator {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        "Gt" => compare(i64::gt),
        "Lt" => compare(i64::lt),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn set(pod: Value) -> DaemonSet {
        serde_json::from_value(json!({"spec": {"selector": {}, "template": {"spec": pod}}})).unwrap()
    }

    fn node(spec: Value) -> Node {
        serde_json::from_value(
            json!({"metadata": {"name": "n1", "labels": {"disk": "ssd", "cores": "8"}}, "spec": spec}),
        )
        .unwrap()
    }

    #[test]
    fn placement() {
        let affinity = |key: &str, operator: &str, values: Value| {
            json!({"containers": [], "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {
                "nodeSelectorTerms": [{"matchExpressions": [{"key": key, "operator": operator, "values": values}]}]}}}})
        };
        let taint = |key: &str, effect: &str| json!({"taints": [{"key": key, "effect": effect}]});
        // pod, node, should run, may stay
        for (pod, spec, run, stay) in [
            (json!({"containers": []}), json!({}), true, true),
            (json!({"containers": [], "nodeSelector": {"disk": "ssd"}}), json!({}), true, true),
            (json!({"containers": [], "nodeSelector": {"disk": "hdd"}}), json!({}), false, false),
            (json!({"containers": [], "nodeName": "other"}), json!({}), false, false),
            (affinity("cores", "Gt", json!(["4"])), json!({}), true, true),
            (affinity("disk", "NotIn", json!(["ssd"])), json!({}), false, false),
            (affinity("gpu", "DoesNotExist", json!([])), json!({}), true, true),
            (json!({"containers": []}), taint("mine", "NoSchedule"), false, true),
            (json!({"containers": []}), taint("mine", "NoExecute"), false, false),
            (json!({"containers": []}), taint("node.kubernetes.io/not-ready", "NoExecute"), true, true),
            (json!({"containers": []}), taint("node.kubernetes.io/unschedulable", "NoSchedule"), true, true),
            (
                json!({"containers": []}),
                taint("node.kubernetes.io/network-unavailable", "NoSchedule"),
                false,
                true,
            ),
            (
                json!({"containers": [], "hostNetwork": true}),
                taint("node.kubernetes.io/network-unavailable", "NoSchedule"),
                true,
                true,
            ),
        ] {
            assert_eq!(fits(&set(pod.clone()), &node(spec.clone())), (run, stay), "{pod} {spec}");
        }
    }

    #[test]
    fn a_pinned_pod_knows_its_node() {
        let mut pod = Pod { spec: Some(PodSpec::default()), ..Pod::default() };
        assert_eq!(node_of(&pod), None);
        pin(pod.spec.as_mut().unwrap(), "n1");
        assert_eq!(node_of(&pod).as_deref(), Some("n1"));
    }
}
