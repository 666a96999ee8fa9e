//! From one status to the next as a merge patch: pure. The list of conditions is shared with others.
use k8s_openapi::api::core::v1::PodStatus;
use serde_json::{Map, Value, json};

/// The merge patch from the status that the API has to the one to report; `None` when nothing differs.
pub fn patch(uid: &str, before: &PodStatus, after: &PodStatus) -> Option<Value> {
    let old = serde_json::to_value(before).ok()?;
    let new = serde_json::to_value(after).ok()?;
    let (old, new) = (old.as_object()?, new.as_object()?);
    let mut changes = Map::new();
    for (field, value) in new {
        let unchanged = old.get(field).is_some_and(|before| match field.as_str() {
            // Conditions of others live in the same list: only ours are compared, the patch merges by type.
            "conditions" => conditions_contain(before, value),
            _ => before == value,
        });
        if !unchanged {
            let value = match field.as_str() {
                "conditions" => conditions_with_removals(old.get(field), value),
                "podIPs" | "hostIPs" if old.contains_key(field) => replacing(value),
                _ => value.clone(),
            };
            changes.insert(field.clone(), value);
        }
    }
    for field in [
        "reason",
        "message",
        "podIP",
        "podIPs",
        "containerStatuses",
        "initContainerStatuses",
        "ephemeralContainerStatuses",
    ] {
        if old.contains_key(field) && !new.contains_key(field) {
            changes.insert(field.to_owned(), Value::Null);
        }
    }
    (!changes.is_empty()).then(|| json!({"metadata": {"uid": uid}, "status": changes}))
}

/// A strategic merge keeps the addresses that a list had, unless it is told not to.
fn replacing(list: &Value) -> Value {
    let mut list = list.clone();
    if let Some(list) = list.as_array_mut() {
        list.push(json!({ "$patch": "replace" }));
    }
    list
}

/// A strategic merge keeps the fields of a condition that a patch leaves out: those that went are named as null.
fn conditions_with_removals(before: Option<&Value>, ours: &Value) -> Value {
    let mut ours = ours.clone();
    for condition in ours.as_array_mut().into_iter().flatten() {
        let old = before
            .and_then(|list| list.as_array())
            .and_then(|list| list.iter().find(|old| old.get("type") == condition.get("type")));
        let Some(fields) = condition.as_object_mut() else { continue };
        for field in ["reason", "message"] {
            if old.is_some_and(|old| old.get(field).is_some()) && !fields.contains_key(field) {
                fields.insert(field.to_owned(), Value::Null);
            }
        }
    }
    ours
}

fn conditions_contain(before: &Value, ours: &Value) -> bool {
    let empty = Vec::new();
    let before = before.as_array().unwrap_or(&empty);
    ours.as_array().is_some_and(|ours| {
        ours.iter().all(|condition| {
            before.iter().any(|old| {
                let mut old = old.clone();
                if let Some(fields) = old.as_object_mut() {
                    fields.remove("lastProbeTime");
                }
                old == *condition
            })
        })
    })
}
