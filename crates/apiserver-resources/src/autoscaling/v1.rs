//! autoscaling/v1 HorizontalPodAutoscaler from and to the stored version. What the first version has no field for
//! travels in annotations (pkg/apis/autoscaling/v1/conversion.go).
use machinery::Object;
use serde_json::{Map, Value};

use crate::tree::{Tree, child, ensure};

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

const TARGET_CPU: &str = "targetCPUUtilizationPercentage";
const CURRENT_CPU: &str = "currentCPUUtilizationPercentage";

/// Whether this is about the processor time that all containers of a pod use.
fn is_cpu(metric: &Value) -> bool {
    metric.get("type").is_some_and(|t| t == "Resource")
        && metric.pointer("/resource/name").is_some_and(|n| n == "cpu")
}

fn take_list(tree: &mut Tree, field: &str) -> Vec<Value> {
    match tree.remove(field) {
        Some(Value::Array(items)) => items,
        _ => Vec::new(),
    }
}

/// Turns the stored version into the first one.
pub(crate) fn from_stored(object: &mut Object) {
    drop_annotations(object);
    let mut notes: Vec<(&str, Value)> = Vec::new();
    if let Some(spec) = child(&mut object.0, "spec") {
        let metrics = take_list(spec, "metrics");
        let utilization = "/resource/target/averageUtilization";
        if let Some(percent) = metrics.iter().find(|m| is_cpu(m)).and_then(|m| m.pointer(utilization)) {
            spec.insert(TARGET_CPU.into(), percent.clone());
        }
        let others: Vec<Value> = metrics
            .iter()
            .filter(|m| !(is_cpu(m) && m.pointer(utilization).is_some()))
            .map(|m| each_source(m, flatten_target))
            .collect();
        if !others.is_empty() {
            notes.push((METRICS, others.into()));
        }
        if let Some(behavior) = spec.remove("behavior").filter(Value::is_object) {
            notes.push((BEHAVIOR, recase(&behavior, char::to_ascii_uppercase)));
        }
    }
    if let Some(status) = child(&mut object.0, "status") {
        let current = take_list(status, "currentMetrics");
        let measured = current
            .iter()
            .filter(|m| is_cpu(m))
            .find_map(|m| m.pointer("/resource/current/averageUtilization"));
        if let Some(percent) = measured {
            status.insert(CURRENT_CPU.into(), percent.clone());
        }
        if !current.is_empty() {
            let all: Vec<Value> = current.iter().map(|m| each_source(m, flatten_current)).collect();
            notes.push((CURRENT, all.into()));
        }
        let conditions = take_list(status, "conditions");
        if !conditions.is_empty() {
            notes.push((CONDITIONS, conditions.into()));
        }
        status.entry("currentReplicas").or_insert(0.into());
        status.entry("desiredReplicas").or_insert(0.into());
    }
    for (key, value) in notes {
        object.set(&["metadata", "annotations", key], value.to_string());
    }
}

/// Turns the first version into the stored one.
pub(crate) fn to_stored(object: &mut Object) {
    let note = |object: &Object, key: &str| -> Option<Value> {
        serde_json::from_str(object.annotation(key)?).ok().filter(|v: &Value| !v.is_null())
    };
    let list = |object: &Object, key: &str| match note(object, key) {
        Some(Value::Array(items)) => Some(items),
        _ => None,
    };
    let (metrics, current) = (list(object, METRICS), list(object, CURRENT));
    let (conditions, behavior) = (list(object, CONDITIONS), note(object, BEHAVIOR));
    drop_annotations(object);
    if let Some(spec) = child(&mut object.0, "spec") {
        let mut all: Vec<Value> =
            metrics.into_iter().flatten().map(|m| each_source(&m, gather_target)).collect();
        if let Some(percent) = spec.remove(TARGET_CPU).filter(Value::is_number) {
            let target = serde_json::json!({"type": "Utilization", "averageUtilization": percent});
            all.push(serde_json::json!({"type": "Resource", "resource": {"name": "cpu", "target": target}}));
        }
        if !all.is_empty() {
            spec.insert("metrics".into(), all.into());
        }
        if let Some(behavior) = behavior.filter(Value::is_object) {
            spec.insert("behavior".into(), recase(&behavior, char::to_ascii_lowercase));
        }
    }
    let has_notes = current.is_some() || conditions.is_some();
    let status =
        if has_notes { Some(ensure(&mut object.0, "status")) } else { child(&mut object.0, "status") };
    let Some(status) = status else { return };
    let percent = status.remove(CURRENT_CPU).filter(Value::is_number);
    match (current, percent) {
        (Some(current), _) => {
            let all: Vec<Value> = current.iter().map(|m| each_source(m, gather_current)).collect();
            status.insert("currentMetrics".into(), all.into());
        }
        (None, Some(percent)) => {
            let cpu = serde_json::json!({"name": "cpu", "current": {"averageUtilization": percent}});
            status
                .insert("currentMetrics".into(), serde_json::json!([{"type": "Resource", "resource": cpu}]));
        }
        (None, None) => {}
    }
    if let Some(conditions) = conditions {
        status.insert("conditions".into(), conditions.into());
    }
}

