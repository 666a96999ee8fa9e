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
fn metric(spec: &Value, current: &[Value]) -> String {
    let ty = text(spec, &["type"]);
    let field = match ty {
        "Resource" => "resource",
        "ContainerResource" => "containerResource",
        "Pods" => "pods",
        "Object" => "object",
        "External" => "external",
        _ => return "<unknown type>".into(),
    };
    let name = |source: &Value| match field {
        "resource" | "containerResource" => text(source, &["name"]).to_owned(),
        _ => text(source, &["metric", "name"]).to_owned(),
    };
    let Some(source) = spec.get(field) else { return "<unknown>".into() };
    let measured = current
        .iter()
        .find(|c| text(c, &["type"]) == ty && c.get(field).is_some_and(|s| name(s) == name(source)))
        .and_then(|c| c.get(field)?.get("current"));
    let target = &source["target"];
    let resource = matches!(field, "resource" | "containerResource");
    let prefix = if resource { format!("{}: ", name(source)) } else { String::new() };
    if resource && target.get("averageUtilization").is_some() {
        let percent = |v: Option<&Value>| {
            v.and_then(|v| v.get("averageUtilization")?.as_i64())
                .map_or_else(|| "<unknown>".to_owned(), |n| format!("{n}%"))
        };
        return format!("{prefix}{}/{}", percent(measured), percent(Some(target)));
    }
    let (key, suffix) =
        if target.get("averageValue").is_some() { ("averageValue", " (avg)") } else { ("value", "") };
    let suffix = if matches!(field, "object" | "external") { suffix } else { "" };
    let amount = |v: Option<&Value>| match v.map_or("", |v| text(v, &[key])) {
        "" => "<unknown>".to_owned(),
        value => value.to_owned(),
    };
    format!("{prefix}{}/{}{suffix}", amount(measured), amount(Some(target)))
}

pub(super) fn autoscaler(object: &Object, now: Timestamp) -> Vec<Value> {
    const SHOWN: usize = 2;
    let specs = object.list_at(&["spec", "metrics"]);
    let current = object.list_at(&["status", "currentMetrics"]);
    let metrics: Vec<String> = specs.iter().map(|m| metric(m, current)).collect();
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
    let cell = |path: &[&str]| int_or_text(object.at(path), "<none>");
    let limited = |field| cell(&["spec", "limited", field]);
    let queuing = |field| cell(&["spec", "limited", "limitResponse", "queuing", field]);
    let shares = match limited("nominalConcurrencyShares") {
        none if none == "<none>" => cell(&["spec", "exempt", "nominalConcurrencyShares"]),
        shares => shares,
    };
    vec![
        object.name().into(),
        object.str_at(&["spec", "type"]).into(),
        shares,
        queuing("queues"),
        queuing("handSize"),
        queuing("queueLengthLimit"),
        age(object, now),
    ]
}
