//! Checks that the kinds of this group share.
use std::collections::BTreeSet;

use machinery::{FieldError, FieldErrors, FieldPath, names};
use serde_json::Value;

use crate::checks;
use crate::tree::{At, Tree, default_text, each};

/// Most characters of a selector in CEL.
const MAX_EXPRESSION: usize = 10 * 1024;
/// Most bytes of the parameters of a driver.
const MAX_PARAMETERS: usize = 10 * 1024;
/// Most items of most lists.
pub(crate) const MAX_ITEMS: usize = 32;
const MAX_POOL_NAME: usize = 253;
const MAX_ID: usize = 32;

/// Checks every item, unless there are too many.
pub(crate) fn list(
    at: &At,
    max: usize,
    errors: &mut FieldErrors,
    check: impl Fn(&At, &mut FieldErrors),
) -> bool {
    if at.len() > max {
        errors.push(at.too_many(max));
        return false;
    }
    at.items().for_each(|item| check(&item, errors));
    true
}

/// Checks every item, unless there are too many, and that no two have the same key.
pub(crate) fn set<'v>(
    at: &At<'v>,
    max: usize,
    errors: &mut FieldErrors,
    check: impl Fn(&At<'v>, &mut FieldErrors),
    key: impl Fn(&At<'v>) -> Value,
) {
    if at.len() > max {
        errors.push(at.too_many(max));
        return;
    }
    at.items().for_each(|item| check(&item, errors));
    let mut seen: Vec<Value> = Vec::new();
    for item in at.items() {
        let key = key(&item);
        if seen.contains(&key) {
            errors.push(FieldError::duplicate(&item.path(), key));
        } else {
            seen.push(key);
        }
    }
}

/// The key of a list of texts.
pub(crate) fn by_text(item: &At) -> Value {
    item.text().into()
}

/// The key of a list of things with names.
pub(crate) fn by_name(item: &At) -> Value {
    item.field("name").text().into()
}

/// The name of a pool: subdomains between slashes.
pub(crate) fn pool_name(at: &At, errors: &mut FieldErrors) {
    if at.text().is_empty() {
        errors.push(at.required(""));
        return;
    }
    if at.text().len() > MAX_POOL_NAME {
        errors.push(at.too_long(MAX_POOL_NAME));
    }
    for part in at.text().split('/') {
        errors.extend(names::dns1123_subdomain(part).into_iter().map(|p| at.invalid_as(part, p)));
    }
}

/// A uid in the form that all of them have.
pub(crate) fn uid(at: &At, errors: &mut FieldErrors) {
    let text = at.text();
    let hyphens = [8, 13, 18, 23];
    let hex = |(i, b): (usize, u8)| if hyphens.contains(&i) { b == b'-' } else { b.is_ascii_hexdigit() };
    if text.len() != 36 || !text.bytes().enumerate().all(hex) {
        errors.push(at.invalid(format!("error validating uid: invalid UUID length: {}", text.len())));
    } else if text.bytes().any(|b| b.is_ascii_uppercase()) {
        errors.push(at.invalid("uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters"));
    }
}

fn identifier(path: &FieldPath, id: &str, errors: &mut FieldErrors) {
    if id.len() > MAX_ID {
        errors.push(FieldError::too_long(path, MAX_ID));
    }
    errors.extend(names::c_identifier(id).into_iter().map(|p| FieldError::invalid(path, id, p)));
}

/// The name of an attribute or a capacity: `[domain/]identifier`.
pub(crate) fn qualified(path: &FieldPath, name: &str, errors: &mut FieldErrors) {
    const MAX_DOMAIN: usize = 63;
    match name.split('/').collect::<Vec<_>>().as_slice() {
        [id] => identifier(path, id, errors),
        [domain, id] => {
            if domain.is_empty() {
                errors.push(FieldError::invalid(path, "", "the domain must not be empty"));
            } else {
                if domain.len() > MAX_DOMAIN {
                    errors.push(FieldError::too_long(path, MAX_DOMAIN));
                }
                let problems = names::dns1123_subdomain(&domain.to_lowercase());
                errors.extend(problems.into_iter().map(|p| FieldError::invalid(path, *domain, p)));
            }
            if id.is_empty() {
                errors.push(FieldError::invalid(path, "", "the name must not be empty"));
            } else {
                identifier(path, id, errors);
            }
        }
        _ => errors.push(FieldError::invalid(path, name, "must not contain more than one slash")),
    }
}

/// The name of an attribute with its domain.
pub(crate) fn fully_qualified(at: &At, errors: &mut FieldErrors) {
    qualified(&at.path(), at.text(), errors);
    if !at.text().contains('/') {
        errors.push(at.invalid("a fully qualified name must be a domain and a name separated by a slash"));
    }
}

/// Selectors of devices. Those that stand already are good.
pub(crate) fn selectors(at: &At, stored: bool, errors: &mut FieldErrors) {
    list(at, MAX_ITEMS, errors, |selector, errors| {
        let cel = selector.field("cel");
        if !cel.exists() {
            errors.push(cel.required(""));
            return;
        }
        let expression = cel.field("expression");
        if stored {
            return;
        }
        if expression.text().len() > MAX_EXPRESSION {
            errors.push(expression.too_long(MAX_EXPRESSION));
        } else if expression.text().trim().is_empty() {
            errors.push(expression.required(""));
        }
    });
}

/// What a driver is told.
pub(crate) fn configuration(config: &At, stored: bool, errors: &mut FieldErrors) {
    let opaque = config.field("opaque");
    if !opaque.exists() {
        errors.push(opaque.required(""));
        return;
    }
    checks::csi_driver_name(&opaque.field("driver"), errors);
    raw_object(&opaque.field("parameters"), stored, MAX_PARAMETERS, errors);
}

/// A JSON object that nobody here understands.
pub(crate) fn raw_object(at: &At, stored: bool, max: usize, errors: &mut FieldErrors) {
    match at.get() {
        None => errors.push(at.required("")),
        Some(value) if !stored && value.to_string().len() > max => errors.push(at.too_long(max)),
        Some(Value::Object(_)) => {}
        Some(_) => errors.push(at.invalid_as("<value omitted>", "must be a valid JSON object")),
    }
}

const EFFECTS: [&str; 3] = ["NoExecute", "NoSchedule", "None"];

/// The taint of a device.
pub(crate) fn taint(taint: &At, errors: &mut FieldErrors) {
    checks::text_rule(&taint.field("key"), names::qualified_name, errors);
    checks::optional_text(&taint.field("value"), names::label_value, errors);
    checks::required_one_of(&taint.field("effect"), &EFFECTS, errors);
}

/// Tolerations of taints of devices.
pub(crate) fn tolerations(at: &At, errors: &mut FieldErrors) {
    for toleration in at.items() {
        checks::optional_text(&toleration.field("key"), names::qualified_name, errors);
        let (operator, value) = (toleration.field("operator"), toleration.field("value"));
        match operator.text() {
            "Exists" if !value.text().is_empty() => {
                errors.push(value.invalid("must be empty for operator `Exists`"));
            }
            "Exists" => {}
            "Equal" => checks::text_rule(&value, names::label_value, errors),
            _ => checks::required_one_of(&operator, &["Equal", "Exists"], errors),
        }
        checks::one_of_or_empty(&toleration.field("effect"), &EFFECTS, errors);
    }
}

/// Fills tolerations.
pub(crate) fn fill_tolerations(request: &mut Tree) {
    for toleration in each(request, "tolerations") {
        default_text(toleration, "operator", "Equal");
    }
}

/// Conditions that have to hold before a device is bound, and those that say it failed.
pub(crate) fn binding_conditions(at: &At, errors: &mut FieldErrors) {
    const MAX: usize = 4;
    let (good, bad) = (at.field("bindingConditions"), at.field("bindingFailureConditions"));
    for conditions in [&good, &bad] {
        let label = |item: &At, errors: &mut FieldErrors| {
            checks::text_rule(item, names::qualified_name, errors);
        };
        list(conditions, MAX, errors, label);
    }
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for condition in good.items() {
        if !seen.insert(condition.text()) {
            errors.push(condition.duplicate());
        }
    }
    let mut failures: BTreeSet<&str> = BTreeSet::new();
    for condition in bad.items() {
        if !failures.insert(condition.text()) {
            errors.push(condition.duplicate());
        }
        if seen.contains(condition.text()) {
            errors
                .push(condition.invalid("bindingFailureConditions must not overlap with bindingConditions"));
        }
    }
    match (good.is_empty(), bad.is_empty()) {
        (true, false) => {
            errors.push(
                good.invalid_as(
                    Value::Null,
                    "bindingConditions are required to use bindingFailureConditions",
                ),
            );
        }
        (false, true) => {
            errors.push(
                bad.invalid_as(Value::Null, "bindingFailureConditions are required to use bindingConditions"),
            );
        }
        _ => {}
    }
}
