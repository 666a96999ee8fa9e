//! apps/v1 ControllerRevision: rules on the way in.
use machinery::FieldErrors;

use crate::checks;
use crate::rules::{Facts, Rules};
use crate::tree::At;

/// Rules of revisions.
pub(crate) struct ControllerRevision;

impl Rules for ControllerRevision {
    const FACTS: Facts = Facts::PLAIN;

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let revision = object.field("revision");
        checks::non_negative(&revision, errors);
        if !object.field("data").exists() {
            errors.push(object.field("data").required("data is mandatory"));
        }
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        self.validate(new, errors);
        checks::immutable(&new.field("data"), &old.field("data"), errors);
    }
}
