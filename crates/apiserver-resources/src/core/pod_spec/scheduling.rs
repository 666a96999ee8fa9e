//! Checks of affinity and of topology spread.
use machinery::{FieldError, FieldErrors, names};

use crate::checks;
use crate::tree::At;

/// Checks the affinity of a pod.
pub(crate) fn validate_affinity(affinity: &At, errors: &mut FieldErrors) {
    let node = affinity.field("nodeAffinity");
    let required = node.field("requiredDuringSchedulingIgnoredDuringExecution");
    if required.exists() {
        validate_node_selector(&required, errors);
    }
    for term in node.field("preferredDuringSchedulingIgnoredDuringExecution").items() {
        validate_weight(&term.field("weight"), errors);
        validate_node_term(&term.field("preference"), errors);
    }
    for kind in ["podAffinity", "podAntiAffinity"] {
        let kind = affinity.field(kind);
        for term in kind.field("requiredDuringSchedulingIgnoredDuringExecution").items() {
            validate_pod_term(&term, errors);
        }
        for term in kind.field("preferredDuringSchedulingIgnoredDuringExecution").items() {
            validate_weight(&term.field("weight"), errors);
            validate_pod_term(&term.field("podAffinityTerm"), errors);
        }
    }
}

fn validate_weight(weight: &At, errors: &mut FieldErrors) {
    let number = weight.int().unwrap_or(0);
    if !(1..=100).contains(&number) {
        errors.push(FieldError::invalid(&weight.path(), number, "must be in the range 1-100"));
    }
}

/// Checks a node selector.
pub(crate) fn validate_node_selector(selector: &At, errors: &mut FieldErrors) {
    let terms = selector.field("nodeSelectorTerms");
    if terms.is_empty() {
        errors.push(terms.required("must have at least one node selector term"));
    }
    for term in terms.items() {
        validate_node_term(&term, errors);
    }
}

fn validate_node_term(term: &At, errors: &mut FieldErrors) {
    for requirement in term.field("matchExpressions").items() {
        validate_node_requirement(&requirement, errors);
        checks::text_rule(&requirement.field("key"), names::qualified_name, errors);
    }
    for requirement in term.field("matchFields").items() {
        let (key, values) = (requirement.field("key"), requirement.field("values"));
        match requirement.field("operator").text() {
            "In" | "NotIn" if values.len() != 1 => errors.push(values.required(
                "must be only one value when `operator` is 'In' or 'NotIn' for node field selector",
            )),
            "In" | "NotIn" => {}
            _ => errors.push(requirement.field("operator").invalid("not a valid selector operator")),
        }
        if key.text() == "metadata.name" {
            for value in values.items() {
                checks::text_rule(&value, names::dns1123_subdomain, errors);
            }
        } else {
            errors.push(key.invalid("not a valid field selector key"));
        }
    }
}

fn validate_node_requirement(requirement: &At, errors: &mut FieldErrors) {
    let (operator, values) = (requirement.field("operator"), requirement.field("values"));
    match operator.text() {
        "In" | "NotIn" if values.is_empty() => {
            errors.push(values.required("must be specified when `operator` is 'In' or 'NotIn'"));
        }
        "Exists" | "DoesNotExist" if !values.is_empty() => {
            errors
                .push(values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'"));
        }
        "Gt" | "Lt" if values.len() != 1 => {
            errors.push(values.required("must be specified single value when `operator` is 'Lt' or 'Gt'"));
        }
        "In" | "NotIn" | "Exists" | "DoesNotExist" | "Gt" | "Lt" => {}
        _ => errors.push(operator.invalid("not a valid selector operator")),
    }
}

fn validate_pod_term(term: &At, errors: &mut FieldErrors) {
    for selector in ["labelSelector", "namespaceSelector"] {
        if term.field(selector).exists() {
            checks::label_selector(&term.field(selector), errors);
        }
    }
    validate_label_keys(term, errors);
    for namespace in term.field("namespaces").items() {
        for problem in names::dns1123_label(namespace.text()) {
            errors.push(FieldError::invalid(&term.path().child("namespace"), namespace.text(), problem));
        }
    }
    let key = term.field("topologyKey");
    if key.text().is_empty() {
        errors.push(key.required("can not be empty"));
    } else {
        checks::text_rule(&key, names::qualified_name, errors);
    }
}

/// Keys whose values come from the pod itself add to a selector, so there has to be one.
fn validate_label_keys(term: &At, errors: &mut FieldErrors) {
    let (same, other) = (term.field("matchLabelKeys"), term.field("mismatchLabelKeys"));
    for keys in [&same, &other] {
        if !keys.is_empty() && !term.field("labelSelector").exists() {
            errors.push(keys.forbidden("must not be specified when labelSelector is not set"));
            continue;
        }
        for (i, key) in keys.items().enumerate() {
            checks::text_rule(&key, names::qualified_name, errors);
            if keys.items().take(i).any(|k| k.text() == key.text()) {
                errors.push(key.duplicate());
            }
        }
    }
    for key in same.items().filter(|key| other.lists(key.text())) {
        errors.push(key.invalid("exists in both matchLabelKeys and mismatchLabelKeys"));
    }
}

/// Checks topology spread constraints.
pub(crate) fn validate_spread(constraints: &At, errors: &mut FieldErrors) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for constraint in constraints.items() {
        let (skew, key, action) = (
            constraint.field("maxSkew"),
            constraint.field("topologyKey"),
            constraint.field("whenUnsatisfiable"),
        );
        if skew.int().unwrap_or(0) <= 0 {
            errors.push(FieldError::invalid(
                &skew.path(),
                skew.int().unwrap_or(0),
                "must be greater than zero",
            ));
        }
        if key.text().is_empty() {
            errors.push(key.required("can not be empty"));
        } else {
            checks::text_rule(&key, names::qualified_name, errors);
        }
        checks::one_of(&action, &["DoNotSchedule", "ScheduleAnyway"], errors);
        let pair = (key.text(), action.text());
        if seen.contains(&pair) {
            let shown = format!("{{{}, {}}}", pair.0, pair.1);
            errors.push(FieldError::duplicate(
                &constraint.path().child("{topologyKey, whenUnsatisfiable}"),
                shown,
            ));
        }
        seen.push(pair);
        let domains = constraint.field("minDomains");
        if domains.int().is_some_and(|n| n <= 0) {
            errors.push(domains.invalid("must be greater than zero"));
        }
        if domains.exists() && action.text() != "DoNotSchedule" {
            errors.push(domains.invalid(format!(
                "can only use minDomains if whenUnsatisfiable=DoNotSchedule, not {}",
                action.text()
            )));
        }
        for policy in ["nodeAffinityPolicy", "nodeTaintsPolicy"] {
            checks::one_of_or_empty(&constraint.field(policy), &["Honor", "Ignore"], errors);
        }
        if constraint.field("labelSelector").exists() {
            checks::label_selector(&constraint.field("labelSelector"), errors);
        }
        let keys = constraint.field("matchLabelKeys");
        if !keys.is_empty() && !constraint.field("labelSelector").exists() {
            errors.push(keys.forbidden("must not be specified when labelSelector is not set"));
        }
        for key in keys.items() {
            checks::text_rule(&key, names::qualified_name, errors);
        }
    }
}
