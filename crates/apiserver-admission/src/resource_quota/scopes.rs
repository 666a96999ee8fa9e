//! Which pods a quota counts.
use machinery::Object;
use serde_json::Value;

use crate::pod_resources::pod_amounts;

/// Whether all scopes of a quota match; a quota without scopes counts everything, one with scopes only pods.
pub(super) fn match_all(quota: &Object, is_pod: bool, object: &Object) -> bool {
    let plain =
        quota.list_at(&["spec", "scopes"]).iter().filter_map(Value::as_str).map(|s| (s, "Exists", None));
    let selected = quota.list_at(&["spec", "scopeSelector", "matchExpressions"]).iter().map(|e| {
        let text = |key: &str| e.get(key).and_then(Value::as_str).unwrap_or("");
        (text("scopeName"), text("operator"), e.get("values").and_then(Value::as_array))
    });
    plain.chain(selected).all(|(scope, operator, values)| is_pod && matches(object, scope, operator, values))
}

fn matches(pod: &Object, scope: &str, operator: &str, values: Option<&Vec<Value>>) -> bool {
    let terminating = pod.i64_at(&["spec", "activeDeadlineSeconds"]).is_some_and(|s| s >= 0);
    match scope {
        "Terminating" => terminating,
        "NotTerminating" => !terminating,
        "BestEffort" => is_best_effort(pod),
        "NotBestEffort" => !is_best_effort(pod),
        "PriorityClass" => {
            let class = pod.str_at(&["spec", "priorityClassName"]);
            let listed = || values.into_iter().flatten().any(|v| v.as_str() == Some(class));
            match operator {
                "Exists" => !class.is_empty(),
                "DoesNotExist" => class.is_empty(),
                "In" => !class.is_empty() && listed(),
                "NotIn" => class.is_empty() || !listed(),
                _ => false,
            }
        }
        "CrossNamespacePodAffinity" => crosses_namespaces(pod),
        _ => false,
    }
}

fn is_best_effort(pod: &Object) -> bool {
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
