//! admissionregistration.k8s.io/v1 admission policies and their bindings: rules on the way in.
use machinery::{FieldErrors, Object};

use crate::admissionregistration::webhook_configuration::validate_rule;
use crate::checks;
use crate::rules::{Facts, Rules};
use crate::tree::{At, Tree, child, default_struct, default_value, each};

fn fill_match(resources: &mut Tree) {
    default_value(resources, "matchPolicy", "Equivalent");
    default_struct(resources, "namespaceSelector");
    default_struct(resources, "objectSelector");
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in each(resources, list) {
            default_value(rule, "scope", "*");
        }
    }
}

/// Rules of policies that validate.
pub(crate) struct ValidatingPolicy;

impl Rules for ValidatingPolicy {
    const FACTS: Facts = Facts::BOTH;

    fn fill_defaults(&self, object: &mut Object) {
        if let Some(spec) = child(&mut object.0, "spec") {
            default_value(spec, "failurePolicy", "Fail");
            if let Some(resources) = child(spec, "matchConstraints") {
                fill_match(resources);
            }
        }
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let spec = object.field("spec");
        let (validations, audits) = (spec.field("validations"), spec.field("auditAnnotations"));
        if validations.is_empty() && audits.is_empty() {
            errors
                .push(validations.required("validations or auditAnnotations must contain at least one item"));
        }
        for validation in validations.items() {
            let expression = validation.field("expression");
            if expression.text().trim().is_empty() {
                errors.push(expression.required("expression is not specified"));
            }
        }
        validate_constraints(&spec.field("matchConstraints"), errors);
        checks::one_of_or_empty(&spec.field("failurePolicy"), &["Fail", "Ignore"], errors);
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }
}

fn validate_constraints(constraints: &At, errors: &mut FieldErrors) {
    if !constraints.exists() {
        errors.push(constraints.required(""));
        return;
    }
    let rules = constraints.field("resourceRules");
    if rules.is_empty() {
        errors.push(rules.required(""));
    }
    for rule in rules.items() {
        validate_rule(&rule, errors);
    }
}

/// Rules of policies that change objects.
pub(crate) struct MutatingPolicy;

impl Rules for MutatingPolicy {
    const FACTS: Facts = Facts::GENERATION;

    fn fill_defaults(&self, object: &mut Object) {
        if let Some(spec) = child(&mut object.0, "spec") {
            default_value(spec, "failurePolicy", "Fail");
            if let Some(resources) = child(spec, "matchConstraints") {
                fill_match(resources);
            }
        }
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let spec = object.field("spec");
        let mutations = spec.field("mutations");
        if mutations.is_empty() {
            errors.push(mutations.required("mutations must contain at least one item"));
        }
        validate_constraints(&spec.field("matchConstraints"), errors);
        let again = spec.field("reinvocationPolicy");
        if again.text().is_empty() {
            errors.push(again.required(""));
        } else {
            checks::one_of(&again, &["Never", "IfNeeded"], errors);
        }
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }
}

/// Rules of bindings of either kind of policy.
pub(crate) struct PolicyBinding {
    /// Whether the policy validates.
    pub(crate) validating: bool,
}

impl Rules for PolicyBinding {
    const FACTS: Facts = Facts::GENERATION;

    fn fill_defaults(&self, object: &mut Object) {
        if let Some(resources) = child(&mut object.0, "spec").and_then(|s| child(s, "matchResources")) {
            fill_match(resources);
        }
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let spec = object.field("spec");
        checks::required(&spec.field("policyName"), errors);
        if self.validating {
            let actions = spec.field("validationActions");
            if actions.is_empty() {
                errors.push(actions.required("at least one validation action is required"));
            }
            for action in actions.items() {
                checks::one_of(&action, &["Deny", "Warn", "Audit"], errors);
            }
            let has = |wanted: &str| actions.items().any(|a| a.text() == wanted);
            if has("Deny") && has("Warn") {
                errors.push(actions.invalid("must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"));
            }
        }
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }
}
