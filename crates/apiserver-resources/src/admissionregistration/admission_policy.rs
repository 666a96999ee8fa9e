//! admissionregistration.k8s.io/v1 admission policies and their bindings: rules on the way in.
use machinery::{FieldErrors, Object, names};

use crate::admissionregistration::expressions::{self, required_expression};
use crate::admissionregistration::rule;
use crate::checks;
use crate::rules::{Facts, Rules};
use crate::tree::{At, Tree, child, default_struct, default_value, each, same};

const MAX_AUDIT_ANNOTATIONS: usize = 20;
const MAX_AUDIT_EXPRESSION: usize = 5 * 1024;

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

fn fill_policy(object: &mut Object) {
    if let Some(spec) = child(&mut object.0, "spec") {
        default_value(spec, "failurePolicy", "Fail");
        if let Some(resources) = child(spec, "matchConstraints") {
            fill_match(resources);
        }
    }
}

/// Rules of policies that validate.
pub(crate) struct ValidatingPolicy;

impl Rules for ValidatingPolicy {
    const FACTS: Facts = Facts::BOTH;

    fn fill_defaults(&self, object: &mut Object) {
        fill_policy(object);
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        validate_validating(object, true, errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        validate_validating(new, conditions_change(new, old), errors);
    }

    fn validate_status(&self, new: &At, _old: &At, errors: &mut FieldErrors) {
        checks::conditions(&new.fields(&["status", "conditions"]), errors);
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }
}

fn conditions_change(new: &At, old: &At) -> bool {
    ["paramKind", "matchConditions"]
        .iter()
        .any(|f| !same(new.field("spec").field(f).get(), old.field("spec").field(f).get()))
}

fn validate_validating(object: &At, with_conditions: bool, errors: &mut FieldErrors) {
    let spec = object.field("spec");
    validate_common(&spec, with_conditions, errors);
    let (validations, audits) = (spec.field("validations"), spec.field("auditAnnotations"));
    if validations.is_empty() && audits.is_empty() {
        let problem = "validations or auditAnnotations must contain at least one item";
        errors.push(validations.required(problem));
        errors.push(audits.required(problem));
        return;
    }
    for validation in validations.items() {
        validate_validation(&validation, errors);
    }
    if audits.len() > MAX_AUDIT_ANNOTATIONS {
        errors.push(
            audits.invalid(format!("must not have more than {MAX_AUDIT_ANNOTATIONS} auditAnnotations")),
        );
    }
    let policy = object.fields(&["metadata", "name"]);
    for (i, audit) in audits.items().enumerate() {
        let (key, value) = (audit.field("key"), audit.field("valueExpression"));
        if policy.text().is_empty() {
            errors.push(key.invalid("requires metadata.name be non-empty"));
        } else {
            let full = format!("{}/{}", policy.text(), key.text());
            let problems = names::qualified_name(&full);
            errors.extend(problems.into_iter().map(|p| key.invalid_as(full.as_str(), p)));
        }
        if value.text().trim().is_empty() {
            errors.push(value.required("valueExpression is not specified"));
        } else if value.text().trim().len() > MAX_AUDIT_EXPRESSION {
            errors.push(value.required(format!("must not exceed {MAX_AUDIT_EXPRESSION} bytes in length")));
        }
        if audits.items().take(i).any(|a| a.field("key").text() == key.text()) {
            errors.push(key.duplicate());
        }
    }
}

fn validate_validation(validation: &At, errors: &mut FieldErrors) {
    let (message, expression) = (validation.field("message"), validation.field("messageExpression"));
    required_expression(&validation.field("expression"), errors);
    if !expression.text().is_empty() && expression.text().trim().is_empty() {
        errors.push(expression.invalid("must be non-empty if specified"));
    }
    let trimmed = message.text().trim();
    if !message.text().is_empty() && trimmed.is_empty() {
        errors.push(message.invalid("message must be non-empty if specified"));
    } else if trimmed.contains(['\n', '\r']) {
        errors.push(message.invalid("message must not contain line breaks"));
    }
    let reason = validation.field("reason");
    if reason.exists() {
        checks::one_of(&reason, &["Forbidden", "Invalid", "RequestEntityTooLarge", "Unauthorized"], errors);
    }
}

/// What both kinds of policy have: failure policy, parameters, what they match, variables.
fn validate_common(spec: &At, with_conditions: bool, errors: &mut FieldErrors) {
    checks::required_one_of(&spec.field("failurePolicy"), &["Fail", "Ignore"], errors);
    let param = spec.field("paramKind");
    if param.exists() {
        validate_param_kind(&param, errors);
    }
    let constraints = spec.field("matchConstraints");
    if constraints.exists() {
        validate_match(&constraints, errors);
        let rules = constraints.field("resourceRules");
        if rules.is_empty() {
            errors.push(rules.required(""));
        }
    } else {
        errors.push(constraints.required(""));
    }
    if with_conditions {
        expressions::validate_match_conditions(&spec.field("matchConditions"), errors);
    }
    expressions::validate_variables(&spec.field("variables"), errors);
}

fn validate_param_kind(param: &At, errors: &mut FieldErrors) {
    let (api_version, kind) = (param.field("apiVersion"), param.field("kind"));
    let (group, version) = api_version.text().split_once('/').unwrap_or(("", api_version.text()));
    if api_version.text().is_empty() {
        errors.push(api_version.required(""));
    } else if api_version.text().matches('/').count() > 1 {
        errors.push(api_version.invalid(format!("unexpected GroupVersion string: {}", api_version.text())));
    } else {
        let joined = |text: &str, problems: Vec<String>, errors: &mut FieldErrors| {
            if !problems.is_empty() {
                errors.push(api_version.invalid_as(text, problems.join(",")));
            }
        };
        if !group.is_empty() {
            joined(group, names::dns1123_subdomain(group), errors);
        }
        if version.is_empty() {
            errors.push(api_version.invalid("version must be specified"));
        } else {
            joined(version, names::dns1035_label(version), errors);
        }
    }
    if kind.text().is_empty() {
        errors.push(kind.required(""));
    } else {
        let problems = names::dns1035_label(&kind.text().to_lowercase());
        if !problems.is_empty() {
            errors.push(
                kind.invalid(format!(
                    "may have mixed case, but should otherwise match: {}",
                    problems.join(",")
                )),
            );
        }
    }
}

fn validate_match(resources: &At, errors: &mut FieldErrors) {
    checks::required_one_of(&resources.field("matchPolicy"), &["Equivalent", "Exact"], errors);
    for selector in ["namespaceSelector", "objectSelector"] {
        if resources.field(selector).exists() {
            checks::label_selector(&resources.field(selector), errors);
        } else {
            errors.push(resources.field(selector).required(""));
        }
    }
    for list in ["resourceRules", "excludeResourceRules"] {
        for rule in resources.field(list).items() {
            rule::validate_named(&rule, errors);
        }
    }
}

/// Rules of policies that change objects.
pub(crate) struct MutatingPolicy;

impl Rules for MutatingPolicy {
    const FACTS: Facts = Facts::GENERATION;

