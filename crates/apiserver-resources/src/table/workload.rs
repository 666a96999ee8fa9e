//! Cells of workloads that keep pods running.
use jiff::Timestamp;
use machinery::Object;
use serde_json::Value;

use super::{age, containers, labels, number, selector, text};

const TEMPLATE: [&str; 2] = ["spec", "template"];

pub(super) fn pod_template(object: &Object, _now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object.at(&["template"]));
    vec![object.name().into(), names, images, labels(object.at(&["template", "metadata", "labels"])).into()]
}

fn replicas(object: &Object, now: Timestamp, selector: String) -> Vec<Value> {
    let [names, images] = containers(object.at(&TEMPLATE));
    vec![
        object.name().into(),
        number(object, &["spec", "replicas"]).into(),
        number(object, &["status", "replicas"]).into(),
        number(object, &["status", "readyReplicas"]).into(),
        age(object, now),
        names,
        images,
        selector.into(),
    ]
}

pub(super) fn replication_controller(object: &Object, now: Timestamp) -> Vec<Value> {
    replicas(object, now, labels(object.at(&["spec", "selector"])))
}

pub(super) fn replica_set(object: &Object, now: Timestamp) -> Vec<Value> {
    replicas(object, now, selector(object.at(&["spec", "selector"])))
}

fn ready_of_wanted(object: &Object) -> Value {
    format!("{}/{}", number(object, &["status", "readyReplicas"]), number(object, &["spec", "replicas"]))
        .into()
}

pub(super) fn deployment(object: &Object, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object.at(&TEMPLATE));
    vec![
        object.name().into(),
        ready_of_wanted(object),
        number(object, &["status", "updatedReplicas"]).into(),
        number(object, &["status", "availableReplicas"]).into(),
        age(object, now),
        names,
        images,
        selector(object.at(&["spec", "selector"])).into(),
    ]
}

pub(super) fn stateful_set(object: &Object, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object.at(&TEMPLATE));
    vec![object.name().into(), ready_of_wanted(object), age(object, now), names, images]
}

pub(super) fn daemon_set(object: &Object, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(object.at(&TEMPLATE));
    let status = |field: &str| Value::from(number(object, &["status", field]));
    vec![
        object.name().into(),
        status("desiredNumberScheduled"),
        status("currentNumberScheduled"),
        status("numberReady"),
        status("updatedNumberScheduled"),
        status("numberAvailable"),
        labels(object.at(&["spec", "template", "spec", "nodeSelector"])).into(),
        age(object, now),
        names,
        images,
        selector(object.at(&["spec", "selector"])).into(),
    ]
}

pub(super) fn controller_revision(object: &Object, now: Timestamp) -> Vec<Value> {
    let owners = object.list_at(&["metadata", "ownerReferences"]);
    let controller = owners.iter().find(|o| o.get("controller") == Some(&Value::Bool(true))).map(|owner| {
        let kind = text(owner, &["kind"]).to_lowercase();
        match text(owner, &["apiVersion"]).split_once('/') {
            Some((group, _)) => format!("{kind}.{group}/{}", text(owner, &["name"])),
            None => format!("{kind}/{}", text(owner, &["name"])),
        }
    });
    vec![
        object.name().into(),
        controller.unwrap_or_else(|| "<none>".into()).into(),
        number(object, &["revision"]).into(),
        age(object, now),
    ]
}

/// The `Scale` of a workload.
pub(super) fn scale(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        object.name().into(),
        number(object, &["spec", "replicas"]).into(),
        number(object, &["status", "replicas"]).into(),
        age(object, now),
    ]
}
