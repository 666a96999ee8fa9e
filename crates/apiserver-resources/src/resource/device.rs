//! Checks of one device of a slice.
use machinery::{FieldErrors, Quantity, names};
use serde_json::Value;

use crate::checks;
use crate::core::pod_spec::validate_node_selector;
use crate::core::resource_list;
use crate::resource::parts::{self, MAX_ITEMS};
use crate::tree::{At, same};

const MAX_VALUES: usize = 48;
const MAX_TEXT: usize = 64;
const MAX_TAINTS: usize = 16;
const MAX_CONSUMED_SETS: usize = 2;
const MAX_OPTIONS: usize = 10;
const LISTS: [&str; 4] = ["bools", "ints", "strings", "versions"];

/// Whether a slice has room for fewer devices like this.
pub(crate) fn is_costly(device: &At) -> bool {
    !device.field("taints").is_empty()
        || !device.field("consumesCounters").is_empty()
        || device.field("attributes").entries().any(|(_, a)| LISTS.iter().any(|l| a.field(l).exists()))
}

/// Checks a device; `per_device`: whether it says itself where it is.
pub(crate) fn validate(device: &At, old: Option<&At>, per_device: bool, errors: &mut FieldErrors) {
    checks::required_text(&device.field("name"), names::dns1123_label, errors);
    let (attributes, capacity) = (device.field("attributes"), device.field("capacity"));
    let total = attributes.entries().count() + capacity.entries().count();
    if total > MAX_ITEMS {
        errors.push(device.invalid_as(
            total,
            format!("the total number of attributes and capacities must not exceed {MAX_ITEMS}"),
        ));
    }
    let values: usize =
        attributes.entries().map(|(_, a)| LISTS.iter().map(|l| a.field(l).len()).sum::<usize>().max(1)).sum();
    if values > MAX_VALUES {
        errors.push(device.invalid_as(
            values,
            format!("the total number of attribute values must not exceed {MAX_VALUES}"),
        ));
    }
    for (name, attribute) in attributes.entries() {
        parts::qualified(&attributes.path(), name, errors);
        validate_attribute(&attribute, errors);
    }
    let unchanged =
        |field: &'static str| old.is_some_and(|old| same(old.field(field).get(), device.field(field).get()));
    if !unchanged("capacity") {
        let shared = device.field("allowMultipleAllocations").is_true();
        for (name, amount) in capacity.entries() {
            parts::qualified(&capacity.path(), name, errors);
            validate_capacity(&amount, shared, errors);
        }
    }
    if !unchanged("taints") {
        parts::list(&device.field("taints"), MAX_TAINTS, errors, parts::taint);
    }
    parts::set(
        &device.field("consumesCounters"),
        MAX_CONSUMED_SETS,
        errors,
        |consumed, errors| {
            checks::required_text(&consumed.field("counterSet"), names::dns1123_label, errors);
            validate_counters(&consumed.field("counters"), errors);
        },
        |consumed| consumed.field("counterSet").text().into(),
    );
    validate_nodes(device, per_device, errors);
    parts::binding_conditions(device, errors);
}

/// Checks named counters.
pub(crate) fn validate_counters(counters: &At, errors: &mut FieldErrors) {
    let count = counters.entries().count();
    if count == 0 {
        errors.push(counters.required(""));
    } else if count > MAX_ITEMS {
        errors.push(machinery::FieldError::too_many(&counters.path(), count, MAX_ITEMS));
    } else {
        for (name, _) in counters.entries() {
            errors.extend(names::dns1123_label(name).into_iter().map(|p| counters.invalid_as(name, p)));
        }
    }
}

fn validate_nodes(device: &At, per_device: bool, errors: &mut FieldErrors) {
    let (node, selector, all) =
        (device.field("nodeName"), device.field("nodeSelector"), device.field("allNodes"));
    if !per_device {
        if node.exists() || selector.exists() || all.exists() {
            errors.push(device.invalid_as(Value::Null, "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec"));
        }
        return;
    }
    if node.exists() && node.text().is_empty() {
        errors.push(node.invalid("must not be empty"));
    }
    checks::optional_text(&node, names::dns1123_subdomain, errors);
    if selector.exists() {
        validate_node_selector(&selector, errors);
    }
    if all.bool() == Some(false) {
        errors.push(all.invalid("must be either unset or set to true"));
    }
    let ways = [
        (!node.text().is_empty(), "`nodeName`"),
        (selector.exists(), "`nodeSelector`"),
        (all.is_true(), "`allNodes`"),
    ];
    let used: Vec<&str> = ways.iter().filter(|(used, _)| *used).map(|(_, name)| *name).collect();
    let problem = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec";
    match used.len() {
        0 => errors.push(device.required(problem)),
        1 => {}
        _ => errors.push(device.invalid_as(format!("{{{}}}", used.join(", ")), problem)),
    }
}

fn validate_attribute(attribute: &At, errors: &mut FieldErrors) {
    let text = |at: &At, errors: &mut FieldErrors| {
        if at.text().len() > MAX_TEXT {
            errors.push(at.too_long(MAX_TEXT));
        }
    };
    let version = |at: &At, errors: &mut FieldErrors| {
        if !is_semver(at.text()) {
            errors.push(at.invalid("must be a string compatible with semver.org spec 2.0.0"));
        }
        text(at, errors);
    };
    text(&attribute.field("string"), errors);
    if attribute.field("version").exists() {
        version(&attribute.field("version"), errors);
    }
    for list in LISTS {
        let list = attribute.field(list);
        if list.exists() && list.is_empty() {
            errors.push(list.invalid("must not be empty if specified"));
        }
    }
    attribute.field("strings").items().for_each(|item| text(&item, errors));
    attribute.field("versions").items().for_each(|item| version(&item, errors));
    let ways = ["bool", "int", "string", "version"].iter().chain(&LISTS);
    if ways.filter(|way| attribute.field(way).exists()).count() != 1 {
        errors.push(attribute.invalid("exactly one value must be specified"));
    }
}

