//! v1 PersistentVolume: rules on the way in.
use jiff::{Timestamp, Unit};
use machinery::{FieldError, FieldErrors, Object, names};
use serde_json::{Value, json};

use crate::checks;
use crate::core::persistent_volume_claim::{ACCESS_MODES, validate_access_modes};
use crate::core::pod_spec::defaults::fill_remote_volume;
use crate::core::pod_spec::volume::validate_host_path;
use crate::core::pod_spec::warnings::{OLD_SOURCES, old_expressions};
use crate::core::pod_spec::{remote_volume, validate_node_selector};
use crate::core::resource_list;
use crate::rules::{Facts, Rules};
use crate::tree::{At, child, default_text, default_value, ensure, same};

/// Rules of persistent volumes.
pub(crate) struct PersistentVolume;

const SOURCES: [&str; 22] = [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "glusterfs",
    "hostPath",
    "iscsi",
    "local",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
];

impl Rules for PersistentVolume {
    const FACTS: Facts = Facts::STATUS;

    fn fill_defaults(&self, object: &mut Object) {
        let spec = ensure(&mut object.0, "spec");
        default_text(spec, "persistentVolumeReclaimPolicy", "Retain");
        default_value(spec, "volumeMode", "Filesystem");
        resource_list::fill(spec, "capacity");
        if let Some(host_path) = child(spec, "hostPath") {
            default_value(host_path, "type", "");
        }
        fill_remote_volume(spec);
    }

