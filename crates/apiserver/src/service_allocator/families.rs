//! Which IP families a Service has, on a cluster that has one. Upstream: pkg/registry/core/service/storage/alloc.go,
//! `initIPFamilyFields`, 1.36.
use std::net::IpAddr;

use machinery::{FieldError, FieldErrors, FieldPath, Object};
use serde_json::{Value, json};

/// The family that the cluster is configured for.
const FAMILY: &str = "IPv4";

fn texts<'o>(service: &'o Object, field: &str) -> Vec<&'o str> {
    service.list_at(&["spec", field]).iter().filter_map(Value::as_str).collect()
}

fn policy(service: &Object) -> &str {
    service.str_at(&["spec", "ipFamilyPolicy"])
}

fn type_of(service: &Object) -> &str {
    service.str_at(&["spec", "type"])
}

fn family_of(ip: &str) -> &'static str {
    match ip.parse::<IpAddr>() {
        Ok(IpAddr::V4(_)) => "IPv4",
        Ok(IpAddr::V6(_)) => "IPv6",
        Err(_) => "unknown",
    }
}

fn is_headless(service: &Object) -> bool {
    service.str_at(&["spec", "clusterIP"]) == "None"
}

fn has_selector(service: &Object) -> bool {
    service.at(&["spec", "selector"]).and_then(Value::as_object).is_some_and(|s| !s.is_empty())
}

/// Whether nothing about addresses changes of a Service that takes what families there are.
fn stays_as_it_is(new: &Object, old: &Object) -> bool {
    let prefers = |s: &Object| policy(s) == "PreferDualStack";
    let same = |field: &str| texts(new, field) == texts(old, field);
    prefers(new)
        && (prefers(old) || policy(old).is_empty())
        && type_of(new) == type_of(old)
        && same("clusterIPs")
        && same("ipFamilies")
}

/// Fills `ipFamilyPolicy` and `ipFamilies`, and finds what this cluster cannot give.
pub(super) fn init(new: &mut Object, old: Option<&Object>) -> FieldErrors {
    if type_of(new) == "ExternalName" || old.is_some_and(|old| stays_as_it_is(new, old)) {
        return Vec::new();
    }
    let free = is_headless(new) && !has_selector(new);
    if policy(new).is_empty() {
        let wanted = match old.map(policy) {
            Some(before) if !before.is_empty() => before.to_owned(),
            // Whoever gives the endpoints may give them of any family.
            _ if free => "RequireDualStack".to_owned(),
            _ => "SingleStack".to_owned(),
        };
        new.set(&["spec", "ipFamilyPolicy"], wanted);
    }
    let mut errors = counts(new, old);
    fill_from_addresses(new, &mut errors);
    if !errors.is_empty() {
        return errors;
    }
    let mut families: Vec<String> = texts(new, "ipFamilies").into_iter().map(str::to_owned).collect();
    if free {
        if families.is_empty() {
            families.push(FAMILY.to_owned());
        }
        if families.len() < 2 && policy(new) != "SingleStack" {
            let other = if families[0] == "IPv4" { "IPv6" } else { "IPv4" };
            families.push(other.to_owned());
        }
        new.set(&["spec", "ipFamilies"], json!(families));
        return Vec::new();
    }
    let spec = FieldPath::new("spec");
    if policy(new) == "RequireDualStack" {
        let why = "this cluster is not configured for dual-stack services";
        errors.push(FieldError::invalid(&spec.child("ipFamilyPolicy"), policy(new), why));
    }
    for (i, family) in families.iter().enumerate().filter(|(_, f)| *f != FAMILY) {
        let path = spec.child("ipFamilies").index(i);
        errors.push(FieldError::invalid(&path, family.as_str(), "not configured on this cluster"));
    }
    if errors.is_empty() && families.is_empty() {
        new.set(&["spec", "ipFamilies"], json!([FAMILY]));
    }
    errors
}

/// How many addresses and families there may be under the policy.
fn counts(new: &mut Object, old: Option<&Object>) -> FieldErrors {
    let path = FieldPath::new("spec").child("ipFamilyPolicy");
    let single = policy(new) == "SingleStack";
    let mut errors = Vec::new();
    for (field, one, many) in [
        ("clusterIPs", "the secondary cluster IP", "multiple cluster IPs are specified"),
        ("ipFamilies", "the secondary IP family", "multiple IP families are specified"),
    ] {
        let count = texts(new, field).len();
        let before = old.map(|old| texts(old, field)).unwrap_or_default();
        if single && count > 1 && texts(new, field) == before {
            // Who asks for one and leaves the list as it is means the first.
            let first = texts(new, field)[0].to_owned();
            new.set(&["spec", field], json!([first]));
        } else if single && count == 2 {
            let why = format!("must be 'RequireDualStack' or 'PreferDualStack' when {many}");
            errors.push(FieldError::invalid(&path, policy(new), why));
        } else if !single && count > 0 && count < before.len() {
            let why = format!("must be 'SingleStack' to release {one}");
            errors.push(FieldError::invalid(&path, policy(new), why));
        }
    }
    errors
}

