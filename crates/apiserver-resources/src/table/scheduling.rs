//! Cells of what the scheduler goes by.
use jiff::Timestamp;
use machinery::Object;
use serde_json::Value;

use super::{age, condition, number, or, text};

pub(super) fn priority_class(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        object.name().into(),
        number(object, &["value"]).into(),
        object.bool_at(&["globalDefault"]).unwrap_or(false).into(),
        age(object, now),
        object.str_at(&["preemptionPolicy"]).into(),
    ]
}

pub(super) fn pod_group(object: &Object, now: Timestamp) -> Vec<Value> {
    let policy = if object.at(&["spec", "schedulingPolicy", "gang"]).is_some() { "Gang" } else { "Basic" };
    let scheduled = condition(object, "PodGroupScheduled").map(|c| text(c, &["status"]));
    let status = match (condition(object, "DisruptionTarget"), scheduled) {
        (Some(disrupted), _) => text(disrupted, &["reason"]),
        (None, Some("True")) => "Scheduled",
        (None, Some(_)) => "Unschedulable",
        (None, None) => "Pending",
    };
    vec![
        object.name().into(),
        policy.into(),
        or(object.str_at(&["spec", "podGroupTemplateRef", "workload", "workloadName"]), "<none>"),
        status.into(),
        age(object, now),
    ]
}
