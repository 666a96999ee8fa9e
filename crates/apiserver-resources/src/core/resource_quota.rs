//! v1 ResourceQuota: rules on the way in.
use machinery::{FieldErrors, Object};

use crate::core::resource_list;
use crate::rules::{Facts, Rules};
use crate::tree::{At, child, same};

/// Rules of quotas.
pub(crate) struct ResourceQuota;

impl Rules for ResourceQuota {
    const FACTS: Facts = Facts::STATUS;

    fn fill_defaults(&self, object: &mut Object) {
        if let Some(spec) = child(&mut object.0, "spec") {
            resource_list::fill(spec, "hard");
        }
        if let Some(status) = child(&mut object.0, "status") {
            resource_list::fill(status, "hard");
            resource_list::fill(status, "used");
        }
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        for (name, quantity) in object.fields(&["spec", "hard"]).entries() {
            for problem in machinery::names::qualified_name(name) {
                errors.push(machinery::FieldError::invalid(&quantity.path(), name, problem));
            }
            resource_list::validate_quantity(&quantity, errors);
        }
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        self.validate(new, errors);
        let (scopes, old_scopes) = (new.fields(&["spec", "scopes"]), old.fields(&["spec", "scopes"]));
        if !same(scopes.get(), old_scopes.get()) {
            errors.push(scopes.invalid("field is immutable"));
        }
    }
}
