//! Cells of nodes.
use std::collections::BTreeSet;

use jiff::Timestamp;
use machinery::Object;
use serde_json::Value;

use super::{age, or, text};

fn status(node: &Object) -> String {
    let ready = node.list_at(&["status", "conditions"]).iter().find(|c| text(c, &["type"]) == "Ready");
    let mut all = vec![match ready.map(|c| text(c, &["status"])) {
        Some("True") => "Ready",
        Some(_) => "NotReady",
        None => "Unknown",
    }];
    if node.bool_at(&["spec", "unschedulable"]) == Some(true) {
        all.push("SchedulingDisabled");
    }
    all.join(",")
}

fn roles(node: &Object) -> String {
    let roles: BTreeSet<&str> = node
        .labels()
        .filter_map(|(key, value)| match key.strip_prefix("node-role.kubernetes.io/") {
            Some("") => None,
            Some(role) => Some(role),
            None if key == "kubernetes.io/role" && !value.is_empty() => Some(value),
            None => None,
        })
        .collect();
    if roles.is_empty() { "<none>".into() } else { roles.into_iter().collect::<Vec<_>>().join(",") }
}

fn address(node: &Object, ty: &str) -> Value {
    let addresses = node.list_at(&["status", "addresses"]);
    let found = addresses.iter().find(|a| text(a, &["type"]) == ty).map_or("", |a| text(a, &["address"]));
    or(found, "<none>")
}

pub(super) fn node(node: &Object, now: Timestamp) -> Vec<Value> {
    let info = |field: &str| node.str_at(&["status", "nodeInfo", field]);
    let mut kernel = match info("kernelVersion") {
        "" => "<unknown>".to_owned(),
        version => version.to_owned(),
    };
    if !info("architecture").is_empty() {
        kernel.push_str(&format!(" ({})", info("architecture")));
    }
    vec![
        node.name().into(),
        status(node).into(),
        roles(node).into(),
        age(node, now),
        info("kubeletVersion").into(),
        address(node, "InternalIP"),
        address(node, "ExternalIP"),
        or(info("osImage"), "<unknown>"),
        kernel.into(),
        or(info("containerRuntimeVersion"), "<unknown>"),
    ]
}
