//! Cells of what decides who may do what.
use jiff::Timestamp;
use machinery::Object;
use serde_json::Value;

use super::{age, human_duration, labels, or, text};

pub(super) fn role_binding(object: &Object, now: Timestamp) -> Vec<Value> {
    let all = |kind: &str| {
        let subjects = object.list_at(&["subjects"]).iter().filter(|s| text(s, &["kind"]) == kind);
        let names = subjects.map(|s| match (kind, text(s, &["namespace"])) {
            ("ServiceAccount", namespace) => format!("{namespace}/{}", text(s, &["name"])),
            _ => text(s, &["name"]).to_owned(),
        });
        Value::from(names.collect::<Vec<_>>().join(", "))
    };
    vec![
        object.name().into(),
        format!("{}/{}", object.str_at(&["roleRef", "kind"]), object.str_at(&["roleRef", "name"])).into(),
        age(object, now),
        all("User"),
        all("Group"),
        all("ServiceAccount"),
    ]
}

pub(super) fn signing_request(object: &Object, now: Timestamp) -> Vec<Value> {
    let conditions = object.list_at(&["status", "conditions"]);
    let has = |ty: &str| conditions.iter().any(|c| text(c, &["type"]) == ty);
    let mut status = match (has("Denied"), has("Approved")) {
        (true, _) => "Denied",
        (_, true) => "Approved",
        _ => "Pending",
    }
    .to_owned();
    if has("Failed") {
        status.push_str(",Failed");
    }
    if !object.str_at(&["status", "certificate"]).is_empty() {
        status.push_str(",Issued");
    }
    let duration =
        object.i64_at(&["spec", "expirationSeconds"]).map_or_else(|| "<none>".into(), human_duration);
    vec![
        object.name().into(),
        age(object, now),
        or(object.str_at(&["spec", "signerName"]), "<none>"),
        object.str_at(&["spec", "username"]).into(),
        duration.into(),
        status.into(),
    ]
}

pub(super) fn trust_bundle(object: &Object, _now: Timestamp) -> Vec<Value> {
    vec![object.name().into(), or(object.str_at(&["spec", "signerName"]), "<none>")]
}

pub(super) fn pod_certificate(object: &Object, _now: Timestamp) -> Vec<Value> {
    let spec = |field: &str| Value::from(object.str_at(&["spec", field]));
    let mut conditions = object.list_at(&["status", "conditions"]).iter().map(|c| text(c, &["type"]));
    let state = conditions.rfind(|ty| matches!(*ty, "Issued" | "Denied" | "Failed"));
    vec![
        object.name().into(),
        spec("podName"),
        spec("serviceAccountName"),
        spec("nodeName"),
        spec("signerName"),
        state.unwrap_or("Pending").into(),
        labels(object.at(&["spec", "unverifiedUserAnnotations"])).into(),
    ]
}

pub(super) fn webhooks(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![object.name().into(), object.list_at(&["webhooks"]).len().into(), age(object, now)]
}

fn policy(object: &Object, now: Timestamp, list: &str) -> Vec<Value> {
    let param = object.at(&["spec", "paramKind"]).map_or_else(
        || "<unset>".to_owned(),
        |p| format!("{}/{}", text(p, &["apiVersion"]), text(p, &["kind"])),
    );
    vec![object.name().into(), object.list_at(&["spec", list]).len().into(), param.into(), age(object, now)]
}

pub(super) fn validating_policy(object: &Object, now: Timestamp) -> Vec<Value> {
    policy(object, now, "validations")
}

pub(super) fn mutating_policy(object: &Object, now: Timestamp) -> Vec<Value> {
    policy(object, now, "mutations")
}

/// A selector as Go prints the struct.
fn go_selector(selector: &Value) -> String {
    let labels = selector.get("matchLabels").and_then(Value::as_object);
    let labels: String =
        labels.into_iter().flatten().map(|(k, v)| format!("{k}: {},", v.as_str().unwrap_or(""))).collect();
    let expressions = selector.get("matchExpressions").and_then(Value::as_array);
    let show = |e: &Value| {
        let values = e.get("values").and_then(Value::as_array).into_iter().flatten();
        let values: Vec<&str> = values.filter_map(Value::as_str).collect();
        let (key, operator) = (text(e, &["key"]), text(e, &["operator"]));
        format!("LabelSelectorRequirement{{Key:{key},Operator:{operator},Values:[{}],}},", values.join(" "))
    };
    let expressions: String = expressions.into_iter().flatten().map(show).collect();
    format!(
        "&LabelSelector{{MatchLabels:map[string]string{{{labels}}},MatchExpressions:[]LabelSelectorRequirement{{{expressions}}},}}"
    )
}

pub(super) fn policy_binding(object: &Object, now: Timestamp) -> Vec<Value> {
    let param = object.at(&["spec", "paramRef"]).map_or_else(
        || "<unset>".to_owned(),
        |p| match (text(p, &["namespace"]), text(p, &["name"])) {
            (_, "") => p.get("selector").map_or_else(|| "<unset>".to_owned(), go_selector),
            // Whether parameters lie in namespaces is not known here.
            ("", name) => format!("*/{name}"),
            (namespace, name) => format!("{namespace}/{name}"),
        },
    );
    vec![object.name().into(), object.str_at(&["spec", "policyName"]).into(), param.into(), age(object, now)]
}

pub(super) fn api_service(object: &Object, now: Timestamp) -> Vec<Value> {
    let service = object.at(&["spec", "service"]).map_or_else(
        || "Local".to_owned(),
        |s| format!("{}/{}", text(s, &["namespace"]), text(s, &["name"])),
    );
    let condition =
        object.list_at(&["status", "conditions"]).iter().find(|c| text(c, &["type"]) == "Available");
    let available = match condition {
        None => "Unknown".to_owned(),
        Some(c) if text(c, &["status"]) == "True" => "True".to_owned(),
        Some(c) => format!("{} ({})", text(c, &["status"]), text(c, &["reason"])),
    };
    vec![object.name().into(), service.into(), available.into(), age(object, now)]
}
