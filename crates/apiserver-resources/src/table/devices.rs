//! Cells of devices and of who claims them.
use jiff::Timestamp;
use machinery::Object;
use serde_json::Value;

use super::config::texts;
use super::{age, condition, holds, number, or, since, text};

pub(super) fn claim(object: &Object, now: Timestamp) -> Vec<Value> {
    let (allocated, deleted) = (object.at(&["status", "allocation"]).is_some(), object.is_deleting());
    let reserved = allocated && !object.list_at(&["status", "reservedFor"]).is_empty();
    let all = [
        ("deleted", deleted),
        ("pending", !allocated && !deleted),
        ("allocated", allocated),
        ("reserved", reserved),
    ];
    let states: Vec<&str> = all.into_iter().filter(|(_, is)| *is).map(|(state, _)| state).collect();
    vec![object.name().into(), states.join(",").into(), age(object, now)]
}

pub(super) fn slice(object: &Object, now: Timestamp) -> Vec<Value> {
    texts(object, now, &[&["spec", "nodeName"], &["spec", "driver"], &["spec", "pool", "name"]])
}

pub(super) fn taint_rule(object: &Object, now: Timestamp) -> Vec<Value> {
    let taint = |field: &str| object.str_at(&["spec", "taint", field]);
    let added = match taint("timeAdded") {
        "" => String::new(),
        added => since(added, now),
    };
    vec![
        object.name().into(),
        taint("key").into(),
        taint("value").into(),
        taint("effect").into(),
        added.into(),
        age(object, now),
    ]
}

pub(super) fn pool_status(object: &Object, now: Timestamp) -> Vec<Value> {
    let pools = object.list_at(&["status", "pools"]);
    let count = number(object, &["status", "poolCount"]);
    let (complete, failed) = (holds(object, "Complete"), holds(object, "Failed"));
    let status = match (complete, failed) {
        (true, _) if count > pools.len() as i64 => format!("Complete ({}/{count} pools)", pools.len()),
        (true, _) => "Complete".to_owned(),
        (_, true) => "Failed".to_owned(),
        _ => "Pending".to_owned(),
    };
    let known = object.at(&["status"]).is_some() && (complete || !failed);
    let shown = |n: i64| Value::from(if known { n.to_string() } else { "-".to_owned() });
    let sum =
        |field: &str| shown(pools.iter().filter_map(|p| p.get(field).and_then(Value::as_i64)).sum::<i64>());
    let errors = pools.iter().filter(|p| p.get("validationError").is_some()).count();
    let ended = condition(object, "Complete").filter(|_| complete);
    let completed = ended.map_or_else(|| "<none>".into(), |c| since(text(c, &["lastTransitionTime"]), now));
    vec![
        object.name().into(),
        or(object.str_at(&["spec", "driver"]), ""),
        sum("totalDevices"),
        sum("availableDevices"),
        sum("allocatedDevices"),
        sum("unavailableDevices"),
        shown(errors as i64),
        count.into(),
        status.into(),
        completed.into(),
    ]
}
