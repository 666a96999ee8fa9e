//! v1 PodTemplate: rules on the way in.
use machinery::{FieldErrors, Object};

use crate::core::pod_spec::defaults::fill_template;
use crate::core::pod_spec::validation::validate_template;
use crate::core::pod_spec::warnings;
use crate::rules::{Facts, Rules};
use crate::tree::At;

/// Rules of pod templates.
pub(crate) struct PodTemplate;

impl Rules for PodTemplate {
    const FACTS: Facts = Facts::GENERATION;

    fn fill_defaults(&self, object: &mut Object) {
        fill_template(&mut object.0);
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        warnings::of_template(new, old, &["template"])
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        validate_template(&object.field("template"), errors);
    }
}
