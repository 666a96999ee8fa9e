//! ClusterRoles that gather the rules of others by label (`aggregationRule`).
use machinery::Object;
use serde_json::Value;

/// Whether a ClusterRole gathers its rules from others.
pub fn is_aggregated(role: &Object) -> bool {
    role.at(&["aggregationRule"]).is_some_and(|v| !v.is_null())
}

/// The rules an aggregated ClusterRole should have, where they differ from those it has.
///
/// `all` is every ClusterRole, in any order; the role itself is never a source.
pub fn aggregate<'a>(role: &Object, all: impl IntoIterator<Item = &'a Object>) -> Option<Vec<Value>> {
    if !is_aggregated(role) {
        return None;
    }
    let mut sources: Vec<&Object> = all.into_iter().filter(|r| r.name() != role.name()).collect();
    sources.sort_by_key(|r| r.name());
    let mut rules: Vec<Value> = Vec::new();
    for selector in role.list_at(&["aggregationRule", "clusterRoleSelectors"]) {
        for source in sources.iter().filter(|r| selects(selector, r)) {
            for rule in source.list_at(&["rules"]) {
                if !rules.contains(rule) {
                    rules.push(rule.clone());
                }
            }
        }
    }
    (role.list_at(&["rules"]) != rules.as_slice()).then_some(rules)
}

/// Whether a label selector in its tree form selects an object; an empty one selects all.
fn selects(selector: &Value, object: &Object) -> bool {
    let labels = selector.get("matchLabels").and_then(Value::as_object);
    let labels = labels.into_iter().flatten().all(|(k, v)| object.label(k) == v.as_str());
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    labels
        && expressions.into_iter().flatten().all(|e| {
            let text = |key: &str| e.get(key).and_then(Value::as_str).unwrap_or("");
            let values = || e.get("values").and_then(Value::as_array).into_iter().flatten();
            let label = object.label(text("key"));
            let listed = || label.is_some_and(|l| values().any(|v| v.as_str() == Some(l)));
            match text("operator") {
                "In" => listed(),
                "NotIn" => !listed(),
                "Exists" => label.is_some(),
                "DoesNotExist" => label.is_none(),
                _ => false,
            }
        })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn role(name: &str, label: Option<&str>, rules: Value) -> Object {
        let labels = label.map_or(json!({}), |l| json!({ l: "true" }));
        Object::from_value(json!({"metadata": {"name": name, "labels": labels}, "rules": rules})).unwrap()
    }

    #[test]
    fn gathers_by_label_in_order_of_names_without_doubles() {
        let pods = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]});
        let jobs = json!({"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get"]});
        let mut view = role("view", Some("to-view"), json!(null));
        view.set(&["aggregationRule", "clusterRoleSelectors"], json!([{"matchLabels": {"to-view": "true"}}]));
        let all = [
            role("z", Some("to-view"), json!([pods])),
            role("a", Some("to-view"), json!([jobs, pods])),
            role("other", None, json!([{"verbs": ["*"]}])),
            view.clone(),
        ];
        let rules = aggregate(&view, &all).unwrap();
        assert_eq!(rules, [jobs, pods]);
        view.set(&["rules"], rules);
        assert_eq!(aggregate(&view, &all), None);
        assert_eq!(aggregate(&all[0], &all), None);
    }
}
