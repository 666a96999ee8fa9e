//! The node's status from what is known: pure.

use std::collections::BTreeMap;
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    ContainerImage, DaemonEndpoint, Node, NodeAddress, NodeCondition, NodeDaemonEndpoints,
    NodeRuntimeHandler, NodeStatus, NodeSystemInfo,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::facts;
use crate::reconcilers::eviction::Pressure;

/// Everything that the status tells.
#[derive(Debug, Clone)]
pub struct Seen {
    /// The node's name, which is its host name too.
    pub name: String,
    /// The node's addresses.
    pub addresses: Vec<IpAddr>,
    /// `status.capacity`.
    pub capacity: BTreeMap<String, Quantity>,
    /// `status.allocatable`.
    pub allocatable: BTreeMap<String, Quantity>,
    /// `status.nodeInfo`.
    pub info: NodeSystemInfo,
    /// Where the kubelet's server listens.
    pub port: i32,
    /// The images on the node.
    pub images: Vec<ContainerImage>,
    /// What the node is short of.
    pub pressure: Pressure,
    /// Why the node is not ready; empty when it is.
    pub problems: Vec<String>,
    /// The time.
    pub now: Timestamp,
}

/// The most images that a status names (upstream's `nodeStatusMaxImages`).
pub const MAX_IMAGES: usize = 50;

fn condition(
    before: &[NodeCondition],
    kind: &str,
    holds: bool,
    words: (&str, String),
    now: Timestamp,
) -> NodeCondition {
    let status = if holds { "True" } else { "False" };
    let old = before.iter().find(|old| old.type_ == kind && old.status == status);
    NodeCondition {
        type_: kind.to_owned(),
        status: status.to_owned(),
        reason: Some(words.0.to_owned()),
        message: Some(words.1),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: Some(old.and_then(|old| old.last_transition_time.clone()).unwrap_or(Time(now))),
    }
}

/// The status to report, over the one that the API has.
pub fn generate(seen: &Seen, before: &NodeStatus) -> NodeStatus {
    let none = Vec::new();
    let old = before.conditions.as_ref().unwrap_or(&none);
    let pick = |short: bool, yes: (&'static str, &str), no: (&'static str, &str)| {
        let (reason, message) = if short { yes } else { no };
        (reason, message.to_owned())
    };
    let ready = seen.problems.is_empty();
    let ready_words = if ready {
        ("KubeletReady", "kubelet is posting ready status".to_owned())
    } else {
        ("KubeletNotReady", seen.problems.join(", "))
    };
    let pressure = &seen.pressure;
    let conditions = vec![
        condition(
            old,
            "MemoryPressure",
            pressure.memory,
            pick(
                pressure.memory,
                ("KubeletHasInsufficientMemory", "kubelet has insufficient memory available"),
                ("KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
            ),
            seen.now,
        ),
        condition(
            old,
            "DiskPressure",
            pressure.disk,
            pick(
                pressure.disk,
                ("KubeletHasDiskPressure", "kubelet has disk pressure"),
                ("KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
            ),
            seen.now,
        ),
        condition(
            old,
            "PIDPressure",
            pressure.pid,
            pick(
                pressure.pid,
                ("KubeletHasInsufficientPID", "kubelet has insufficient PID available"),
                ("KubeletHasSufficientPID", "kubelet has sufficient PID available"),
            ),
            seen.now,
        ),
        condition(old, "Ready", ready, ready_words, seen.now),
    ];
    let mut addresses: Vec<NodeAddress> = seen
        .addresses
        .iter()
        .map(|ip| NodeAddress { type_: "InternalIP".into(), address: ip.to_string() })
        .collect();
    addresses.push(NodeAddress { type_: "Hostname".into(), address: seen.name.clone() });
    // Extended resources are put there by others: kept, and given out as they are.
    let mut capacity = seen.capacity.clone();
    let mut allocatable = seen.allocatable.clone();
    for (name, amount) in before.capacity.iter().flatten().filter(|(name, _)| is_extended(name)) {
        capacity.entry(name.clone()).or_insert_with(|| amount.clone());
        allocatable.entry(name.clone()).or_insert_with(|| amount.clone());
    }
    NodeStatus {
        addresses: Some(addresses),
        capacity: Some(capacity),
        allocatable: Some(allocatable),
        conditions: Some(conditions),
        daemon_endpoints: Some(NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: seen.port }),
        }),
        images: Some(seen.images.clone()).filter(|images| !images.is_empty()),
        node_info: Some(seen.info.clone()),
        runtime_handlers: Some(vec![NodeRuntimeHandler { name: Some(String::new()), ..Default::default() }]),
        ..Default::default()
    }
}

fn is_extended(name: &str) -> bool {
    name.contains('/') && !name.contains("kubernetes.io/")
}

/// The labels that every node has.
pub fn standard_labels(name: &str) -> BTreeMap<String, String> {
    let arch = facts::architecture();
    let pairs = [
        ("beta.kubernetes.io/arch", arch),
        ("beta.kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", arch),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/hostname", name),
    ];
    pairs.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect()
}

