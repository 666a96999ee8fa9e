//! Which pods, and which claims of volumes, a quota counts.
use std::fmt;

use machinery::Object;
use serde::{Deserialize, Deserializer};
use serde_json::Value;

use crate::pod_amounts;

/// One scope of a quota, or of what nobody may take without one.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Scope {
    /// For example `PriorityClass`.
    #[serde(default, deserialize_with = "nullable")]
    pub scope_name: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`.
    #[serde(default, deserialize_with = "nullable")]
    pub operator: String,
    /// What `In` and `NotIn` compare with.
    #[serde(default, deserialize_with = "nullable")]
    pub values: Vec<String>,
}

/// What Go writes where there is nothing.
fn nullable<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{{} {} [{}]}}", self.scope_name, self.operator, self.values.join(" "))
    }
}

impl Scope {
    /// The scopes of a quota.
    pub fn of(quota: &Object) -> Vec<Self> {
        let plain = quota.list_at(&["spec", "scopes"]).iter().filter_map(Value::as_str);
        let plain = plain.map(|name| Self {
            scope_name: name.to_owned(),
            operator: "Exists".to_owned(),
            values: Vec::new(),
        });
        let selected = quota.list_at(&["spec", "scopeSelector", "matchExpressions"]);
        plain.chain(selected.iter().filter_map(|e| serde_json::from_value(e.clone()).ok())).collect()
    }

    pub(crate) fn holds_pod(&self, pod: &Object) -> bool {
        match self.scope_name.as_str() {
            "Terminating" => has_deadline(pod),
            "NotTerminating" => !has_deadline(pod),
            "BestEffort" => is_best_effort(pod),
            "NotBestEffort" => !is_best_effort(pod),
            "PriorityClass" => {
                let class = pod.str_at(&["spec", "priorityClassName"]);
                self.selects(Some(class).filter(|c| !c.is_empty()))
            }
            "CrossNamespacePodAffinity" => crosses_namespaces(pod),
            _ => false,
        }
    }

    pub(crate) fn holds_claim(&self, claim: &Object) -> bool {
        if self.scope_name != "VolumeAttributesClass" {
            return false;
        }
        let classes = volume_attributes_classes(claim);
        if classes.is_empty() {
            return self.selects(None);
        }
        classes.into_iter().any(|class| self.selects(Some(class)))
    }

    fn selects(&self, name: Option<&str>) -> bool {
        let listed = |name: &str| self.values.iter().any(|v| v == name);
        match self.operator.as_str() {
            "Exists" => name.is_some(),
            "DoesNotExist" => name.is_none(),
            "In" => name.is_some_and(listed),
            "NotIn" => !name.is_some_and(listed),
            _ => false,
        }
    }
}

/// The classes that a claim has, has asked for, or is being given.
fn volume_attributes_classes(claim: &Object) -> Vec<&str> {
    let mut classes = vec![
        claim.str_at(&["spec", "volumeAttributesClassName"]),
        claim.str_at(&["status", "currentVolumeAttributesClassName"]),
        claim.str_at(&["status", "modifyVolumeStatus", "targetVolumeAttributesClassName"]),
    ];
    classes.retain(|class| !class.is_empty());
    classes
}

/// Whether a pod ends by itself after some time: what quotas call terminating.
pub(crate) fn has_deadline(pod: &Object) -> bool {
    pod.i64_at(&["spec", "activeDeadlineSeconds"]).is_some_and(|s| s >= 0)
}

/// Whether a pod asks for no processor and no memory at all.
pub fn is_best_effort(pod: &Object) -> bool {
    let none = |which: &str| {
        pod_amounts(pod, which)
            .iter()
            .all(|(name, q)| q.is_zero() || !matches!(name.as_str(), "cpu" | "memory"))
    };
    none("requests") && none("limits")
}

fn crosses_namespaces(pod: &Object) -> bool {
    let affinity = pod.at(&["spec", "affinity"]);
    ["podAffinity", "podAntiAffinity"].into_iter().filter_map(|kind| affinity?.get(kind)).any(|affinity| {
        let terms = |list: &str| affinity.get(list).and_then(Value::as_array).into_iter().flatten();
        let preferred =
            terms("preferredDuringSchedulingIgnoredDuringExecution").filter_map(|t| t.get("podAffinityTerm"));
        terms("requiredDuringSchedulingIgnoredDuringExecution").chain(preferred).any(|term| {
            let names = term.get("namespaces").and_then(Value::as_array).is_some_and(|n| !n.is_empty());
            names || term.get("namespaceSelector").is_some_and(|s| !s.is_null())
        })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn scope(name: &str, operator: &str, values: &[&str]) -> Scope {
        Scope {
            scope_name: name.into(),
            operator: operator.into(),
            values: values.iter().map(|&v| v.into()).collect(),
        }
    }

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    #[test]
    fn scopes_hold_pods() {
        let cpu = json!({"containers": [{"resources": {"requests": {"cpu": "1"}}}]});
        let class = json!({"priorityClassName": "high"});
        let deadline = json!({"activeDeadlineSeconds": 1});
        let term = json!({"topologyKey": "x", "namespaceSelector": {}});
        let near = json!({"affinity": {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}});
        let plain = json!({});
        for (name, operator, values, spec, held) in [
            ("Terminating", "Exists", &[][..], &deadline, true),
            ("Terminating", "Exists", &[], &plain, false),
            ("NotTerminating", "Exists", &[], &deadline, false),
            ("BestEffort", "Exists", &[], &plain, true),
            ("BestEffort", "Exists", &[], &cpu, false),
            ("NotBestEffort", "Exists", &[], &cpu, true),
            ("PriorityClass", "Exists", &[], &class, true),
            ("PriorityClass", "Exists", &[], &plain, false),
            ("PriorityClass", "In", &["high"], &class, true),
            ("PriorityClass", "In", &["low"], &class, false),
            ("PriorityClass", "NotIn", &["low"], &class, true),
            ("PriorityClass", "NotIn", &["high"], &plain, true),
            ("PriorityClass", "DoesNotExist", &[], &plain, true),
            ("CrossNamespacePodAffinity", "Exists", &[], &near, true),
            ("CrossNamespacePodAffinity", "Exists", &[], &plain, false),
            ("VolumeAttributesClass", "Exists", &[], &plain, false),
        ] {
            let pod = object(json!({"spec": spec}));
            assert_eq!(scope(name, operator, values).holds_pod(&pod), held, "{name} {operator} {spec}");
        }
    }

    #[test]
    fn scopes_hold_claims_by_any_of_their_classes() {
        let none = json!({});
        let asked = json!({"spec": {"volumeAttributesClassName": "gold"}});
        let moving = json!({"spec": {"volumeAttributesClassName": "gold"},
            "status": {"currentVolumeAttributesClassName": "silver"}});
        let target = json!({"status": {"modifyVolumeStatus": {"targetVolumeAttributesClassName": "lead"}}});
        for (operator, values, claim, held) in [
            ("Exists", &[][..], &asked, true),
            ("Exists", &[], &none, false),
            ("DoesNotExist", &[], &none, true),
            ("In", &["gold"], &asked, true),
            ("In", &["silver"], &asked, false),
            ("In", &["silver"], &moving, true),
            ("In", &["lead"], &target, true),
            ("NotIn", &["gold"], &asked, false),
            ("NotIn", &["gold"], &moving, true),
            ("NotIn", &["gold"], &none, true),
        ] {
            let scope = scope("VolumeAttributesClass", operator, values);
            assert_eq!(scope.holds_claim(&object(claim.clone())), held, "{scope} {claim}");
        }
        assert!(!scope("BestEffort", "Exists", &[]).holds_claim(&object(none)));
    }

    #[test]
    fn a_quota_names_scopes_in_two_ways() {
        let quota = object(json!({"spec": {"scopes": ["BestEffort"], "scopeSelector": {"matchExpressions": [
            {"scopeName": "PriorityClass", "operator": "In", "values": ["a", "b"]}]}}}));
        let shown: Vec<String> = Scope::of(&quota).iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["{BestEffort Exists []}", "{PriorityClass In [a b]}"]);
    }
}