/// An address that is asked for says its family.
fn fill_from_addresses(new: &mut Object, errors: &mut FieldErrors) {
    let ips: Vec<String> = texts(new, "clusterIPs").into_iter().map(str::to_owned).collect();
    let mut families: Vec<String> = texts(new, "ipFamilies").into_iter().map(str::to_owned).collect();
    for (i, ip) in ips.iter().enumerate().take_while(|(_, ip)| *ip != "None") {
        if i < families.len() || ip.is_empty() {
            continue;
        }
        let family = family_of(ip);
        if family == FAMILY {
            families.push(family.to_owned());
        } else {
            let path = FieldPath::new("spec").child("clusterIPs").index(i);
            errors.push(FieldError::invalid(
                &path,
                json!(ips),
                format!("{family} is not configured on this cluster"),
            ));
        }
    }
    if !families.is_empty() {
        new.set(&["spec", "ipFamilies"], json!(families));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(spec: Value) -> Object {
        Object::from_value(json!({ "spec": spec })).unwrap()
    }

    /// Policy and families, or the errors.
    fn outcome(new: Value, old: Option<Value>) -> String {
        let mut new = service(new);
        let errors = init(&mut new, old.map(service).as_ref());
        if errors.is_empty() {
            format!("{} {}", policy(&new), texts(&new, "ipFamilies").join(","))
        } else {
            errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
        }
    }

    #[test]
    fn a_cluster_of_one_family_gives_one() {
        for (spec, expected) in [
            (json!({"type": "ClusterIP"}), "SingleStack IPv4"),
            (json!({"type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack"}), "PreferDualStack IPv4"),
            (
                json!({"type": "ClusterIP", "clusterIP": "10.0.0.1", "clusterIPs": ["10.0.0.1"]}),
                "SingleStack IPv4",
            ),
            (
                json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"], "selector": {"a": "b"}}),
                "SingleStack IPv4",
            ),
            (
                json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"]}),
                "RequireDualStack IPv4,IPv6",
            ),
            (
                json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"], "ipFamilies": ["IPv6"]}),
                "RequireDualStack IPv6,IPv4",
            ),
            (
                json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"], "ipFamilyPolicy": "SingleStack"}),
                "SingleStack IPv4",
            ),
            (json!({"type": "ExternalName"}), " "),
            (
                json!({"type": "ClusterIP", "ipFamilyPolicy": "RequireDualStack"}),
                "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": this cluster is not configured for dual-stack services",
            ),
            (
                json!({"type": "ClusterIP", "ipFamilies": ["IPv6"]}),
                "spec.ipFamilies[0]: Invalid value: \"IPv6\": not configured on this cluster",
            ),
            (
                json!({"type": "ClusterIP", "ipFamilies": ["IPv4", "IPv6"]}),
                "spec.ipFamilyPolicy: Invalid value: \"SingleStack\": must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
            ),
            (
                json!({"type": "ClusterIP", "clusterIPs": ["fd00::1"]}),
                "spec.clusterIPs[0]: Invalid value: [\"fd00::1\"]: IPv6 is not configured on this cluster",
            ),
        ] {
            assert_eq!(outcome(spec.clone(), None), expected, "{spec}");
        }
    }

    #[test]
    fn an_update_keeps_the_policy_and_may_ask_for_one_of_two() {
        let plain = json!({"type": "ClusterIP", "ipFamilyPolicy": "PreferDualStack", "ipFamilies": ["IPv4"], "clusterIPs": ["10.0.0.1"]});
        let left_out = json!({"type": "ClusterIP", "ipFamilies": ["IPv4"], "clusterIPs": ["10.0.0.1"]});
        assert_eq!(outcome(left_out, Some(plain)), "PreferDualStack IPv4");
        let both = json!({"type": "ClusterIP", "clusterIP": "None", "clusterIPs": ["None"], "ipFamilyPolicy": "RequireDualStack", "ipFamilies": ["IPv4", "IPv6"]});
        let mut one = both.clone();
        one["ipFamilyPolicy"] = "SingleStack".into();
        assert_eq!(outcome(one, Some(both.clone())), "SingleStack IPv4");
        let mut fewer = both.clone();
        fewer["ipFamilies"] = json!(["IPv4"]);
        assert_eq!(
            outcome(fewer, Some(both)),
            "spec.ipFamilyPolicy: Invalid value: \"RequireDualStack\": must be 'SingleStack' to release the secondary IP family"
        );
    }
}