/// Whether two statuses differ in more than their heartbeat.
pub fn differs(before: &NodeStatus, after: &NodeStatus) -> bool {
    let plain = |status: &NodeStatus| {
        let mut status = status.clone();
        for condition in status.conditions.iter_mut().flatten() {
            condition.last_heartbeat_time = None;
        }
        let ours = ["MemoryPressure", "DiskPressure", "PIDPressure", "Ready"];
        if let Some(conditions) = &mut status.conditions {
            conditions.retain(|condition| ours.contains(&condition.type_.as_str()));
            conditions.sort_by(|a, b| a.type_.cmp(&b.type_));
        }
        status.volumes_attached = None;
        status.volumes_in_use = None;
        status.config = None;
        status.features = None;
        status.declared_features = None;
        status.phase = None;
        serde_json::to_value(&status).ok()
    };
    plain(before) != plain(after)
}

/// Condition changes worth an event: the reason, for `Node NAME status is now: REASON`.
pub fn transitions(before: &NodeStatus, after: &NodeStatus) -> Vec<&'static str> {
    let holds = |status: &NodeStatus, kind: &str| {
        status
            .conditions
            .iter()
            .flatten()
            .find(|condition| condition.type_ == kind)
            .map(|condition| condition.status == "True")
    };
    let words = [
        ("MemoryPressure", "NodeHasInsufficientMemory", "NodeHasSufficientMemory"),
        ("DiskPressure", "NodeHasDiskPressure", "NodeHasNoDiskPressure"),
        ("PIDPressure", "NodeHasInsufficientPID", "NodeHasSufficientPID"),
        ("Ready", "NodeReady", "NodeNotReady"),
    ];
    words
        .into_iter()
        .filter_map(|(kind, yes, no)| {
            let (old, new) = (holds(before, kind), holds(after, kind)?);
            // A node that comes up not ready is no news.
            let news = old != Some(new) && !(kind == "Ready" && old.is_none() && !new);
            news.then_some(if new { yes } else { no })
        })
        .collect()
}

/// The node's pod ranges.
pub fn pod_cidrs(node: &Node) -> Vec<ipnet::IpNet> {
    let spec = node.spec.as_ref();
    let list = spec.and_then(|spec| spec.pod_cidrs.clone()).filter(|list| !list.is_empty());
    let single = || spec.and_then(|spec| spec.pod_cidr.clone()).map(|cidr| vec![cidr]);
    list.or_else(single).into_iter().flatten().filter_map(|cidr| cidr.parse().ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(problems: &[&str]) -> Seen {
        Seen {
            name: "n".into(),
            addresses: vec!["10.0.0.1".parse().expect("ip")],
            capacity: BTreeMap::from([("cpu".to_owned(), Quantity("2".into()))]),
            allocatable: BTreeMap::from([("cpu".to_owned(), Quantity("2".into()))]),
            info: NodeSystemInfo::default(),
            port: 10250,
            images: vec![],
            pressure: Pressure::default(),
            problems: problems.iter().map(|text| (*text).to_owned()).collect(),
            now: Timestamp::from_second(100).expect("time"),
        }
    }

    fn ready(status: &NodeStatus) -> &NodeCondition {
        status
            .conditions
            .as_ref()
            .and_then(|list| list.iter().find(|c| c.type_ == "Ready"))
            .expect("condition")
    }

    #[test]
    fn readiness_has_upstreams_words() {
        let fine = generate(&seen(&[]), &NodeStatus::default());
        assert_eq!(ready(&fine).message.as_deref(), Some("kubelet is posting ready status"));
        let broken = generate(&seen(&["container runtime is down", "x"]), &fine);
        assert_eq!(ready(&broken).reason.as_deref(), Some("KubeletNotReady"));
        assert_eq!(ready(&broken).message.as_deref(), Some("container runtime is down, x"));
        assert_eq!(transitions(&fine, &broken), ["NodeNotReady"]);
        assert!(transitions(&NodeStatus::default(), &broken).contains(&"NodeHasSufficientMemory"));
        assert!(!transitions(&NodeStatus::default(), &broken).contains(&"NodeNotReady"));
    }

    #[test]
    fn a_heartbeat_alone_is_no_difference() {
        let first = generate(&seen(&[]), &NodeStatus::default());
        let later = generate(&Seen { now: Timestamp::from_second(200).expect("time"), ..seen(&[]) }, &first);
        assert!(!differs(&first, &later));
        assert_eq!(ready(&later).last_transition_time, ready(&first).last_transition_time);
        assert!(differs(&first, &generate(&seen(&["x"]), &first)));
    }

    #[test]
    fn extended_resources_of_others_are_kept() {
        let mut before = generate(&seen(&[]), &NodeStatus::default());
        before.capacity.get_or_insert_default().insert("example.com/gpu".into(), Quantity("3".into()));
        let after = generate(&seen(&[]), &before);
        assert_eq!(after.allocatable.expect("allocatable")["example.com/gpu"].0, "3");
    }
}