    fn status_at_birth(&self, _object: &Object) -> Option<Value> {
        Some(json!({"phase": "Pending", "lastPhaseTransitionTime": now()}))
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut found = class_warnings(new);
        let spec = At::object(new).field("spec");
        if spec.field("persistentVolumeReclaimPolicy").text() == "Recycle" {
            found.push("spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.".to_owned());
        }
        for term in spec.fields(&["nodeAffinity", "required", "nodeSelectorTerms"]).items() {
            old_expressions(&term.field("matchExpressions"), &mut found);
        }
        for (source, shown, problem) in OLD_SOURCES {
            // The others were not told of volumes.
            let told = !matches!(source, "gitRepo" | "flocker" | "quobyte");
            if told && SOURCES.contains(&source) && spec.field(source).exists() {
                found.push(format!("{}: {problem}", spec.path().child(shown)));
            }
        }
        found
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        validate_spec(&object.field("spec"), errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        self.validate(new, errors);
        let (spec, before) = (new.field("spec"), old.field("spec"));
        let source_changed = SOURCES.iter().any(|source| {
            let (now, was) = (spec.field(source), before.field(source));
            // How a volume is made larger may be said later.
            let munged = now.get().cloned().map(|mut value| {
                let later = ["controllerExpandSecretRef"];
                for field in later {
                    let unset = was.tree().is_some_and(|t| !t.contains_key(field));
                    if *source == "csi"
                        && unset
                        && let Some(tree) = value.as_object_mut()
                    {
                        tree.remove(field);
                    }
                }
                value
            });
            !same(munged.as_ref(), was.get())
        });
        if source_changed {
            let path = spec.path().child("persistentvolumesource");
            errors.push(FieldError::forbidden(
                &path,
                "spec.persistentvolumesource is immutable after creation",
            ));
        }
        checks::immutable(&spec.field("volumeMode"), &before.field("volumeMode"), errors);
        let (affinity, was) = (spec.field("nodeAffinity"), before.field("nodeAffinity"));
        if was.exists() && !same(affinity.get(), was.get()) {
            let shown = affinity.get().cloned().unwrap_or(Value::Null);
            errors.push(
                affinity.invalid_as(shown, "field is immutable, except for updating from beta label to GA"),
            );
        }
        let (class, was) =
            (spec.field("volumeAttributesClassName"), before.field("volumeAttributesClassName"));
        if was.exists() && !class.exists() {
            errors.push(class.forbidden("update from non-nil value to nil is forbidden"));
        }
    }

    fn prepare_for_status(&self, new: &mut Object, old: &Object) {
        let phase = ["status", "phase"];
        if new.str_at(&phase) != old.str_at(&phase) {
            let sent = new.str_at(&["status", "lastPhaseTransitionTime"]);
            if sent.is_empty() || sent == old.str_at(&["status", "lastPhaseTransitionTime"]) {
                new.set(&["status", "lastPhaseTransitionTime"], now());
            }
        }
    }
}

/// The class was an annotation once.
pub(crate) fn class_warnings(object: &Object) -> Vec<String> {
    const OLD: [(&str, &str); 2] = [
        (
            "volume.beta.kubernetes.io/storage-class",
            "deprecated since v1.8; use \"storageClassName\" attribute instead",
        ),
        (
            "volume.beta.kubernetes.io/mount-options",
            "deprecated since v1.31; use \"mountOptions\" attribute instead",
        ),
    ];
    // Claims are mounted with the options of their volume.
    let known = if object.kind() == "PersistentVolumeClaim" { &OLD[..1] } else { &OLD[..] };
    let there = known.iter().filter(|(key, _)| object.annotation(key).is_some());
    there.map(|(key, text)| format!("metadata.annotations[{key}]: {text}")).collect()
}

fn now() -> String {
    Timestamp::now().round(Unit::Second).unwrap_or_default().to_string()
}

fn validate_spec(spec: &At, errors: &mut FieldErrors) {
    validate_access_modes(&spec.field("accessModes"), &ACCESS_MODES, errors);
    let capacity = spec.field("capacity");
    if capacity.is_empty() {
        errors.push(capacity.required(""));
    }
    if !capacity.key("storage").exists() || capacity.entries().count() > 1 {
        let shown = capacity.get().cloned().unwrap_or(Value::Null);
        errors.push(FieldError::not_supported(&capacity.path(), shown, &["storage"]));
    }
    for (_, quantity) in capacity.entries() {
        resource_list::validate_positive(&quantity, errors);
    }
    checks::one_of_or_empty(
        &spec.field("persistentVolumeReclaimPolicy"),
        &["Delete", "Recycle", "Retain"],
        errors,
    );
    let required = spec.fields(&["nodeAffinity", "required"]);
    if spec.field("nodeAffinity").exists() {
        if required.exists() {
            validate_node_selector(&required, errors);
        } else {
            errors.push(required.required("must specify required node constraints"));
        }
    }
    validate_source(spec, errors);
    let host_path = spec.fields(&["hostPath", "path"]);
    let root = host_path.exists() && host_path.text().split('/').all(|step| matches!(step, "" | "."));
    let reclaim = spec.field("persistentVolumeReclaimPolicy");
    if root && reclaim.text() == "Recycle" {
        errors.push(reclaim.forbidden("may not be 'recycle' for a hostPath mount of '/'"));
    }
    checks::optional_text(&spec.field("storageClassName"), names::dns1123_subdomain, errors);
    checks::one_of_or_empty(&spec.field("volumeMode"), &["Block", "Filesystem"], errors);
    let class = spec.field("volumeAttributesClassName");
    if class.exists() {
        if class.text().is_empty() {
            errors.push(class.required("an empty string is disallowed"));
        } else {
            checks::text_rule(&class, names::dns1123_subdomain, errors);
        }
        if !spec.field("csi").exists() {
            errors
                .push(spec.field("csi").required("has to be specified when using volumeAttributesClassName"));
        }
    }
}

/// Checks a volume that stands inside an attachment rather than on its own.
pub(crate) fn validate_inline(spec: &At, errors: &mut FieldErrors) {
    let only = "may not be specified in the context of inline volumes";
    for field in ["claimRef", "capacity", "storageClassName", "volumeMode", "nodeAffinity"] {
        if !spec.field(field).is_empty() {
            errors.push(spec.field(field).forbidden(only));
        }
    }
    if !spec.field("csi").exists() {
        errors.push(spec.field("csi").required("has to be specified in the context of inline volumes"));
    }
    validate_access_modes(&spec.field("accessModes"), &ACCESS_MODES, errors);
    let reclaim = spec.field("persistentVolumeReclaimPolicy");
    if !matches!(reclaim.text(), "" | "Retain") {
        errors.push(reclaim.forbidden("may only be Retain in the context of inline volumes"));
    }
    validate_source(spec, errors);
}

/// Exactly one source, and that one right.
fn validate_source(spec: &At, errors: &mut FieldErrors) {
    let sources: Vec<&'static str> = SOURCES.into_iter().filter(|s| spec.field(s).exists()).collect();
    let [first, extra @ ..] = sources.as_slice() else {
        errors.push(spec.required("must specify a volume type"));
        return;
    };
    for source in extra {
        errors.push(spec.field(source).forbidden("may not specify more than 1 volume type"));
    }
    let source = spec.field(first);
    match *first {
        "hostPath" => validate_host_path(&source, errors),
        "local" => {
            let path = source.field("path");
            if path.text().is_empty() {
                errors.push(path.required(""));
            } else if path.text().split('/').any(|step| step == "..") {
                errors.push(path.invalid("must not contain '..'"));
            }
            if !spec.field("nodeAffinity").exists() {
                errors.push(spec.field("nodeAffinity").required("Local volume requires node affinity"));
            }
        }
        "csi" => {
            checks::csi_driver_name(&source.field("driver"), errors);
            checks::required(&source.field("volumeHandle"), errors);
            for reference in [
                "controllerPublishSecretRef",
                "controllerExpandSecretRef",
                "nodePublishSecretRef",
                "nodeExpandSecretRef",
            ] {
                let reference = source.field(reference);
                if reference.exists() {
                    checks::required(&reference.field("name"), errors);
                    checks::required(&reference.field("namespace"), errors);
                }
            }
        }
        name => remote_volume::validate(name, &source, errors),
    }
}
