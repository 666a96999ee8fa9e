//! storage.k8s.io/v1 StorageClass and VolumeAttributesClass: rules on the way in.
use machinery::{FieldErrors, Object, names};

use crate::checks;
use crate::rules::{Facts, Rules};
use crate::tree::{At, default_value};

/// Rules of storage classes.
pub(crate) struct StorageClass;

impl Rules for StorageClass {
    const FACTS: Facts = Facts::PLAIN;

    fn fill_defaults(&self, object: &mut Object) {
        default_value(&mut object.0, "reclaimPolicy", "Delete");
        default_value(&mut object.0, "volumeBindingMode", "Immediate");
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let provisioner = object.field("provisioner");
        if provisioner.text().is_empty() {
            errors.push(provisioner.required(""));
        } else {
            let lower = provisioner.text().to_lowercase();
            errors.extend(names::qualified_name(&lower).into_iter().map(|p| provisioner.invalid(p)));
        }
        for (key, parameter) in object.field("parameters").entries() {
            if key.is_empty() {
                errors.push(parameter.invalid("field can not be empty."));
            }
        }
        checks::one_of_or_empty(&object.field("reclaimPolicy"), &["Delete", "Retain"], errors);
        checks::one_of(&object.field("volumeBindingMode"), &["Immediate", "WaitForFirstConsumer"], errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        self.validate(new, errors);
        for field in ["parameters", "provisioner", "reclaimPolicy"] {
            if !crate::tree::same(new.field(field).get(), old.field(field).get()) {
                errors.push(new.field(field).forbidden(format!("updates to {field} are forbidden.")));
            }
        }
        checks::immutable(&new.field("volumeBindingMode"), &old.field("volumeBindingMode"), errors);
    }
}

/// Rules of classes of volume attributes.
pub(crate) struct VolumeAttributesClass;

impl Rules for VolumeAttributesClass {
    const FACTS: Facts = Facts::PLAIN;

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        checks::required(&object.field("driverName"), errors);
        checks::required(&object.field("parameters"), errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        self.validate(new, errors);
        for field in ["driverName", "parameters"] {
            checks::immutable(&new.field(field), &old.field(field), errors);
        }
    }
}
