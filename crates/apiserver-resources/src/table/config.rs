//! Cells of kinds that only hold settings.
use jiff::Timestamp;
use machinery::Object;
use serde_json::Value;

use super::{age, count, text};

pub(super) fn name_and_creation(object: &Object, _now: Timestamp) -> Vec<Value> {
    vec![object.name().into(), object.str_at(&["metadata", "creationTimestamp"]).into()]
}

pub(super) fn name_and_age(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![object.name().into(), age(object, now)]
}

/// Name, the texts at these paths, age.
pub(super) fn texts(object: &Object, now: Timestamp, paths: &[&[&str]]) -> Vec<Value> {
    let mut cells = vec![object.name().into()];
    cells.extend(paths.iter().map(|path| Value::from(object.str_at(path))));
    cells.push(age(object, now));
    cells
}

pub(super) fn component_status(object: &Object, _now: Timestamp) -> Vec<Value> {
    let (mut status, mut message, mut error) = ("Unknown", "", "");
    if let Some(healthy) = object.list_at(&["conditions"]).iter().find(|c| text(c, &["type"]) == "Healthy") {
        status = match text(healthy, &["status"]) {
            "True" => "Healthy",
            "False" => "Unhealthy",
            _ => "Unknown",
        };
        (message, error) = (text(healthy, &["message"]), text(healthy, &["error"]));
    }
    vec![object.name().into(), status.into(), message.into(), error.into()]
}

pub(super) fn config_map(object: &Object, now: Timestamp) -> Vec<Value> {
    let entries = count(object, &["data"]) + count(object, &["binaryData"]);
    vec![object.name().into(), entries.into(), age(object, now)]
}

pub(super) fn secret(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        object.name().into(),
        object.str_at(&["type"]).into(),
        count(object, &["data"]).into(),
        age(object, now),
    ]
}

pub(super) fn namespace(object: &Object, now: Timestamp) -> Vec<Value> {
    texts(object, now, &[&["status", "phase"]])
}

pub(super) fn lease(object: &Object, now: Timestamp) -> Vec<Value> {
    texts(object, now, &[&["spec", "holderIdentity"]])
}

pub(super) fn lease_candidate(object: &Object, now: Timestamp) -> Vec<Value> {
    texts(object, now, &[&["spec", "leaseName"], &["spec", "binaryVersion"], &["spec", "emulationVersion"]])
}

pub(super) fn runtime_class(object: &Object, now: Timestamp) -> Vec<Value> {
    texts(object, now, &[&["handler"]])
}
