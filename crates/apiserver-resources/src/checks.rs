//! Checks that many kinds share, in upstream's words.
use machinery::{FieldError, FieldErrors, FieldPath, names};
use serde_json::Value;

use crate::tree::{At, same};

/// `must be greater than or equal to 0`, where there is a number.
pub(crate) fn non_negative(at: &At, errors: &mut FieldErrors) {
    if at.int().is_some_and(|n| n < 0) {
        errors.push(at.invalid("must be greater than or equal to 0"));
    }
}

/// The number is there and at least one.
pub(crate) fn positive(at: &At, errors: &mut FieldErrors) {
    if at.int().is_some_and(|n| n <= 0) {
        errors.push(at.invalid("must be greater than 0"));
    }
}

/// The text is one of these, or empty.
pub(crate) fn one_of_or_empty(at: &At, supported: &[&str], errors: &mut FieldErrors) {
    if !at.text().is_empty() {
        one_of(at, supported, errors);
    }
}

/// The text is one of these.
pub(crate) fn one_of(at: &At, supported: &[&str], errors: &mut FieldErrors) {
    if !supported.contains(&at.text()) {
        errors.push(at.not_supported(supported));
    }
}

/// Something is written.
pub(crate) fn required(at: &At, errors: &mut FieldErrors) {
    if at.is_empty() {
        errors.push(at.required(""));
    }
}

/// One `Invalid value` for each problem that a rule finds in the text.
pub(crate) fn text_rule(at: &At, rule: impl Fn(&str) -> Vec<String>, errors: &mut FieldErrors) {
    errors.extend(rule(at.text()).into_iter().map(|problem| at.invalid(problem)));
}

/// `field is immutable` where the two differ.
pub(crate) fn immutable(new: &At, old: &At, errors: &mut FieldErrors) {
    if !same(new.get(), old.get()) {
        errors.push(new.invalid("field is immutable"));
    }
}

/// Keys and values of labels.
pub(crate) fn labels(at: &At, errors: &mut FieldErrors) {
    labels_as(&at.path(), at, errors);
}

/// Keys and values of labels, which errors call by another path.
pub(crate) fn labels_as(path: &FieldPath, at: &At, errors: &mut FieldErrors) {
    let invalid = |value: &str, problem| FieldError::invalid(path, value, problem);
    for (key, value) in at.entries() {
        errors.extend(names::qualified_name(key).into_iter().map(|p| invalid(key, p)));
        errors.extend(names::label_value(value.text()).into_iter().map(|p| invalid(value.text(), p)));
    }
}

/// Most bytes that all annotations of an object may have.
const MAX_ANNOTATIONS: usize = 256 * 1024;

/// Keys of annotations, and their total size.
pub(crate) fn annotations(at: &At, errors: &mut FieldErrors) {
    annotations_as(&at.path(), at, errors);
}

/// Keys of annotations, and their total size; errors call them by another path.
pub(crate) fn annotations_as(path: &FieldPath, at: &At, errors: &mut FieldErrors) {
    let mut size = 0;
    for (key, value) in at.entries() {
        // Upper case was always let through here.
        let lower = key.to_lowercase();
        errors.extend(names::qualified_name(&lower).into_iter().map(|p| FieldError::invalid(path, key, p)));
        size += key.len() + value.text().len();
    }
    if size > MAX_ANNOTATIONS {
        errors.push(FieldError::too_long(path, MAX_ANNOTATIONS));
    }
}

/// A label selector as an object.
pub(crate) fn label_selector(at: &At, errors: &mut FieldErrors) {
    labels(&at.field("matchLabels"), errors);
    for requirement in at.field("matchExpressions").items() {
        let (operator, values) = (requirement.field("operator"), requirement.field("values"));
        match operator.text() {
            "In" | "NotIn" if values.is_empty() => {
                errors.push(values.required("must be specified when `operator` is 'In' or 'NotIn'"));
            }
            "Exists" | "DoesNotExist" if !values.is_empty() => {
                errors.push(
                    values.forbidden("may not be specified when `operator` is 'Exists' or 'DoesNotExist'"),
                );
            }
            "In" | "NotIn" | "Exists" | "DoesNotExist" => {}
            _ => errors.push(operator.invalid("not a valid selector operator")),
        }
        text_rule(&requirement.field("key"), names::qualified_name, errors);
        for value in values.items() {
            text_rule(&value, names::label_value, errors);
        }
    }
}

/// Whether a label selector as an object asks for nothing.
pub(crate) fn selects_everything(selector: &At) -> bool {
    selector.field("matchLabels").is_empty() && selector.field("matchExpressions").is_empty()
}

/// Whether a label selector as an object matches these labels.
pub(crate) fn selector_matches(selector: &At, labels: &At) -> bool {
    let label = |key: &str| labels.tree().and_then(|l| l.get(key)).and_then(Value::as_str);
    let exact = selector.field("matchLabels").entries().all(|(key, value)| label(key) == Some(value.text()));
    exact
        && selector.field("matchExpressions").items().all(|requirement| {
            let found = label(requirement.field("key").text());
            let listed = || requirement.field("values").items().any(|v| Some(v.text()) == found);
            match requirement.field("operator").text() {
                "In" => found.is_some() && listed(),
                "NotIn" => found.is_none() || !listed(),
                "Exists" => found.is_some(),
                "DoesNotExist" => found.is_none(),
                _ => false,
            }
        })
}

/// A number that is not negative, or a percentage.
pub(crate) fn int_or_percent(at: &At, errors: &mut FieldErrors) {
    match at.get() {
        Some(Value::Number(_)) => non_negative(at, errors),
        Some(Value::String(text)) => {
            for _ in names::percent(text) {
                errors.push(at.invalid("must be an integer or percentage (e.g '5%%')"));
            }
        }
        _ => {}
    }
}

/// The number of a percentage.
pub(crate) fn percent_of(at: &At) -> Option<i64> {
    at.text().strip_suffix('%')?.parse().ok()
}

/// Not above 100%.
pub(crate) fn not_above_100_percent(at: &At, errors: &mut FieldErrors) {
    if percent_of(at).is_some_and(|n| n > 100) {
        errors.push(at.invalid("must not be greater than 100%"));
    }
}

/// Problems of an address.
pub(crate) fn ip(text: &str) -> Vec<String> {
    if text.parse::<std::net::IpAddr>().is_ok() {
        Vec::new()
    } else {
        vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()]
    }
}

/// Problems of a network.
pub(crate) fn cidr(text: &str) -> Vec<String> {
    if text.contains('/') && text.parse::<ipnet::IpNet>().is_ok() {
        Vec::new()
    } else {
        vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".into()]
    }
}

/// Problems of an address that may not mean the machine itself.
pub(crate) fn non_special_ip(text: &str) -> Vec<String> {
    let Ok(ip) = text.parse::<std::net::IpAddr>() else { return vec!["must be a valid IP address".into()] };
    let mut problems = Vec::new();
    let link_local = match ip {
        std::net::IpAddr::V4(v4) => v4.is_link_local(),
        std::net::IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let link_local_multicast = match ip {
        std::net::IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        std::net::IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    };
    if ip.is_unspecified() {
        problems.push("may not be unspecified (0.0.0.0 or ::)".into());
    }
    if ip.is_loopback() {
        problems.push("may not be in the loopback range (127.0.0.0/8, ::1/128)".into());
    }
    if link_local {
        problems.push("may not be in the link-local range (169.254.0.0/16, fe80::/10)".into());
    }
    if link_local_multicast {
        problems.push("may not be in the link-local multicast range (224.0.0.0/24, ff02::/10)".into());
    }
    problems
}
