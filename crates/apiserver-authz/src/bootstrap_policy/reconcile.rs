//! How a default role or binding is brought up to date without taking away what an administrator added.
use machinery::Object;
use serde_json::{Value, json};

use super::AUTOUPDATE;
use crate::aggregation::is_aggregated;
use crate::rule::{PolicyRule, missing};

/// What to do about one default object.
#[derive(Debug, Clone, PartialEq)]
pub enum Reconciled {
    /// Nothing.
    UpToDate,
    /// Create it as given.
    Create(Object),
    /// Write this over the existing one.
    Update(Object),
    /// Delete the existing binding and create this: a binding's role cannot be changed.
    Recreate(Object),
}

/// Compares a default object with what is stored.
///
/// Adds missing rules, subjects, labels, annotations and aggregation selectors; never removes any. An object
/// annotated `rbac.authorization.kubernetes.io/autoupdate: "false"` is left alone.
pub fn reconcile(expected: &Object, existing: Option<&Object>) -> Reconciled {
    let Some(existing) = existing else { return Reconciled::Create(expected.clone()) };
    if existing.annotation(AUTOUPDATE) == Some("false") {
        return Reconciled::UpToDate;
    }
    if expected.at(&["roleRef"]) != existing.at(&["roleRef"]) {
        return Reconciled::Recreate(expected.clone());
    }
    let mut result = existing.clone();
    for map in ["labels", "annotations"] {
        for (key, value) in expected.strings_at(&["metadata", map]) {
            if existing.at(&["metadata", map]).and_then(|m| m.get(key)).is_none() {
                result.set(&["metadata", map, key], value);
            }
        }
    }
    if is_aggregated(expected) {
        add_missing(&mut result, expected, &["aggregationRule", "clusterRoleSelectors"]);
    } else if expected.at(&["rules"]).is_some() {
        let missing = missing(&PolicyRule::all_of(existing), &PolicyRule::all_of(expected));
        if !missing.is_empty() {
            // Whole rules of the table read better than the broken-down rest.
            let held = PolicyRule::all_of(existing);
            let mut rules = existing.list_at(&["rules"]).to_vec();
            let lacks = |rule: &&Value| {
                !super::super::rule::missing(&held, &[PolicyRule::from_value(rule)]).is_empty()
            };
            rules.extend(expected.list_at(&["rules"]).iter().filter(lacks).cloned());
            result.set(&["rules"], rules);
        }
    }
    add_missing(&mut result, expected, &["subjects"]);
    if result == *existing { Reconciled::UpToDate } else { Reconciled::Update(result) }
}

fn add_missing(result: &mut Object, expected: &Object, path: &[&str]) {
    let mut items = result.list_at(path).to_vec();
    let before = items.len();
    for item in expected.list_at(path) {
        if !items.iter().any(|i| same(i, item)) {
            items.push(item.clone());
        }
    }
    if items.len() != before {
        result.set(path, items);
    }
}

/// Subjects are the same whether or not `apiGroup` is spelled out.
fn same(a: &Value, b: &Value) -> bool {
    let bare = |v: &Value| {
        let mut v = v.clone();
        if let Some(map) = v.as_object_mut() {
            map.remove("apiGroup");
        }
        v
    };
    a == b || (a.get("kind") == Some(&json!("ServiceAccount")) && bare(a) == bare(b))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn role(rules: Value) -> Object {
        Object::from_value(json!({
            "kind": "ClusterRole",
            "metadata": {"name": "r", "labels": {"kubernetes.io/bootstrapping": "rbac-defaults"}},
            "rules": rules,
        }))
        .unwrap()
    }

    #[test]
    fn adds_what_is_missing_and_keeps_what_was_added() {
        let pods = json!({"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]});
        let jobs = json!({"apiGroups": ["batch"], "resources": ["jobs"], "verbs": ["get"]});
        let extra = json!({"apiGroups": ["x"], "resources": ["y"], "verbs": ["get"]});
        let expected = role(json!([pods, jobs]));
        assert_eq!(reconcile(&expected, None), Reconciled::Create(expected.clone()));
        assert_eq!(reconcile(&expected, Some(&expected)), Reconciled::UpToDate);
        let mut stored = role(json!([extra, pods]));
        stored.remove(&["metadata", "labels"]);
        let want = role(json!([extra, pods, jobs]));
        assert_eq!(reconcile(&expected, Some(&stored)), Reconciled::Update(want));
        stored.set(&["metadata", "annotations"], json!({ AUTOUPDATE: "false" }));
        assert_eq!(reconcile(&expected, Some(&stored)), Reconciled::UpToDate);
    }

    #[test]
    fn a_binding_of_another_role_is_made_anew() {
        let binding = |role: &str, subjects: Value| {
            Object::from_value(json!({"kind": "ClusterRoleBinding", "metadata": {"name": "b"},
                "roleRef": {"kind": "ClusterRole", "name": role}, "subjects": subjects}))
            .unwrap()
        };
        let jane = json!({"kind": "User", "name": "jane"});
        let joe = json!({"kind": "User", "name": "joe"});
        let expected = binding("a", json!([jane]));
        assert_eq!(
            reconcile(&expected, Some(&binding("b", json!([jane])))),
            Reconciled::Recreate(expected.clone())
        );
        assert_eq!(
            reconcile(&expected, Some(&binding("a", json!([joe])))),
            Reconciled::Update(binding("a", json!([joe, jane])))
        );
    }
}
