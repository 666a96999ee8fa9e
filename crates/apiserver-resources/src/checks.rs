//! Checks that many kinds share, in upstream's words.
use std::net::IpAddr;

use ipnet::IpNet;
use machinery::{FieldError, FieldErrors, FieldPath, names};
use serde_json::Value;

use crate::tree::{At, Tree, same};

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

/// The text is there and follows the rule.
pub(crate) fn required_text(at: &At, rule: impl Fn(&str) -> Vec<String>, errors: &mut FieldErrors) {
    if at.text().is_empty() {
        errors.push(at.required(""));
    } else {
        text_rule(at, rule, errors);
    }
}

/// The text follows the rule, where there is one.
pub(crate) fn optional_text(at: &At, rule: impl Fn(&str) -> Vec<String>, errors: &mut FieldErrors) {
    if !at.text().is_empty() {
        text_rule(at, rule, errors);
    }
}

/// The text is there and one of these.
pub(crate) fn required_one_of(at: &At, supported: &[&str], errors: &mut FieldErrors) {
    if at.text().is_empty() {
        errors.push(at.required(""));
    } else {
        one_of(at, supported, errors);
    }
}

/// `must be greater than 0`; what is absent is zero.
pub(crate) fn above_zero(at: &At, errors: &mut FieldErrors) {
    if at.number() <= 0 {
        errors.push(at.invalid_as(at.number(), "must be greater than 0"));
    }
}

/// The name of a CSI driver.
pub(crate) fn csi_driver_name(at: &At, errors: &mut FieldErrors) {
    const MAX: usize = 63;
    let name = at.text();
    if name.is_empty() {
        errors.push(at.required(""));
    }
    if name.len() > MAX {
        errors.push(at.too_long(MAX));
    }
    if !name.is_empty() {
        errors.extend(names::dns1123_subdomain(&name.to_lowercase()).into_iter().map(|p| at.invalid(p)));
    }
}

/// `domain/path`, as the controller of an ingress class has it.
pub(crate) fn domain_prefixed_path(at: &At, errors: &mut FieldErrors) {
    let text = at.text();
    if text.is_empty() {
        errors.push(at.required(""));
        return;
    }
    let Some((host, path)) = text.split_once('/').filter(|(host, path)| !host.is_empty() && !path.is_empty())
    else {
        errors.push(at.invalid("must be a domain-prefixed path (such as \"acme.io/foo\")"));
        return;
    };
    errors.extend(names::dns1123_subdomain(host).into_iter().map(|p| at.invalid_as(host, p)));
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"/._~%!$&'()*+,;=:-".contains(&b);
    if !path.bytes().all(allowed) {
        errors.push(
            at.invalid_as(path, names::regex_error("Invalid path", r"[A-Za-z0-9/\-._~%!$&'()*+,;=:]+", &[])),
        );
    }
}

/// The conditions of a status in the form that all newer kinds share.
pub(crate) fn conditions(at: &At, errors: &mut FieldErrors) {
    const MAX_REASON: usize = 1024;
    const MAX_MESSAGE: usize = 32 * 1024;
    for (i, condition) in at.items().enumerate() {
        let ty = condition.field("type");
        if at.items().take(i).any(|before| before.field("type").text() == ty.text()) {
            errors.push(ty.duplicate());
        }
        required_text_or_format(&ty, errors);
        let status = condition.field("status");
        if !matches!(status.text(), "True" | "False" | "Unknown") {
            errors.push(status.not_supported(&["False", "True", "Unknown"]));
        }
        non_negative(&condition.field("observedGeneration"), errors);
        if condition.field("lastTransitionTime").is_empty() {
            errors.push(condition.field("lastTransitionTime").required("must be set"));
        }
        let (reason, message) = (condition.field("reason"), condition.field("message"));
        if reason.text().is_empty() {
            errors.push(reason.required(""));
        } else if reason.text().len() > MAX_REASON {
            errors.push(reason.too_long(MAX_REASON));
        } else if !is_reason(reason.text()) {
            errors.push(reason.invalid(names::regex_error(
                "a condition reason must start with alphabetic character, optionally followed by a string of alphanumeric characters or '_,:', and must end with an alphanumeric character or '_'",
                "[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?",
                &["my_name", "MY_NAME", "MyName", "ReasonA,ReasonB", "ReasonA:ReasonB"],
            )));
        }
        if message.text().len() > MAX_MESSAGE {
            errors.push(message.too_long(MAX_MESSAGE));
        }
    }
}

