//! How much of each countable resource an object takes.
use std::collections::{BTreeMap, BTreeSet};

use jiff::{SignedDuration, Timestamp};
use machinery::{Object, Quantity};
use serde_json::Value;

use crate::scopes::has_deadline;
use crate::{Amounts, Counted, add, amounts, pod_amounts, quantity};

/// What a claim of devices takes of a class ends with this.
pub(crate) const BY_DEVICE_CLASS: &str = ".deviceclass.resource.k8s.io/devices";
/// As many devices as one claim can be given.
const MOST_DEVICES: i64 = 32;

/// What one object of a resource takes at a time.
pub fn usage(counted: Counted<'_>, object: &Object, now: Timestamp) -> Amounts {
    let one = Quantity::from_value(1);
    let mut out = Amounts::from([(counted.count_name(), one)]);
    match (counted.group, counted.resource) {
        ("", "pods") if is_over(object, now) => {}
        ("", "pods") => pod(object, one, &mut out),
        ("", "services") => service(object, one, &mut out),
        ("", "persistentvolumeclaims") => claim(object, one, &mut out),
        ("resource.k8s.io", "resourceclaims") => devices(object, &mut out),
        ("", "configmaps" | "secrets" | "resourcequotas" | "replicationcontrollers") => {
            out.insert(counted.resource.to_owned(), one);
        }
        _ => {}
    }
    out
}

/// Whether a pod ends by itself after some time: what the scope `Terminating` means.
pub fn is_terminating(pod: &Object) -> bool {
    has_deadline(pod)
}

/// Whether a pod has ended, or should have long ago: a node that is lost must not keep anybody from making another.
fn is_over(pod: &Object, now: Timestamp) -> bool {
    if matches!(pod.str_at(&["status", "phase"]), "Succeeded" | "Failed") {
        return true;
    }
    let Ok(deleted) = pod.deletion_timestamp().parse::<Timestamp>() else { return false };
    let grace = pod.deletion_grace_period_seconds();
    grace.is_some_and(|grace| now.duration_since(deleted) > SignedDuration::from_secs(grace))
}

fn is_extended(name: &str) -> bool {
    let native = !name.contains('/') || name.contains("kubernetes.io/");
    !native || name.starts_with("deviceclass.resource.kubernetes.io/")
}

fn pod(pod: &Object, one: Quantity, out: &mut Amounts) {
    out.insert("pods".to_owned(), one);
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
        if plain || is_extended(&name) {
            out.insert(format!("requests.{name}"), amount);
        }
        if plain {
            out.insert(name, amount);
        }
    }
    for (name, amount) in limits {
        if matches!(name.as_str(), "cpu" | "memory" | "ephemeral-storage") {
            out.insert(format!("limits.{name}"), amount);
        }
    }
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
            let named = |p: &&Value| p.get("nodePort").and_then(Value::as_i64).is_some_and(|n| n != 0);
            let given = service.list_at(&["spec", "ports"]).iter().filter(named).count();
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
    let whole = |q: Quantity| if q.is_integer() { q } else { Quantity::from_bytes(q.value()) };
    let storage = claim.at(&["spec", "resources", "requests", "storage"]).and_then(quantity);
    // While it grows it may hold more than it asks for now.
    let allocated = claim.at(&["status", "allocatedResources", "storage"]).and_then(quantity);
    let storage = storage.map(|asked| whole(allocated.filter(|a| *a > asked).unwrap_or(asked)));
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

/// Devices by class; of requests that name alternatives, the worst of each class.
fn devices(claim: &Object, out: &mut Amounts) {
    let wants = |request: &Value| {
        let text = |key: &str| request.get(key).and_then(Value::as_str).unwrap_or("");
        let count = match text("allocationMode") {
            "ExactCount" => request.get("count").and_then(Value::as_i64).unwrap_or(0),
            "All" => MOST_DEVICES,
            _ => 0,
        };
        (format!("{}{BY_DEVICE_CLASS}", text("deviceClassName")), Quantity::from_value(count))
    };
    for request in claim.list_at(&["spec", "devices", "requests"]) {
        let mut taken = Amounts::new();
        let first = request.get("firstAvailable").and_then(Value::as_array).filter(|list| !list.is_empty());
        if let Some(alternatives) = first {
            for (name, count) in alternatives.iter().map(wants) {
                if taken.get(&name).is_none_or(|have| *have < count) {
                    taken.insert(name, count);
                }
            }
        } else if let Some(exactly) = request.get("exactly").filter(|e| !e.is_null()) {
            taken.extend([wants(exactly)]);
        }
        add(out, &taken);
    }
}

