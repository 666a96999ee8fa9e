//! networking.k8s.io/v1 IngressClass: rules on the way in.
use machinery::{FieldErrors, Object, names};

use crate::checks;
use crate::rules::{Facts, Rules};
use crate::tree::{At, below, default_value};

/// Rules of ingress classes.
pub(crate) struct IngressClass;

const MAX_CONTROLLER: usize = 250;

impl Rules for IngressClass {
    const FACTS: Facts = Facts::GENERATION;

    fn fill_defaults(&self, object: &mut Object) {
        if let Some(parameters) = below(&mut object.0, &["spec", "parameters"]) {
            default_value(parameters, "scope", "Cluster");
        }
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let spec = object.field("spec");
        let controller = spec.field("controller");
        if controller.text().len() > MAX_CONTROLLER {
            errors.push(controller.too_long(MAX_CONTROLLER));
        }
        checks::domain_prefixed_path(&controller, errors);
        validate_parameters(&spec.field("parameters"), errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        let path = ["spec", "controller"];
        checks::immutable(&new.fields(&path), &old.fields(&path), errors);
        self.validate(new, errors);
    }
}

fn validate_parameters(parameters: &At, errors: &mut FieldErrors) {
    if !parameters.exists() {
        return;
    }
    super::validate_typed_reference(parameters, errors);
    let (scope, namespace) = (parameters.field("scope"), parameters.field("namespace"));
    match scope.text() {
        "Namespace" => {
            if namespace.exists() {
                checks::text_rule(&namespace, names::dns1123_label, errors);
            } else {
                errors.push(namespace.required("`parameters.scope` is set to 'Namespace'"));
            }
        }
        "Cluster" => {
            if namespace.exists() {
                errors.push(namespace.forbidden("`parameters.scope` is set to 'Cluster'"));
            }
        }
        _ => errors.push(scope.not_supported(&["Cluster", "Namespace"])),
    }
}
