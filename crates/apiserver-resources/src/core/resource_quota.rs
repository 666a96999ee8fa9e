//! v1 ResourceQuota: rules on the way in.
use machinery::{FieldError, FieldErrors, Object, names};
use serde_json::{Value, json};

use crate::core::resource_list;
use crate::rules::{Facts, Rules};
use crate::tree::{At, child, same};

/// Rules of quotas.
pub(crate) struct ResourceQuota;

/// Resources without a domain that a quota may bound.
const STANDARD: [&str; 19] = [
    "configmaps",
    "cpu",
    "ephemeral-storage",
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "memory",
    "persistentvolumeclaims",
    "pods",
    "replicationcontrollers",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
    "requests.storage",
    "resourcequotas",
    "secrets",
    "services",
    "services.loadbalancers",
    "services.nodeports",
];
const OF_PODS: [&str; 7] =
    ["pods", "cpu", "memory", "limits.cpu", "limits.memory", "requests.cpu", "requests.memory"];
const OF_CLAIMS: [&str; 2] = ["persistentvolumeclaims", "requests.storage"];

fn is_standard(name: &str) -> bool {
    STANDARD.contains(&name) || name.starts_with("hugepages-") || name.starts_with("requests.hugepages-")
}

/// The resources that a scope may be about; none of a scope that nobody knows.
fn resources_of(scope: &str) -> Option<&'static [&'static str]> {
    match scope {
        "BestEffort" => Some(&OF_PODS[..1]),
        "Terminating"
        | "NotTerminating"
        | "NotBestEffort"
        | "PriorityClass"
        | "CrossNamespacePodAffinity" => Some(&OF_PODS),
        "VolumeAttributesClass" => Some(&OF_CLAIMS),
        _ => None,
    }
}

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

    fn status_at_birth(&self, _object: &Object) -> Option<Value> {
        Some(json!({}))
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let hard = At::object(new).fields(&["spec", "hard"]);
        let amount = |name: &str| resource_list::quantity(&hard.key(name));
        let mut found = Vec::new();
        for name in ["cpu", "memory", "storage", "ephemeral-storage"].iter().filter(|_| old.is_none()) {
            let (request, limit) = (format!("requests.{name}"), format!("limits.{name}"));
            let bare = amount(name).filter(|_| matches!(*name, "cpu" | "memory"));
            let wanted =
                amount(&request).map(|q| (request, q)).or_else(|| bare.map(|q| ((*name).to_owned(), q)));
            if let (Some((request, wanted)), Some(most)) = (wanted, amount(&limit))
                && wanted > most
            {
                found
                    .push(format!("ResourceQuota {request} ({wanted}) should be less than {limit} ({most})"));
            }
        }
        found
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let spec = object.field("spec");
        let hard = spec.field("hard");
        validate_amounts(&hard, errors);
        let scopes = spec.field("scopes");
        let named: Vec<&str> = scopes.items().map(|s| s.text()).collect();
        for scope in &named {
            validate_scope(scope, &scopes, &hard, errors);
        }
        conflicts(&named, &scopes, errors);
        validate_selector(&spec.fields(&["scopeSelector", "matchExpressions"]), &hard, errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        self.validate(new, errors);
        let (scopes, before) = (new.fields(&["spec", "scopes"]), old.fields(&["spec", "scopes"]));
        let sorted = |at: &At| {
            let mut all: Vec<String> = at.items().map(|s| s.text().to_owned()).collect();
            all.sort();
            all
        };
        if sorted(&scopes) != sorted(&before) && !same(scopes.get(), before.get()) {
            errors.push(scopes.invalid("field is immutable"));
        }
    }

    fn validate_status(&self, new: &At, _old: &At, errors: &mut FieldErrors) {
        validate_amounts(&new.fields(&["status", "hard"]), errors);
        validate_amounts(&new.fields(&["status", "used"]), errors);
    }
}

fn validate_amounts(amounts: &At, errors: &mut FieldErrors) {
    for (name, quantity) in amounts.entries() {
        let path = quantity.path();
        errors.extend(names::qualified_name(name).into_iter().map(|p| FieldError::invalid(&path, name, p)));
        if !name.contains('/') && !is_standard(name) {
            errors.push(FieldError::invalid(&path, name, "must be a standard resource for quotas"));
        }
        resource_list::validate_quantity(&quantity, errors);
    }
}

/// Errors show the whole list, as upstream's.
fn validate_scope(scope: &str, at: &At, hard: &At, errors: &mut FieldErrors) {
    let Some(known) = resources_of(scope) else {
        errors.push(at.invalid("unsupported scope"));
        return;
    };
    for (name, _) in hard.entries() {
        if is_standard(name) && !known.contains(&name) {
            errors.push(at.invalid("unsupported scope applied to resource"));
        }
    }
}

fn conflicts(named: &[&str], at: &At, errors: &mut FieldErrors) {
    for pair in [["BestEffort", "NotBestEffort"], ["Terminating", "NotTerminating"]] {
        if pair.iter().all(|scope| named.contains(scope)) {
            errors.push(at.invalid("conflicting scopes"));
        }
    }
}

fn validate_selector(expressions: &At, hard: &At, errors: &mut FieldErrors) {
    let mut named: Vec<&str> = Vec::new();
    for expression in expressions.items() {
        let (scope, operator, values) =
            (expression.field("scopeName"), expression.field("operator"), expression.field("values"));
        named.push(scope.text());
        validate_scope(scope.text(), &scope, hard, errors);
        let has_values = matches!(scope.text(), "PriorityClass" | "VolumeAttributesClass");
        if !has_values && resources_of(scope.text()).is_some() && operator.text() != "Exists" {
            errors.push(operator.invalid("must be 'Exist' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"));
        }
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => errors.push(values.required(
                "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector",
            )),
            "Exists" | "DoesNotExist" if !values.is_empty() => errors.push(values.invalid(
                "must be no value when `operator` is 'Exists' or 'DoesNotExist' for scope selector",
            )),
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.push(operator.invalid("not a valid selector operator")),
        }
    }
    conflicts(&named, expressions, errors);
}
