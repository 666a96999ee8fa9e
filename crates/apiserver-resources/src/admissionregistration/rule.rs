//! Checks of what a webhook or a policy is about.
use std::collections::BTreeSet;

use machinery::{FieldErrors, names};

use crate::checks;
use crate::tree::At;

/// Checks what a rule of a webhook or a policy is about.
pub(super) fn validate(rule: &At, errors: &mut FieldErrors) {
    let operations = rule.field("operations");
    if operations.is_empty() {
        errors.push(operations.required(""));
    }
    alone(&operations, "operations", errors);
    for operation in operations.items() {
        checks::one_of(&operation, &["*", "CONNECT", "CREATE", "DELETE", "UPDATE"], errors);
    }
    for (field, what) in [("apiGroups", "API groups"), ("apiVersions", "API versions")] {
        let list = rule.field(field);
        if list.is_empty() {
            errors.push(list.required(""));
        }
        alone(&list, what, errors);
    }
    for version in rule.field("apiVersions").items() {
        checks::required(&version, errors);
    }
    validate_resources(&rule.field("resources"), errors);
    let scope = rule.field("scope");
    if scope.exists() {
        checks::one_of(&scope, &["*", "Cluster", "Namespaced"], errors);
    }
}

/// Checks a rule that may name objects.
pub(super) fn validate_named(rule: &At, errors: &mut FieldErrors) {
    let named = rule.field("resourceNames");
    for (i, name) in named.items().enumerate() {
        checks::text_rule(&name, names::path_segment, errors);
        if named.items().take(i).any(|n| n.text() == name.text()) {
            errors.push(name.duplicate());
        }
    }
    validate(rule, errors);
}

fn alone(list: &At, what: &str, errors: &mut FieldErrors) {
    if list.len() > 1 && list.lists("*") {
        errors.push(list.invalid(format!("if '*' is present, must not specify other {what}")));
    }
}

fn validate_resources(resources: &At, errors: &mut FieldErrors) {
    if resources.is_empty() {
        errors.push(resources.required(""));
    }
    let (mut all_subresources, mut of_all): (BTreeSet<&str>, BTreeSet<&str>) = Default::default();
    let mut plain = false;
    for resource in resources.items() {
        let text = resource.text();
        if text.is_empty() {
            errors.push(resource.required(""));
            continue;
        }
        plain |= !text.contains('/') && text != "*";
        let Some((name, sub)) = text.split_once('/') else { continue };
        if all_subresources.contains(name) {
            errors.push(resource.invalid(format!("if '{name}/*' is present, must not specify {text}")));
        }
        if of_all.contains(sub) {
            errors.push(resource.invalid(format!("if '*/{sub}' is present, must not specify {text}")));
        }
        if sub == "*" {
            all_subresources.insert(name);
        }
        if name == "*" {
            of_all.insert(sub);
        }
    }
    if resources.len() > 1 && resources.lists("*/*") {
        errors.push(resources.invalid("if '*/*' is present, must not specify other resources"));
    }
    if resources.lists("*") && plain {
        errors.push(
            resources.invalid("if '*' is present, must not specify other resources without subresources"),
        );
    }
}