/// Whether this is a version as semver.org has it.
fn is_semver(text: &str) -> bool {
    let number = |part: &str| {
        !part.is_empty()
            && part.bytes().all(|b| b.is_ascii_digit())
            && (part == "0" || !part.starts_with('0'))
    };
    let word = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    let (rest, build) = text.split_once('+').map_or((text, None), |(a, b)| (a, Some(b)));
    let (core, pre) = rest.split_once('-').map_or((rest, None), |(a, b)| (a, Some(b)));
    let is_pre = |part: &str| number(part) || (word(part) && part.bytes().any(|b| !b.is_ascii_digit()));
    core.split('.').count() == 3
        && core.split('.').all(number)
        && pre.is_none_or(|pre| pre.split('.').all(is_pre))
        && build.is_none_or(|build| build.split('.').all(word))
}

fn validate_capacity(capacity: &At, shared: bool, errors: &mut FieldErrors) {
    let policy = capacity.field("requestPolicy");
    if !policy.exists() {
        return;
    }
    if !shared {
        errors.push(policy.forbidden("allowMultipleAllocations must be true"));
        return;
    }
    let (values, range, default) =
        (policy.field("validValues"), policy.field("validRange"), policy.field("default"));
    let Some(most) = resource_list::quantity(&capacity.field("value")) else { return };
    match (!values.is_empty(), range.exists()) {
        (true, true) => errors.push(policy.forbidden("exactly one policy can be specified, cannot specify \"validValues\" and \"validRange\" at the same time")),
        (false, false) => {}
        (listed, _) => match resource_list::quantity(&default) {
            None => {
                let field = if listed { "validValues" } else { "validRange" };
                errors.push(default.required(format!("required when {field} is defined")));
            }
            Some(default) if listed => validate_values(&values, &default, &most, errors),
            Some(default) => validate_range(&range, &default, &most, errors),
        },
    }
}

fn validate_values(values: &At, default: &Quantity, most: &Quantity, errors: &mut FieldErrors) {
    let amounts: Vec<(At, Quantity)> =
        values.items().filter_map(|v| resource_list::quantity(&v).map(|q| (v, q))).collect();
    for pair in amounts.windows(2) {
        if pair[0].1 > pair[1].1 {
            errors.push(
                pair[1].0.invalid_as(pair[1].1.to_string(), "values must be sorted in ascending order"),
            );
        }
    }
    let option = |at: &At, errors: &mut FieldErrors| {
        if let Some(value) = resource_list::quantity(at).filter(|value| value > most) {
            errors.push(
                at.invalid_as(value.to_string(), format!("option is larger than capacity value: {most}")),
            );
        }
    };
    let key = |at: &At| resource_list::quantity(at).map(|q| q.value()).unwrap_or_default().into();
    parts::set(values, MAX_OPTIONS, errors, option, key);
    if !amounts.iter().any(|(_, value)| value == default) {
        errors.push(
            values
                .invalid_as(default.to_string(), "default value is not valid according to the requestPolicy"),
        );
    }
}

fn validate_range(range: &At, default: &Quantity, most: &Quantity, errors: &mut FieldErrors) {
    let (min, max, step) = (range.field("min"), range.field("max"), range.field("step"));
    let Some(low) = resource_list::quantity(&min) else {
        errors.push(min.required("required when validRange is defined"));
        return;
    };
    let at_default = range.field("min").path().as_str().replace(".min", ".default");
    let of_default = |detail: String| {
        let mut error = min.invalid_as(default.to_string(), detail);
        error.path = machinery::FieldPath::new(&at_default);
        error
    };
    if low > *most {
        errors.push(min.invalid_as(low.to_string(), format!("min is larger than capacity value: {most}")));
    }
    if *default < low {
        errors.push(of_default(format!("default is less than min: {low}")));
    }
    let high = resource_list::quantity(&max);
    if let Some(high) = &high {
        if low > *high {
            errors.push(max.invalid_as(low.to_string(), format!("min is larger than max: {high}")));
        }
        if high > most {
            errors
                .push(max.invalid_as(high.to_string(), format!("max is larger than capacity value: {most}")));
        }
        if default > high {
            errors.push(of_default(format!("default is more than max: {high}")));
        }
    }
    let Some(by) = resource_list::quantity(&step) else { return };
    if by.is_zero() || by.is_negative() {
        errors.push(step.invalid_as(by.to_string(), "must be greater than zero"));
        return;
    }
    let one = low.add(&by);
    if one > *most {
        errors.push(
            step.invalid_as(by.to_string(), format!("one step {one} is larger than capacity value: {most}")),
        );
    }
    for value in [Some(default), high.as_ref()].into_iter().flatten() {
        let (from, step_of) =
            (i128::from(value.milli_value()) - i128::from(low.milli_value()), by.milli_value());
        if step_of != 0 && from % i128::from(step_of) != 0 {
            errors.push(step.invalid_as(
                value.to_string(),
                format!("value is not a multiple of a given step ({by}) from ({low})"),
            ));
        }
    }
}