fn required_text_or_format(at: &At, errors: &mut FieldErrors) {
    if at.text().is_empty() {
        errors.push(at.required("must be set"));
    } else {
        text_rule(at, names::qualified_name, errors);
    }
}

fn is_reason(text: &str) -> bool {
    let inside = |b: u8| b.is_ascii_alphanumeric() || b"_,:".contains(&b);
    let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_alphanumeric() || b == b'_');
    text.bytes().next().is_some_and(|b| b.is_ascii_alphabetic())
        && edge(text.bytes().last())
        && text.bytes().all(inside)
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

/// Whether a label selector as an object matches the labels at a place.
pub(crate) fn selector_matches(selector: &At, labels: &At) -> bool {
    match labels.tree() {
        Some(labels) => selector_matches_map(selector, labels),
        None => selector_matches_map(selector, &Tree::new()),
    }
}

/// Whether a label selector as an object matches these labels.
pub(crate) fn selector_matches_map(selector: &At, labels: &Tree) -> bool {
    let label = |key: &str| labels.get(key).and_then(Value::as_str);
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
    match text.parse::<IpAddr>() {
        Ok(IpAddr::V6(v6)) if v6.to_ipv4_mapped().is_some() => {
            vec!["must not be an IPv4-mapped IPv6 address".into()]
        }
        Ok(_) => Vec::new(),
        Err(_) if without_leading_zeros(text).parse::<IpAddr>().is_ok() => {
            vec!["must not have leading 0s".into()]
        }
        Err(_) => vec!["must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)".into()],
    }
}

/// Problems of an address, which has to be written in the shortest way too.
pub(crate) fn canonical_ip(text: &str) -> Vec<String> {
    let mut problems = ip(text);
    if let Ok(parsed) = text.parse::<IpAddr>()
        && problems.is_empty()
        && parsed.to_string() != text
    {
        problems.push(format!("must be in canonical form (\"{parsed}\")"));
    }
    problems
}

fn without_leading_zeros(text: &str) -> String {
    let part = |part: &str| match part.trim_start_matches('0') {
        "" => "0".to_owned(),
        rest => rest.to_owned(),
    };
    text.split('.').map(part).collect::<Vec<_>>().join(".")
}

/// Problems of a network.
pub(crate) fn cidr(text: &str) -> Vec<String> {
    match text.parse::<IpNet>() {
        Ok(net) if net.addr() != net.network() => {
            vec!["must not have bits set beyond the prefix length".into()]
        }
        Ok(IpNet::V6(net)) if net.addr().to_ipv4_mapped().is_some() => {
            vec!["must not be an IPv4-mapped IPv6 address".into()]
        }
        Ok(_) => Vec::new(),
        Err(_) => vec!["must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)".into()],
    }
}

/// Problems of a network, which has to be written in the shortest way too.
pub(crate) fn canonical_cidr(text: &str) -> Vec<String> {
    match text.parse::<IpNet>() {
        Ok(net) if net.addr() != net.network() => {
            vec![format!("must be in canonical form (\"{}\")", net.trunc())]
        }
        Ok(net) if cidr(text).is_empty() && net.to_string() != text => {
            vec![format!("must be in canonical form (\"{net}\")")]
        }
        _ => cidr(text),
    }
}

/// Problems of an address that may not mean the machine itself.
pub(crate) fn non_special_ip(text: &str) -> Vec<String> {
    let Ok(ip) = text.parse::<IpAddr>() else { return vec!["must be a valid IP address".into()] };
    let mut problems = Vec::new();
    let link_local = match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    let link_local_multicast = match ip {
        IpAddr::V4(v4) => v4.octets()[..3] == [224, 0, 0],
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
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
