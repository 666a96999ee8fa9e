//! storage.k8s.io/v1 CSIDriver, CSINode and CSIStorageCapacity: rules on the way in.
use machinery::{FieldErrors, Object};
use serde_json::json;

use crate::checks;
use crate::rules::{Facts, Rules};
use crate::tree::{At, default_value, ensure, same};

/// Rules of drivers.
pub(crate) struct CsiDriver;

impl Rules for CsiDriver {
    const FACTS: Facts = Facts::PLAIN;

    fn fill_defaults(&self, object: &mut Object) {
        let spec = ensure(&mut object.0, "spec");
        default_value(spec, "attachRequired", true);
        for flag in ["podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"] {
            default_value(spec, flag, false);
        }
        default_value(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType");
        default_value(spec, "volumeLifecycleModes", json!(["Persistent"]));
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let spec = object.field("spec");
        for flag in ["attachRequired", "podInfoOnMount", "storageCapacity"] {
            checks::required(&spec.field(flag), errors);
        }
        for mode in spec.field("volumeLifecycleModes").items() {
            checks::one_of(&mode, &["Persistent", "Ephemeral"], errors);
        }
        checks::one_of_or_empty(
            &spec.field("fsGroupPolicy"),
            &["ReadWriteOnceWithFSType", "File", "None"],
            errors,
        );
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        self.validate(new, errors);
        for field in ["attachRequired", "volumeLifecycleModes"] {
            checks::immutable(&new.field("spec").field(field), &old.field("spec").field(field), errors);
        }
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }
}

/// Rules of the drivers of one node.
pub(crate) struct CsiNode;

impl Rules for CsiNode {
    const FACTS: Facts = Facts::PLAIN;

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let mut seen: Vec<&str> = Vec::new();
        for driver in object.fields(&["spec", "drivers"]).items() {
            let name = driver.field("name");
            checks::required(&name, errors);
            checks::required(&driver.field("nodeID"), errors);
            if seen.contains(&name.text()) {
                errors.push(name.duplicate());
            }
            seen.push(name.text());
            let count = driver.fields(&["allocatable", "count"]);
            if count.int().is_some_and(|n| n < 0) {
                errors.push(count.invalid("must be greater than or equal to 0"));
            }
        }
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        self.validate(new, errors);
        for before in old.fields(&["spec", "drivers"]).items() {
            let name = before.field("name");
            let now =
                new.fields(&["spec", "drivers"]).items().find(|d| d.field("name").text() == name.text());
            if let Some(now) = now
                && (!same(now.field("nodeID").get(), before.field("nodeID").get())
                    || !same(now.field("topologyKeys").get(), before.field("topologyKeys").get()))
            {
                errors.push(now.invalid("field is immutable"));
            }
        }
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }
}

/// Rules of published capacities.
pub(crate) struct CsiStorageCapacity;

impl Rules for CsiStorageCapacity {
    const FACTS: Facts = Facts::PLAIN;

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let class = object.field("storageClassName");
        checks::text_rule(&class, machinery::names::dns1123_subdomain, errors);
        if object.field("nodeTopology").exists() {
            checks::label_selector(&object.field("nodeTopology"), errors);
        }
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        for field in ["nodeTopology", "storageClassName"] {
            checks::immutable(&new.field(field), &old.field(field), errors);
        }
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }
}
