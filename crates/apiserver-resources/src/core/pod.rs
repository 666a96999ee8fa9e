//! v1 Pod: rules on the way in.
use machinery::Object;
use serde_json::{Value, json};

use crate::core::pod_spec::defaults;
use crate::rules::{Facts, Rules};
use crate::strategy::Grace;
use crate::tree::ensure;

/// Rules of pods.
pub(crate) struct Pod;

impl Rules for Pod {
    const FACTS: Facts = Facts::BOTH;

    fn fill_defaults(&self, object: &mut Object) {
        let spec = ensure(&mut object.0, "spec");
        defaults::fill_pod_spec(spec);
        defaults::fill_standalone(spec);
    }

    fn prepare_for_create(&self, object: &mut Object) {
        object.set(&["status"], json!({"phase": "Pending", "qosClass": qos_class(object)}));
    }

    fn grace(&self, object: &Object, requested: Option<i64>) -> Grace {
        let unassigned = object.str_at(&["spec", "nodeName"]).is_empty();
        let terminal = matches!(object.str_at(&["status", "phase"]), "Failed" | "Succeeded");
        let seconds = requested
            .or_else(|| object.i64_at(&["spec", "terminationGracePeriodSeconds"]))
            .unwrap_or(0);
        if unassigned || terminal || seconds == 0 {
            return Grace::Immediate;
        }
        Grace::Seconds(if seconds < 0 { 1 } else { seconds })
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        let text = |path: &[&str]| object.str_at(path).to_owned();
        let pod_ip = match object.list_at(&["status", "podIPs"]).first() {
            Some(ip) => ip.get("ip").and_then(Value::as_str).unwrap_or("").to_owned(),
            None => text(&["status", "podIP"]),
        };
        vec![
            ("spec.nodeName", text(&["spec", "nodeName"])),
            ("spec.restartPolicy", text(&["spec", "restartPolicy"])),
            ("spec.schedulerName", text(&["spec", "schedulerName"])),
            ("spec.serviceAccountName", text(&["spec", "serviceAccountName"])),
            ("spec.hostNetwork", object.bool_at(&["spec", "hostNetwork"]).unwrap_or(false).to_string()),
            ("status.phase", text(&["status", "phase"])),
            ("status.podIP", pod_ip),
            ("status.nominatedNodeName", text(&["status", "nominatedNodeName"])),
        ]
    }
}

/// Whether a quantity is zero; text that is no quantity counts as something.
fn is_zero(quantity: &Value) -> bool {
    match quantity {
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(s) => {
            let digits = s.trim_end_matches(|c: char| !c.is_ascii_digit());
            !digits.is_empty() && digits.bytes().all(|b| matches!(b, b'0' | b'.' | b'+' | b'-'))
        }
        _ => true,
    }
}

/// The quality-of-service class that a pod's requests and limits make.
pub(crate) fn qos_class(pod: &Object) -> &'static str {
    let computed = ["cpu", "memory"];
    let amounts = |resources: Option<&Value>, kind: &str| -> Vec<(String, Value)> {
        resources
            .and_then(|r| r.get(kind))
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter(|(name, q)| computed.contains(&name.as_str()) && !is_zero(q))
            .map(|(name, q)| (name.clone(), q.clone()))
            .collect()
    };
    let pod_level = pod.at(&["spec", "resources"]).filter(|r| {
        !amounts(Some(r), "limits").is_empty() || !amounts(Some(r), "requests").is_empty()
    });
    let holders: Vec<Option<&Value>> = match pod_level {
        Some(resources) => vec![Some(resources)],
        None => ["containers", "initContainers"]
            .iter()
            .flat_map(|list| pod.list_at(&["spec", list]))
            .map(|container| container.get("resources"))
            .collect(),
    };
    let mut any = false;
    let mut guaranteed = true;
    for resources in holders {
        let limits = amounts(resources, "limits");
        let requests = amounts(resources, "requests");
        any |= !limits.is_empty() || !requests.is_empty();
        let limits_all = computed.iter().all(|name| limits.iter().any(|(n, _)| n == name));
        let requests_are_limits = requests.iter().all(|(name, q)| limits.iter().any(|(n, l)| n == name && l == q));
        guaranteed &= limits_all && requests_are_limits;
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy_for;

    fn pod(spec: Value) -> Object {
        Object::from_value(json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec})).unwrap()
    }

    #[test]
    fn requests_and_limits_make_the_class() {
        let with = |resources: Value| pod(json!({"containers": [{"name": "a", "resources": resources}]}));
        assert_eq!(qos_class(&with(json!({}))), "BestEffort");
        assert_eq!(qos_class(&with(json!({"requests": {"cpu": "0"}}))), "BestEffort");
        assert_eq!(qos_class(&with(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(qos_class(&with(json!({"requests": both, "limits": both}))), "Guaranteed");
        assert_eq!(qos_class(&with(json!({"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": both}))), "Burstable");
    }

    #[test]
    fn a_new_pod_is_pending_with_its_class_and_first_generation() {
        let strategy = strategy_for("", "pods", "");
        let mut new = pod(json!({"containers": [{"name": "a", "image": "b"}]}));
        new.set(&["metadata", "generation"], 7);
        new.set(&["status", "phase"], "Running");
        strategy.fill_defaults(&mut new);
        strategy.admit_create(&mut new);
        assert_eq!(new.generation(), Some(1));
        assert_eq!(new.at(&["status"]), Some(&json!({"phase": "Pending", "qosClass": "BestEffort"})));
    }

    #[test]
    fn grace_follows_assignment_phase_and_request() {
        let strategy = strategy_for("", "pods", "");
        let mut p = pod(json!({"terminationGracePeriodSeconds": 30}));
        assert_eq!(strategy.grace(&p, None), Grace::Immediate);
        p.set(&["spec", "nodeName"], "n");
        assert_eq!(strategy.grace(&p, None), Grace::Seconds(30));
        assert_eq!(strategy.grace(&p, Some(5)), Grace::Seconds(5));
        assert_eq!(strategy.grace(&p, Some(-1)), Grace::Seconds(1));
        assert_eq!(strategy.grace(&p, Some(0)), Grace::Immediate);
        p.set(&["status", "phase"], "Failed");
        assert_eq!(strategy.grace(&p, None), Grace::Immediate);
    }
}