fn drop_annotations(object: &mut Object) {
    let Some(metadata) = child(&mut object.0, "metadata") else { return };
    let Some(annotations) = child(metadata, "annotations") else { return };
    for key in [METRICS, CURRENT, CONDITIONS, BEHAVIOR] {
        annotations.remove(key);
    }
    if annotations.is_empty() {
        metadata.remove("annotations");
    }
}

/// Changes the source of a metric, whatever its type.
fn each_source(metric: &Value, change: fn(&str, &mut Tree)) -> Value {
    let mut metric = metric.clone();
    if let Value::Object(tree) = &mut metric {
        for (field, source) in tree.iter_mut() {
            if let Value::Object(source) = source {
                change(field, source);
            }
        }
    }
    metric
}

fn move_field(from: &mut Tree, key: &str, to: &mut Tree, new: &str) {
    if let Some(value) = from.remove(key).filter(|v| !v.is_null()) {
        to.insert(new.into(), value);
    }
}

fn take_tree(tree: &mut Tree, field: &str) -> Tree {
    match tree.remove(field) {
        Some(Value::Object(inner)) => inner,
        _ => Map::new(),
    }
}

/// What a selector of a metric is called in the first version.
fn selector_of(field: &str) -> &'static str {
    if field == "external" { "metricSelector" } else { "selector" }
}

/// The name, the selector and the object of a metric, as the first version writes them.
fn flatten_names(field: &str, source: &mut Tree) {
    let mut metric = take_tree(source, "metric");
    move_field(&mut metric, "name", source, "metricName");
    move_field(&mut metric, "selector", source, selector_of(field));
    if let Some(described) = source.remove("describedObject") {
        source.insert("target".into(), described);
    }
}

fn gather_names(field: &str, source: &mut Tree) {
    if !matches!(field, "object" | "pods" | "external") {
        return;
    }
    let mut metric = Map::new();
    move_field(source, "metricName", &mut metric, "name");
    move_field(source, selector_of(field), &mut metric, "selector");
    source.insert("metric".into(), metric.into());
    if field == "object"
        && let Some(described) = source.remove("target")
    {
        source.insert("describedObject".into(), described);
    }
}

fn flatten_target(field: &str, source: &mut Tree) {
    let mut target = take_tree(source, "target");
    flatten_names(field, source);
    let average = if field == "object" { "averageValue" } else { "targetAverageValue" };
    move_field(&mut target, "averageUtilization", source, "targetAverageUtilization");
    move_field(&mut target, "averageValue", source, average);
    move_field(&mut target, "value", source, "targetValue");
    if field == "object" {
        source.entry("targetValue").or_insert("0".into());
    }
}

fn gather_target(field: &str, source: &mut Tree) {
    gather_names(field, source);
    let mut target = Map::new();
    let average = if field == "object" { "averageValue" } else { "targetAverageValue" };
    // Zero stands for none where the first version cannot leave it out.
    if source.get("targetValue").is_some_and(|v| v == "0" || v == 0) {
        source.remove("targetValue");
    }
    let ty = match (source.contains_key("targetAverageUtilization"), source.contains_key(average)) {
        (true, _) => "Utilization",
        (false, true) => "AverageValue",
        (false, false) => "Value",
    };
    target.insert("type".into(), ty.into());
    move_field(source, "targetAverageUtilization", &mut target, "averageUtilization");
    move_field(source, average, &mut target, "averageValue");
    move_field(source, "targetValue", &mut target, "value");
    source.insert("target".into(), target.into());
}

fn flatten_current(field: &str, source: &mut Tree) {
    let mut current = take_tree(source, "current");
    flatten_names(field, source);
    let average = if field == "object" { "averageValue" } else { "currentAverageValue" };
    move_field(&mut current, "averageUtilization", source, "currentAverageUtilization");
    move_field(&mut current, "averageValue", source, average);
    move_field(&mut current, "value", source, "currentValue");
    if field == "object" {
        source.entry("currentValue").or_insert("0".into());
    }
}

