//! How much of each countable resource an object takes.
use std::collections::{BTreeMap, BTreeSet};

use machinery::{Object, Quantity};
use serde_json::Value;

use crate::pod_resources::{Amounts, add, amounts, pod_amounts, quantity};

/// What one object of a resource takes.
pub(super) fn usage(group: &str, resource: &str, object: &Object) -> Amounts {
    let mut out = Amounts::new();
    let one = Quantity::from_value(1);
    let count =
        if group.is_empty() { format!("count/{resource}") } else { format!("count/{resource}.{group}") };
    match (group, resource) {
        ("", "pods") if matches!(object.str_at(&["status", "phase"]), "Succeeded" | "Failed") => {}
        ("", "pods") => return pod(object, one),
        ("", "services") => service(object, one, &mut out),
        ("", "persistentvolumeclaims") => claim(object, one, &mut out),
        ("", "configmaps" | "secrets" | "resourcequotas" | "replicationcontrollers") => {
            out.insert(resource.to_owned(), one);
        }
        _ => {}
    }
    out.insert(count, one);
    out
}

fn pod(pod: &Object, one: Quantity) -> Amounts {
    let mut out = Amounts::from([("pods".to_owned(), one), ("count/pods".to_owned(), one)]);
    let overhead = amounts(pod.at(&["spec", "overhead"]));
    let mut requests = pod_amounts(pod, "requests");
    add(&mut requests, &overhead);
    let mut limits = pod_amounts(pod, "limits");
    for (name, limit) in &mut limits {
        if let Some(more) = overhead.get(name) {
            *limit = limit.add(more);
        }
    }
    for (name, amount) in requests {
        let plain =
            matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") || name.starts_with("hugepages-");
        // Extended resources are counted by their requests only.
        if plain {
            out.insert(name.clone(), amount);
        }
        if plain || name.contains('/') {
            out.insert(format!("requests.{name}"), amount);
        }
    }
    for (name, amount) in limits {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            out.insert(format!("limits.{name}"), amount);
        }
    }
    out
}

fn service(service: &Object, one: Quantity, out: &mut Amounts) {
    out.insert("services".into(), one);
    let ports = i64::try_from(service.list_at(&["spec", "ports"]).len()).unwrap_or(i64::MAX);
    let ports = Quantity::from_value(ports);
    match service.str_at(&["spec", "type"]) {
        "NodePort" => {
            out.insert("services.nodeports".into(), ports);
        }
        "LoadBalancer" => {
            out.insert("services.loadbalancers".into(), one);
            let allocates = service.bool_at(&["spec", "allocateLoadBalancerNodePorts"]) != Some(false);
            let given =
                service.list_at(&["spec", "ports"]).iter().filter(|p| p.get("nodePort").is_some()).count();
            let given = Quantity::from_value(i64::try_from(given).unwrap_or(i64::MAX));
            out.insert("services.nodeports".into(), if allocates { ports } else { given });
        }
        _ => {}
    }
}

fn claim(claim: &Object, one: Quantity, out: &mut Amounts) {
    out.insert("persistentvolumeclaims".into(), one);
    let class = claim.annotation("volume.beta.kubernetes.io/storage-class");
    let class = class.unwrap_or_else(|| claim.str_at(&["spec", "storageClassName"]));
    let storage = claim.at(&["spec", "resources", "requests", "storage"]).and_then(quantity);
    if let Some(storage) = storage {
        out.insert("requests.storage".into(), storage);
    }
    if !class.is_empty() {
        out.insert(format!("{class}.storageclass.storage.k8s.io/persistentvolumeclaims"), one);
        if let Some(storage) = storage {
            out.insert(format!("{class}.storageclass.storage.k8s.io/requests.storage"), storage);
        }
    }
}

/// Where cpu or memory are limited, each container must say what it needs: what is missing, in upstream's words.
pub(super) fn unspecified(pod: &Object, hard: &Amounts) -> Option<String> {
    const COMPUTE: [&str; 6] =
        ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    let pod_level = |which: &str, name: &str| pod.at(&["spec", "resources", which, name]).is_some();
    for list in ["containers", "initContainers"] {
        for container in pod.list_at(&["spec", list]) {
            for required in COMPUTE.into_iter().filter(|name| hard.contains_key(*name)) {
                let (which, name) = match required.split_once('.') {
                    Some((which, name)) => (which, name),
                    None => ("requests", required),
                };
                let said = container.get("resources").and_then(|r| r.get(which)).and_then(|r| r.get(name));
                if said.is_none() && !pod_level(which, name) {
                    let container = container.get("name").and_then(Value::as_str).unwrap_or("");
                    missing.entry(required).or_default().insert(container);
                }
            }
        }
    }
    if missing.is_empty() {
        return None;
    }
    let texts: Vec<String> = missing
        .into_iter()
        .map(|(resource, names)| {
            format!("{resource} for: {}", names.into_iter().collect::<Vec<_>>().join(","))
        })
        .collect();
    Some(format!("must specify {}", texts.join("; ")))
}
