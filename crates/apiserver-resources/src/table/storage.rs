//! Cells of volumes and what they come from.
use jiff::Timestamp;
use machinery::Object;
use serde_json::Value;

use super::{age, or, text, with_more};

/// Access modes in short, in upstream's order.
fn modes(values: &[Value]) -> String {
    let short = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let found: Vec<&str> =
        short.iter().filter(|(long, _)| values.iter().any(|v| v == long)).map(|(_, short)| *short).collect();
    found.join(",")
}

fn phase(object: &Object) -> &str {
    if object.is_deleting() { "Terminating" } else { object.str_at(&["status", "phase"]) }
}

pub(super) fn persistent_volume(object: &Object, now: Timestamp) -> Vec<Value> {
    let spec = |field: &str| object.str_at(&["spec", field]);
    let claim = object
        .at(&["spec", "claimRef"])
        .map(|c| format!("{}/{}", text(c, &["namespace"]), text(c, &["name"])))
        .unwrap_or_default();
    vec![
        object.name().into(),
        or(object.str_at(&["spec", "capacity", "storage"]), "0"),
        modes(object.list_at(&["spec", "accessModes"])).into(),
        spec("persistentVolumeReclaimPolicy").into(),
        phase(object).into(),
        claim.into(),
        class(object).into(),
        or(spec("volumeAttributesClassName"), "<unset>"),
        object.str_at(&["status", "reason"]).into(),
        age(object, now),
        or(spec("volumeMode"), "<unset>"),
    ]
}

/// The class: an old annotation wins over the field.
fn class(object: &Object) -> &str {
    object
        .annotation("volume.beta.kubernetes.io/storage-class")
        .unwrap_or_else(|| object.str_at(&["spec", "storageClassName"]))
}

pub(super) fn persistent_volume_claim(object: &Object, now: Timestamp) -> Vec<Value> {
    let volume = object.str_at(&["spec", "volumeName"]);
    let (mut capacity, mut access) = ("", String::new());
    if !volume.is_empty() {
        access = modes(object.list_at(&["status", "accessModes"]));
        capacity = match object.str_at(&["status", "capacity", "storage"]) {
            "" => "0",
            capacity => capacity,
        };
    }
    vec![
        object.name().into(),
        phase(object).into(),
        volume.into(),
        capacity.into(),
        access.into(),
        class(object).into(),
        or(object.str_at(&["spec", "volumeAttributesClassName"]), "<unset>"),
        age(object, now),
        or(object.str_at(&["spec", "volumeMode"]), "<unset>"),
    ]
}

pub(super) fn storage_class(object: &Object, now: Timestamp) -> Vec<Value> {
    let default =
        ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"]
            .iter()
            .any(|key| object.annotation(key) == Some("true"));
    let name = if default { format!("{} (default)", object.name()) } else { object.name().to_owned() };
    vec![
        name.into(),
        object.str_at(&["provisioner"]).into(),
        or(object.str_at(&["reclaimPolicy"]), "Delete"),
        or(object.str_at(&["volumeBindingMode"]), "Immediate"),
        object.bool_at(&["allowVolumeExpansion"]).unwrap_or(false).into(),
        age(object, now),
    ]
}

pub(super) fn volume_attributes_class(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![object.name().into(), object.str_at(&["driverName"]).into(), age(object, now)]
}

pub(super) fn volume_attachment(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![
        object.name().into(),
        object.str_at(&["spec", "attacher"]).into(),
        object.str_at(&["spec", "source", "persistentVolumeName"]).into(),
        object.str_at(&["spec", "nodeName"]).into(),
        object.bool_at(&["status", "attached"]).unwrap_or(false).into(),
        age(object, now),
    ]
}

pub(super) fn csi_node(object: &Object, now: Timestamp) -> Vec<Value> {
    vec![object.name().into(), object.list_at(&["spec", "drivers"]).len().into(), age(object, now)]
}

pub(super) fn csi_driver(object: &Object, now: Timestamp) -> Vec<Value> {
    let flag = |field: &str, unset: bool| Value::from(object.bool_at(&["spec", field]).unwrap_or(unset));
    let audiences: Vec<&str> =
        object.list_at(&["spec", "tokenRequests"]).iter().map(|t| text(t, &["audience"])).collect();
    let lifecycles: Vec<&str> =
        object.list_at(&["spec", "volumeLifecycleModes"]).iter().filter_map(Value::as_str).collect();
    vec![
        object.name().into(),
        flag("attachRequired", true),
        flag("podInfoOnMount", false),
        flag("storageCapacity", false),
        or(&audiences.join(","), "<unset>"),
        flag("requiresRepublish", false),
        or(&lifecycles.join(","), "<none>"),
        age(object, now),
    ]
}

pub(super) fn csi_storage_capacity(object: &Object, _now: Timestamp) -> Vec<Value> {
    vec![
        object.name().into(),
        object.str_at(&["storageClassName"]).into(),
        or(object.str_at(&["capacity"]), "<unset>"),
    ]
}

pub(super) fn storage_version(object: &Object, now: Timestamp) -> Vec<Value> {
    const SHOWN: usize = 3;
    let show = |v: &Value| format!("{}={}", text(v, &["apiServerID"]), text(v, &["encodingVersion"]));
    let versions: Vec<String> = object.list_at(&["status", "storageVersions"]).iter().map(show).collect();
    vec![
        object.name().into(),
        or(object.str_at(&["status", "commonEncodingVersion"]), "<unset>"),
        or(&with_more(&versions, versions.len(), SHOWN), "<unset>"),
        age(object, now),
    ]
}

pub(super) fn storage_migration(object: &Object, _now: Timestamp) -> Vec<Value> {
    let resource = |field: &str| object.str_at(&["spec", "resource", field]);
    let of = match resource("group") {
        "" => resource("resource").to_owned(),
        group => format!("{}.{group}", resource("resource")),
    };
    let conditions = object.list_at(&["status", "conditions"]).iter();
    let mut held = conditions.filter(|c| text(c, &["status"]) == "True").map(|c| text(c, &["type"]));
    let status = held.rfind(|ty| matches!(*ty, "Running" | "Failed" | "Succeeded"));
    vec![object.name().into(), of.into(), status.unwrap_or("Unknown").into()]
}
