//! v1 PersistentVolume: rules on the way in.
use machinery::{FieldErrors, Object};
use serde_json::{Value, json};

use crate::checks;
use crate::core::persistent_volume_claim::{ACCESS_MODES, validate_access_modes};
use crate::core::pod_spec::defaults::fill_remote_volume;
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
        Some(json!({"phase": "Pending"}))
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let spec = object.field("spec");
        validate_access_modes(&spec.field("accessModes"), &ACCESS_MODES, errors);
        let capacity = spec.field("capacity");
        if capacity.is_empty() {
            errors.push(capacity.required(""));
        } else if !capacity.key("storage").exists() || capacity.entries().count() > 1 {
            errors.push(capacity.not_supported(&["storage"]));
        }
        for (_, quantity) in capacity.entries() {
            resource_list::validate_quantity(&quantity, errors);
            if resource_list::quantity(&quantity).is_some_and(|q| q.is_zero()) {
                errors.push(quantity.invalid("must be greater than zero"));
            }
        }
        checks::one_of_or_empty(
            &spec.field("persistentVolumeReclaimPolicy"),
            &["Delete", "Recycle", "Retain"],
            errors,
        );
        let sources: Vec<&'static str> = SOURCES.into_iter().filter(|s| spec.field(s).exists()).collect();
        match sources.as_slice() {
            [] => errors.push(spec.required("must specify a volume type")),
            [_] => {}
            [_, extra @ ..] => {
                for source in extra {
                    errors.push(spec.field(source).forbidden("may not specify more than 1 volume type"));
                }
            }
        }
        checks::one_of_or_empty(&spec.field("volumeMode"), &["Block", "Filesystem"], errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        let (spec, old_spec) = (new.field("spec"), old.field("spec"));
        let source_changed = SOURCES.iter().any(|s| !same(spec.field(s).get(), old_spec.field(s).get()));
        if source_changed {
            let path = spec.path().child("persistentvolumesource");
            errors.push(machinery::FieldError::forbidden(
                &path,
                "spec.persistentvolumesource is immutable after creation",
            ));
        }
        checks::immutable(&spec.field("volumeMode"), &old_spec.field("volumeMode"), errors);
        self.validate(new, errors);
    }
}