    fn fill_defaults(&self, object: &mut Object) {
        fill_policy(object);
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        validate_mutating(&object.field("spec"), true, errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        validate_mutating(&new.field("spec"), conditions_change(new, old), errors);
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }
}

fn validate_mutating(spec: &At, with_conditions: bool, errors: &mut FieldErrors) {
    validate_common(spec, with_conditions, errors);
    let mutations = spec.field("mutations");
    if mutations.is_empty() {
        errors.push(mutations.required("mutations must contain at least one item"));
    }
    for mutation in mutations.items() {
        let (ty, configuration, patch) =
            (mutation.field("patchType"), mutation.field("applyConfiguration"), mutation.field("jsonPatch"));
        match ty.text() {
            "" => errors.push(ty.required("")),
            "ApplyConfiguration" => validate_patch(&configuration, &patch, ty.text(), errors),
            "JSONPatch" => validate_patch(&patch, &configuration, ty.text(), errors),
            _ => checks::one_of(&ty, &["ApplyConfiguration", "JSONPatch"], errors),
        }
    }
    checks::required_one_of(&spec.field("reinvocationPolicy"), &["IfNeeded", "Never"], errors);
}

/// The one that its type names is there, and the other one is not.
fn validate_patch(wanted: &At, other: &At, ty: &str, errors: &mut FieldErrors) {
    if wanted.exists() {
        required_expression(&wanted.field("expression"), errors);
    } else {
        errors.push(wanted.required(format!("must be specified when patchType is {ty}")));
    }
    if other.exists() {
        errors.push(other.invalid(format!("must not be specified when patchType is {ty}")));
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
        checks::required_text(&spec.field("policyName"), names::dns1123_subdomain, errors);
        let param = spec.field("paramRef");
        if param.exists() {
            validate_param_ref(&param, errors);
        }
        if spec.field("matchResources").exists() {
            validate_match(&spec.field("matchResources"), errors);
        }
        if self.validating {
            validate_actions(&spec.field("validationActions"), errors);
        }
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }
}

fn validate_param_ref(param: &At, errors: &mut FieldErrors) {
    let (name, selector) = (param.field("name"), param.field("selector"));
    if !name.text().is_empty() {
        checks::text_rule(&name, names::path_segment, errors);
        if selector.exists() {
            errors.push(name.forbidden("name and selector are mutually exclusive"));
        }
    }
    if selector.exists() {
        checks::label_selector(&selector, errors);
        if !name.text().is_empty() {
            errors.push(selector.forbidden("name and selector are mutually exclusive"));
        }
    }
    if name.text().is_empty() && !selector.exists() {
        errors.push(param.required("one of name or selector must be specified"));
    }
    let action = param.field("parameterNotFoundAction");
    if action.text().is_empty() {
        errors.push(action.required(""));
    } else {
        checks::one_of(&action, &["Allow", "Deny"], errors);
    }
}

fn validate_actions(actions: &At, errors: &mut FieldErrors) {
    for (i, action) in actions.items().enumerate() {
        checks::one_of(&action, &["Audit", "Deny", "Warn"], errors);
        if actions.items().take(i).any(|a| a.text() == action.text()) {
            errors.push(action.duplicate());
        }
    }
    if actions.lists("Deny") && actions.lists("Warn") {
        errors.push(actions.invalid("must not contain both Deny and Warn (repeating the same validation failure information in the API response and headers serves no purpose)"));
    }
    if actions.is_empty() {
        errors.push(actions.required("at least one validation action is required"));
    }
}
