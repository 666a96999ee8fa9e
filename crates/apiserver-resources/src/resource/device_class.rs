//! resource.k8s.io/v1 DeviceClass: rules on the way in.
use machinery::FieldErrors;

use crate::core::resource_list;
use crate::resource::parts::{self, MAX_ITEMS};
use crate::rules::{Facts, Rules};
use crate::tree::{At, same};

/// Rules of classes of devices.
pub(crate) struct DeviceClass;

impl Rules for DeviceClass {
    const FACTS: Facts = Facts::GENERATION;

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        validate_spec(object, None, errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        validate_spec(new, Some(old), errors);
    }
}

fn validate_spec(class: &At, old: Option<&At>, errors: &mut FieldErrors) {
    let spec = class.field("spec");
    // What was good once stays good.
    let stored = |field: &'static str| {
        old.is_some_and(|old| same(spec.field(field).get(), old.field("spec").field(field).get()))
    };
    parts::selectors(&spec.field("selectors"), stored("selectors"), errors);
    let known = stored("config");
    parts::list(&spec.field("config"), MAX_ITEMS, errors, |config, errors| {
        parts::configuration(config, known, errors);
    });
    let extended = spec.field("extendedResourceName");
    if extended.exists() && !resource_list::is_extended_name(extended.text()) {
        errors.push(extended.invalid("must be a valid extended resource name"));
    }
}
