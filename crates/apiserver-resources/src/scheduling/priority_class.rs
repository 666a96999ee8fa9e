//! scheduling.k8s.io/v1 PriorityClass: rules on the way in.
use machinery::{FieldErrors, Object};

use crate::checks;
use crate::rules::{Facts, Rules};
use crate::tree::{At, default_text};

/// Rules of priority classes.
pub(crate) struct PriorityClass;

/// Above this are only the classes of the system.
const HIGHEST_USER: i64 = 1_000_000_000;

impl Rules for PriorityClass {
    const FACTS: Facts = Facts::GENERATION;

    fn fill_defaults(&self, object: &mut Object) {
        default_text(&mut object.0, "preemptionPolicy", "PreemptLowerPriority");
    }

    /// The generation of a class stays what it was at birth.
    fn changes_generation(&self, _new: &Object, _old: &Object) -> bool {
        false
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let (name, value) = (object.fields(&["metadata", "name"]), object.field("value"));
        if let Some(known) = system_value(name.text()) {
            if value.int() != Some(known) {
                errors.push(object.field("metadata").field("name").forbidden(format!(
                    "priority class names with 'system-' prefix are reserved for system use only. error: value of {} PriorityClass must be {known}",
                    name.text()
                )));
            }
        } else if name.text().starts_with("system-") {
            errors.push(name.forbidden(format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {} is not a known system priority class",
                name.text()
            )));
        } else if value.int().unwrap_or(0) > HIGHEST_USER {
            errors
                .push(value.forbidden(format!(
                    "maximum allowed value of a user defined priority is {HIGHEST_USER}"
                )));
        }
        checks::one_of_or_empty(
            &object.field("preemptionPolicy"),
            &["PreemptLowerPriority", "Never"],
            errors,
        );
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        if new.field("value").int().unwrap_or(0) != old.field("value").int().unwrap_or(0) {
            errors.push(new.field("value").forbidden("may not be changed in an update."));
        }
        let (policy, before) = (new.field("preemptionPolicy"), old.field("preemptionPolicy"));
        if !crate::tree::same(policy.get(), before.get()) {
            errors.push(policy.invalid("field is immutable"));
        }
    }
}

fn system_value(name: &str) -> Option<i64> {
    match name {
        "system-node-critical" => Some(2_000_001_000),
        "system-cluster-critical" => Some(2_000_000_000),
        _ => None,
    }
}