/// Where cpu or memory are limited, each container must say what it needs: what is missing, in upstream's words.
pub fn unspecified(pod: &Object, restricted: &BTreeSet<&str>) -> Option<String> {
    const COMPUTE: [&str; 6] =
        ["cpu", "limits.cpu", "limits.memory", "memory", "requests.cpu", "requests.memory"];
    let says = |which: &str| !amounts(pod.at(&["spec", "resources", which])).is_empty();
    if says("requests") || says("limits") {
        // The pod says it for all of them.
        return None;
    }
    let mut missing: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for list in ["containers", "initContainers"] {
        for container in pod.list_at(&["spec", list]) {
            for required in COMPUTE.into_iter().filter(|name| restricted.contains(name)) {
                let (which, name) = required.split_once('.').unwrap_or(("requests", required));
                let said = container.get("resources").and_then(|r| r.get(which)).and_then(|r| r.get(name));
                if said.is_none() {
                    let container = container.get("name").and_then(Value::as_str).unwrap_or("");
                    missing.entry(required).or_default().insert(container);
                }
            }
        }
    }
    if missing.is_empty() {
        return None;
    }
    let named = |names: BTreeSet<&str>| names.into_iter().collect::<Vec<_>>().join(",");
    let texts: Vec<String> =
        missing.into_iter().map(|(resource, names)| format!("{resource} for: {}", named(names))).collect();
    Some(format!("must specify {}", texts.join("; ")))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(group: &str, resource: &str, object: Value, want: Value) {
        let now = "2026-01-01T00:01:00Z".parse().unwrap();
        let got = usage(Counted { group, resource }, &Object::from_value(object.clone()).unwrap(), now);
        let got: BTreeMap<String, String> = got.into_iter().map(|(k, v)| (k, v.to_string())).collect();
        assert_eq!(json!(got), want, "{object}");
    }

    #[test]
    fn pods_take_until_they_are_over() {
        let spec = json!({"overhead": {"cpu": "50m"}, "containers": [{"resources": {
            "requests": {"cpu": "100m", "example.com/gpu": "2", "hugepages-2Mi": "2Mi"}, "limits": {"cpu": "200m", "example.com/gpu": "2"}}}]});
        let all = json!({"count/pods": "1", "pods": "1", "cpu": "150m", "requests.cpu": "150m", "limits.cpu": "250m",
            "requests.example.com/gpu": "2", "hugepages-2Mi": "2Mi", "requests.hugepages-2Mi": "2Mi"});
        let only_there = json!({"count/pods": "1"});
        check("", "pods", json!({"spec": spec}), all.clone());
        check("", "pods", json!({"spec": spec, "status": {"phase": "Failed"}}), only_there.clone());
        let going = |grace: i64| json!({"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": grace});
        check("", "pods", json!({"metadata": going(60), "spec": spec}), all);
        check("", "pods", json!({"metadata": going(59), "spec": spec}), only_there);
    }

    #[test]
    fn others_take_what_they_name() {
        let claim = |allocated: Value| {
            json!({"spec": {"storageClassName": "fast", "resources": {"requests": {"storage": "1Gi"}}},
            "status": {"allocatedResources": allocated}})
        };
        let taken = |storage: &str| {
            json!({"count/persistentvolumeclaims": "1", "persistentvolumeclaims": "1",
            "requests.storage": storage, "fast.storageclass.storage.k8s.io/persistentvolumeclaims": "1",
            "fast.storageclass.storage.k8s.io/requests.storage": storage})
        };
        check("", "persistentvolumeclaims", claim(json!({})), taken("1Gi"));
        check("", "persistentvolumeclaims", claim(json!({"storage": "3Gi"})), taken("3Gi"));
        let balanced = json!({"spec": {"type": "LoadBalancer", "allocateLoadBalancerNodePorts": false,
            "ports": [{"nodePort": 30000}, {"nodePort": 0}, {}]}});
        check(
            "",
            "services",
            balanced,
            json!({"count/services": "1", "services": "1", "services.loadbalancers": "1", "services.nodeports": "1"}),
        );
        check("", "secrets", json!({}), json!({"count/secrets": "1", "secrets": "1"}));
        check("batch", "jobs", json!({}), json!({"count/jobs.batch": "1"}));
        let exactly = |class: &str, mode: &str, count: i64| json!({"deviceClassName": class, "allocationMode": mode, "count": count});
        let devices = json!({"spec": {"devices": {"requests": [
            {"exactly": exactly("gpu", "ExactCount", 2)},
            {"firstAvailable": [exactly("gpu", "ExactCount", 1), exactly("gpu", "ExactCount", 3), exactly("nic", "All", 0)]}]}}});
        check(
            "resource.k8s.io",
            "resourceclaims",
            devices,
            json!({"count/resourceclaims.resource.k8s.io": "1",
            "gpu.deviceclass.resource.k8s.io/devices": "5", "nic.deviceclass.resource.k8s.io/devices": "32"}),
        );
    }

    #[test]
    fn what_is_limited_has_to_be_said() {
        let restricted = BTreeSet::from(["limits.memory", "requests.cpu", "pods"]);
        let container = |name: &str, resources: Value| json!({"name": name, "resources": resources});
        for (resources, containers, want) in [
            (
                json!(null),
                json!([container("a", json!({"requests": {"cpu": "1"}, "limits": {"memory": "1"}}))]),
                None,
            ),
            (
                json!(null),
                json!([container("b", json!({})), container("a", json!({"requests": {"cpu": "1"}}))]),
                Some("must specify limits.memory for: a,b; requests.cpu for: b"),
            ),
            (json!({"requests": {"cpu": "1"}}), json!([container("a", json!({}))]), None),
        ] {
            let pod = Object::from_value(json!({"spec": {"resources": resources, "containers": containers}}))
                .unwrap();
            assert_eq!(unspecified(&pod, &restricted).as_deref(), want);
        }
    }
}
