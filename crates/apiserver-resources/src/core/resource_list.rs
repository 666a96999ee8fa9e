//! Lists of resources: name to quantity.
use machinery::{FieldError, FieldErrors, Quantity, names};
use serde_json::Value;

use crate::tree::{At, Tree, child};

/// Writes every quantity of the list in a field in its canonical form, no finer than a thousandth.
pub(crate) fn fill(tree: &mut Tree, field: &str) {
    let Some(list) = child(tree, field) else { return };
    for value in list.values_mut() {
        if let Some(quantity) = parse(value) {
            *value = quantity.rounded_to_milli().to_string().into();
        }
    }
}

/// Writes the quantity in a field in its canonical form.
pub(crate) fn fill_one(tree: &mut Tree, field: &str) {
    if let Some(value) = tree.get_mut(field)
        && let Some(quantity) = parse(value)
    {
        *value = quantity.to_string().into();
    }
}

/// The quantity of a value; what is none stays, for validation to find.
pub(crate) fn parse(value: &Value) -> Option<Quantity> {
    match value {
        Value::Number(number) => number.to_string().parse().ok(),
        Value::String(text) => text.trim().parse().ok(),
        _ => None,
    }
}

/// The quantity at a place.
pub(crate) fn quantity(at: &At) -> Option<Quantity> {
    parse(at.get()?)
}

/// Checks that a quantity is one, and not negative.
pub(crate) fn validate_quantity(at: &At, errors: &mut FieldErrors) {
    match quantity(at) {
        None => errors.push(at.invalid(
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        )),
        Some(quantity) if quantity.is_negative() => {
            errors.push(at.invalid("must be greater than or equal to 0"))
        }
        Some(_) => {}
    }
}

/// Checks that a quantity is above zero.
pub(crate) fn validate_positive(at: &At, errors: &mut FieldErrors) {
    match quantity(at) {
        Some(quantity) if quantity.is_zero() || quantity.is_negative() => {
            errors.push(at.invalid_as(quantity.to_string(), "must be greater than zero"));
        }
        Some(_) => {}
        None => validate_quantity(at, errors),
    }
}

/// Whether this is one of the resources that Kubernetes itself knows in containers.
fn is_standard_container_resource(name: &str) -> bool {
    matches!(name, "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-")
}

/// Whether this resource may not be overcommitted, because another domain defines it.
fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/") && !name.starts_with("requests.")
}

/// Whether this is the name of a resource that a device plugin or a driver may define.
pub(crate) fn is_extended_name(name: &str) -> bool {
    is_extended(name) && names::qualified_name(&format!("requests.{name}")).is_empty()
}

/// Checks the name of a resource.
pub(crate) fn validate_name(at: &At, name: &str, errors: &mut FieldErrors) {
    errors.extend(names::qualified_name(name).into_iter().map(|p| FieldError::invalid(&at.path(), name, p)));
    if !name.contains('/')
        && !is_standard_container_resource(name)
        && !matches!(
            name,
            "pods"
                | "storage"
                | "services"
                | "replicationcontrollers"
                | "resourcequotas"
                | "secrets"
                | "configmaps"
                | "persistentvolumeclaims"
        )
        && !name.starts_with("attachable-volumes-")
    {
        errors.push(FieldError::invalid(
            &at.path(),
            name,
            "must be a standard resource type or fully qualified",
        ));
    }
}

fn validate_container_name(at: &At, name: &str, errors: &mut FieldErrors) {
    errors.extend(names::qualified_name(name).into_iter().map(|p| FieldError::invalid(&at.path(), name, p)));
    if !name.contains('/') {
        if !is_standard_container_resource(name) {
            errors.push(FieldError::invalid(&at.path(), name, "must be a standard resource for containers"));
        }
    } else if !name.contains("kubernetes.io/") && !is_extended(name) {
        errors.push(FieldError::invalid(&at.path(), name, "doesn't follow extended resource name standard"));
    }
}

fn validate_container_quantity(at: &At, name: &str, errors: &mut FieldErrors) {
    validate_quantity(at, errors);
    let Some(quantity) = quantity(at) else { return };
    if (is_extended(name) || name.starts_with("hugepages-")) && !quantity.is_integer() {
        errors.push(at.invalid("must be an integer"));
    }
}

/// Checks limits and requests of a container, and the claims they name.
pub(crate) fn validate_requirements(at: &At, claims: &[&str], errors: &mut FieldErrors) {
    let (limits, requests) = (at.field("limits"), at.field("requests"));
    for (name, limit) in limits.entries() {
        validate_container_name(&limit, name, errors);
        validate_container_quantity(&limit, name, errors);
    }
    for (name, request) in requests.entries() {
        validate_container_name(&request, name, errors);
        validate_container_quantity(&request, name, errors);
        let limit = limits.key(name);
        let exact = is_extended(name) || name.starts_with("hugepages-");
        match (quantity(&request), quantity(&limit)) {
            (Some(wanted), Some(most)) if exact && wanted != most => errors.push(FieldError::invalid(
                &requests.path(),
                wanted.to_string(),
                format!("must be equal to {name} limit of {most}"),
            )),
            (Some(wanted), Some(most)) if !exact && wanted > most => errors.push(FieldError::invalid(
                &requests.path(),
                wanted.to_string(),
                format!("must be less than or equal to {name} limit of {most}"),
            )),
            (Some(_), None) if exact => {
                errors.push(limits.required("Limit must be set for non overcommitable resources"));
            }
            _ => {}
        }
    }
    let whole =
        |prefix: &str| limits.entries().chain(requests.entries()).any(|(name, _)| name.starts_with(prefix));
    if whole("hugepages-") && !whole("cpu") && !whole("memory") {
        errors.push(at.forbidden("HugePages require cpu or memory"));
    }
    let listed = at.field("claims");
    for (i, claim) in listed.items().enumerate() {
        let name = claim.field("name");
        let key = |c: &At| (c.field("name").text().to_owned(), c.field("request").text().to_owned());
        if listed.items().take(i).any(|c| key(&c) == key(&claim)) {
            errors.push(claim.duplicate());
        }
        if name.text().is_empty() {
            errors.push(name.required(""));
        } else if !claims.contains(&name.text()) {
            errors.push(name.not_found());
        }
    }
}