fn gather_current(field: &str, source: &mut Tree) {
    gather_names(field, source);
    let mut current = Map::new();
    let average = if field == "object" { "averageValue" } else { "currentAverageValue" };
    if field == "object" && source.get("currentValue").is_some_and(|v| v == "0") {
        source.remove("currentValue");
    }
    move_field(source, "currentAverageUtilization", &mut current, "averageUtilization");
    move_field(source, average, &mut current, "averageValue");
    move_field(source, "currentValue", &mut current, "value");
    source.insert("current".into(), current.into());
}

/// Changes the first letter of every key: upstream writes its internal type, whose fields have no names of their own.
fn recase(value: &Value, change: fn(&char) -> char) -> Value {
    match value {
        Value::Object(tree) => {
            let renamed = tree.iter().filter(|(_, v)| !v.is_null()).map(|(key, v)| {
                let mut letters = key.chars();
                let first = letters.next().map(|c| change(&c));
                (first.into_iter().chain(letters).collect::<String>(), recase(v, change))
            });
            Value::Object(renamed.collect())
        }
        Value::Array(items) => items.iter().map(|v| recase(v, change)).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use crate::convert;

    fn object(value: serde_json::Value) -> machinery::Object {
        machinery::Object::from_value(value).unwrap()
    }

    #[test]
    fn everything_of_the_stored_version_comes_back() {
        let v1 = api::kinds::by_kind("autoscaling", "v1", "HorizontalPodAutoscaler").unwrap();
        let v2 = api::kinds::by_kind("autoscaling", "v2", "HorizontalPodAutoscaler").unwrap();
        let target = json!({"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"});
        let stored = object(json!({
            "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "h", "annotations": {"own": "1"}},
            "spec": {"minReplicas": 1, "maxReplicas": 3, "scaleTargetRef": target, "metrics": [
                {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
                {"type": "Pods", "pods": {"metric": {"name": "p", "selector": {"matchLabels": {"a": "b"}}},
                    "target": {"type": "AverageValue", "averageValue": "10"}}},
                {"type": "Object", "object": {"metric": {"name": "o"}, "describedObject": {"kind": "Ingress", "name": "i"},
                    "target": {"type": "Value", "value": "5"}}},
                {"type": "External", "external": {"metric": {"name": "e", "selector": {"matchLabels": {"a": "b"}}},
                    "target": {"type": "AverageValue", "averageValue": "7"}}},
                {"type": "ContainerResource", "containerResource": {"name": "cpu", "container": "c",
                    "target": {"type": "Utilization", "averageUtilization": 60}}},
                {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
            ],
            "behavior": {"scaleDown": {"selectPolicy": "Max", "stabilizationWindowSeconds": 60,
                "policies": [{"type": "Percent", "value": 10, "periodSeconds": 60}]}}},
            "status": {"currentReplicas": 2, "desiredReplicas": 3,
                "conditions": [{"type": "AbleToScale", "status": "True", "lastTransitionTime": null}],
                "currentMetrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 40, "averageValue": "400m"}}},
                    {"type": "Object", "object": {"metric": {"name": "o"}, "describedObject": {"kind": "Ingress", "name": "i"},
                        "current": {"value": "4"}}},
                ]},
        }));
        let first = convert(stored.clone(), v1);
        assert_eq!(first.i64_at(&["spec", "targetCPUUtilizationPercentage"]), Some(50));
        assert_eq!(first.i64_at(&["status", "currentCPUUtilizationPercentage"]), Some(40));
        assert_eq!(first.at(&["spec", "metrics"]), None);
        let mut value = first.clone().into_value();
        assert_eq!(api::decode::check(v1.schema, &mut value), Ok(Vec::new()), "{value:#}");
        let note = |key: &str| first.annotation(&format!("autoscaling.alpha.kubernetes.io/{key}")).unwrap();
        assert!(note("metrics").contains("\"targetAverageValue\":\"1Gi\""), "{}", note("metrics"));
        assert!(note("behavior").contains("\"StabilizationWindowSeconds\":60"), "{}", note("behavior"));
        assert!(note("current-metrics").contains("\"currentAverageUtilization\":40"));
        assert!(note("conditions").contains("AbleToScale"));
        assert_eq!(convert(first, v2), stored);
    }

    #[test]
    fn a_plain_first_version_becomes_one_metric() {
        let v2 = api::kinds::by_kind("autoscaling", "v2", "HorizontalPodAutoscaler").unwrap();
        let first = object(json!({"apiVersion": "autoscaling/v1", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "h"}, "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": 70,
            "scaleTargetRef": {"kind": "Deployment", "name": "d"}}}));
        let stored = convert(first, v2);
        assert_eq!(
            stored.at(&["spec", "metrics"]),
            Some(&json!([{"type": "Resource", "resource": {"name": "cpu",
                "target": {"type": "Utilization", "averageUtilization": 70}}}]))
        );
    }
}
