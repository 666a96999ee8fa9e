//! Cells of what sets bounds: quotas, budgets, autoscalers, flow control.
use jiff::Timestamp;
use machinery::Object;
use serde_json::Value;

use super::{age, holds, number, or, text};

pub(super) fn resource_quota(object: &Object, now: Timestamp) -> Vec<Value> {
    let (mut requests, mut limits) = (Vec::new(), Vec::new());
    for (name, hard) in object.strings_at(&["status", "hard"]) {
        let used = object.str_at(&["status", "used", name]);
        let line = format!("{name}: {}/{hard}", if used.is_empty() { "0" } else { used });
        if name.starts_with("limits.") { limits.push(line) } else { requests.push(line) }
    }
    vec![object.name().into(), requests.join(", ").into(), limits.join(", ").into(), age(object, now)]
}

/// A number or a percentage.
fn int_or_text(value: Option<&Value>, none: &str) -> Value {
    match value {
        Some(Value::String(s)) => s.as_str().into(),
        Some(value) if value.is_number() => value.to_string().into(),
        _ => none.into(),
    }
}

pub(super) fn disruption_budget(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        object.name().into(),
        int_or_text(object.at(&["spec", "minAvailable"]), "N/A"),
        int_or_text(object.at(&["spec", "maxUnavailable"]), "N/A"),
        number(object, &["status", "disruptionsAllowed"]).into(),
        age(object, now),
    ]
}

/// What is measured and what is wanted of one metric.
fn metric(spec: &Value, status: Option<&Value>) -> String {
    let field = match text(spec, &["type"]) {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        "External" => "external",
        _ => return "<unknown type>".into(),
    };
    let Some(source) = spec.get(field) else { return "<unknown>".into() };
    let measured = status.and_then(|s| s.get(field)).map(|m| &m["current"]);
    let target = &source["target"];
    let resource = matches!(field, "resource" | "containerResource");
    let prefix = if resource { format!("{}: ", text(source, &["name"])) } else { String::new() };
    let average = target.get("averageValue").is_some() || field == "pods";
    if resource && !average {
        let percent =
            |v: &Value| v.get("averageUtilization").and_then(Value::as_i64).map(|n| format!("{n}%"));
        let now = measured.and_then(percent).unwrap_or_else(|| "<unknown>".into());
        return format!("{prefix}{now}/{}", percent(target).unwrap_or_else(|| "<auto>".into()));
    }
    let of_many = matches!(field, "object" | "external");
    let key = if average { "averageValue" } else { "value" };
    let amount = |v: &Value| match text(v, &[key]) {
        "" => "0".to_owned(),
        value => value.to_owned(),
    };
    // An average over something else may not be there; other values that are not are none at all.
    let there = measured.filter(|m| !(of_many && average) || m.get(key).is_some());
    let now = there.map_or_else(|| "<unknown>".to_owned(), amount);
    format!("{prefix}{now}/{}{}", amount(target), if of_many && average { " (avg)" } else { "" })
}

pub(super) fn autoscaler(object: &Object, now: Timestamp) -> Vec<Value> {
    const SHOWN: usize = 2;
    let specs = object.list_at(&["spec", "metrics"]);
    let current = object.list_at(&["status", "currentMetrics"]);
    let metrics: Vec<String> = specs.iter().enumerate().map(|(i, m)| metric(m, current.get(i))).collect();
    let targets = match metrics.len() {
        0 => "<none>".to_owned(),
        n if n > SHOWN => format!("{} + {} more...", metrics[..SHOWN].join(", "), n - SHOWN),
        _ => metrics.join(", "),
    };
    let reference = |field: &str| object.str_at(&["spec", "scaleTargetRef", field]);
    vec![
        object.name().into(),
        format!("{}/{}", reference("kind"), reference("name")).into(),
        targets.into(),
        object
            .i64_at(&["spec", "minReplicas"])
            .map_or_else(|| "<unset>".to_owned(), |n| n.to_string())
            .into(),
        number(object, &["spec", "maxReplicas"]).into(),
        number(object, &["status", "currentReplicas"]).into(),
        age(object, now),
    ]
}

pub(super) fn flow_schema(object: &Object, now: Timestamp) -> Vec<Value> {
    let dangling =
        object.list_at(&["status", "conditions"]).iter().find(|c| text(c, &["type"]) == "Dangling");
    let missing = match dangling.map(|c| text(c, &["status"])) {
        None => "?",
        Some(_) if holds(object, "Dangling") => "True",
        Some(status) => status,
    };
    vec![
        object.name().into(),
        object.str_at(&["spec", "priorityLevelConfiguration", "name"]).into(),
        number(object, &["spec", "matchingPrecedence"]).into(),
        or(object.str_at(&["spec", "distinguisherMethod", "type"]), "<none>"),
        age(object, now),
        missing.into(),
    ]
}

pub(super) fn priority_level(object: &Object, now: Timestamp) -> Vec<Value> {
    let limited = |field: &str, within: &[&str]| match object.at(within) {
        Some(settings) => settings.get(field).cloned().unwrap_or_else(|| 0.into()),
        None => "<none>".into(),
    };
    let queuing = |field| limited(field, &["spec", "limited", "limitResponse", "queuing"]);
    vec![
        object.name().into(),
        object.str_at(&["spec", "type"]).into(),
        limited("nominalConcurrencyShares", &["spec", "limited"]),
        queuing("queues"),
        queuing("handSize"),
        queuing("queueLengthLimit"),
        age(object, now),
    ]
}
