//! v1 Pod: rules on the way in. What an update may change is in [`crate::core::pod_update`].
use machinery::{FieldErrors, Object};
use serde_json::{Value, json};

use crate::core::pod_qos::qos_class;
use crate::core::pod_spec::warnings;
use crate::core::pod_spec::{defaults, validation};
use crate::core::pod_update;
use crate::rules::{Facts, Rules};
use crate::spelling;
use crate::strategy::Grace;
use crate::tree::{At, child, ensure, sync_first};

/// Rules of pods.
pub(crate) struct Pod;

impl Rules for Pod {
    const FACTS: Facts = Facts::BOTH;

    fn fill_defaults(&self, object: &mut Object) {
        let spec = ensure(&mut object.0, "spec");
        defaults::fill_pod_spec(spec);
        defaults::fill_standalone(spec);
        if let Some(status) = child(&mut object.0, "status") {
            sync_first(status, "podIP", "podIPs", |ip| json!({"ip": ip}), |item| item.get("ip").cloned());
        }
    }

    fn status_at_birth(&self, object: &Object) -> Option<Value> {
        Some(json!({"phase": "Pending", "qosClass": qos_class(object)}))
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        warnings::of_pod(new, old)
    }

    fn status_warnings(&self, new: &Object) -> Vec<String> {
        let mut found = Vec::new();
        for list in ["podIPs", "hostIPs"] {
            let ips = At::object(new).field("status").field(list);
            ips.items().for_each(|ip| spelling::ip(&ip.field("ip"), &mut found));
        }
        found
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let spec = object.field("spec");
        validation::validate_pod_spec(&spec, errors);
        if !spec.field("ephemeralContainers").is_empty() {
            errors.push(spec.field("ephemeralContainers").forbidden("cannot be set on create"));
        }
        if !spec.field("schedulingGates").is_empty() && !spec.field("nodeName").is_empty() {
            errors.push(
                spec.field("nodeName").forbidden("cannot be set until all schedulingGates have been cleared"),
            );
        }
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        validation::validate_pod_spec(&new.field("spec"), errors);
        pod_update::validate(&new.field("spec"), &old.field("spec"), errors);
    }

    fn prepare_for_status(&self, new: &mut Object, old: &Object) {
        new.copy_from(old, &["metadata", "ownerReferences"]);
        new.copy_from(old, &["metadata", "deletionTimestamp"]);
        if new.str_at(&["status", "qosClass"]).is_empty() {
            let class = match old.str_at(&["status", "qosClass"]) {
                "" => qos_class(new).to_owned(),
                class => class.to_owned(),
            };
            new.set(&["status", "qosClass"], class);
        }
        pod_update::keep_observed_generations(new, old);
    }

    fn validate_status(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        pod_update::validate_status(new, old, errors);
    }

    fn grace(&self, object: &Object, requested: Option<i64>) -> Grace {
        let unassigned = object.str_at(&["spec", "nodeName"]).is_empty();
        let terminal = matches!(object.str_at(&["status", "phase"]), "Failed" | "Succeeded");
        let seconds =
            requested.or_else(|| object.i64_at(&["spec", "terminationGracePeriodSeconds"])).unwrap_or(0);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy_for;

    fn pod(spec: Value) -> Object {
        Object::from_value(
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}),
        )
        .unwrap()
    }

    #[test]
    fn requests_and_limits_make_the_class() {
        let with = |resources: Value| pod(json!({"containers": [{"name": "a", "resources": resources}]}));
        assert_eq!(qos_class(&with(json!({}))), "BestEffort");
        assert_eq!(qos_class(&with(json!({"requests": {"cpu": "0"}}))), "BestEffort");
        assert_eq!(qos_class(&with(json!({"requests": {"cpu": "1"}}))), "Burstable");
        let both = json!({"cpu": "1", "memory": "1Gi"});
        assert_eq!(qos_class(&with(json!({"requests": both, "limits": both}))), "Guaranteed");
        assert_eq!(
            qos_class(&with(json!({"requests": {"cpu": "500m", "memory": "1Gi"}, "limits": both}))),
            "Burstable"
        );
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
