//! Amounts of resources in the units the scheduler counts in.
use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{Container, Pod, PodSpec, ResourceRequirements};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;
use machinery::Quantity;

/// What a container without a request counts as in scores.
const DEFAULT_MILLI_CPU: i64 = 100;
const DEFAULT_MEMORY: i64 = 200 << 20;

/// A vector of resources. Ephemeral storage and memory in bytes, CPU in thousandths, the rest in units.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    /// CPU in thousandths of a core.
    pub milli_cpu: i64,
    /// Memory in bytes.
    pub memory: i64,
    /// Ephemeral storage in bytes.
    pub ephemeral_storage: i64,
    /// How many pods.
    pub pods: i64,
    /// Extended resources and huge pages, sorted by name.
    pub other: Vec<(String, i64)>,
}

type List = BTreeMap<String, Wire>;

impl Resources {
    /// Reads a resource list.
    pub fn from_list(list: Option<&List>) -> Self {
        let mut out = Self::default();
        for (name, wire) in list.into_iter().flatten() {
            let quantity = Quantity::from_wire(wire);
            let amount = if name == "cpu" { quantity.milli_value() } else { quantity.value() };
            *out.get_mut(name) = amount;
        }
        out
    }

    fn get_mut(&mut self, name: &str) -> &mut i64 {
        match name {
            "cpu" => &mut self.milli_cpu,
            "memory" => &mut self.memory,
            "ephemeral-storage" => &mut self.ephemeral_storage,
            "pods" => &mut self.pods,
            _ => {
                let i = match self.other.binary_search_by(|(n, _)| n.as_str().cmp(name)) {
                    Ok(i) => i,
                    Err(i) => {
                        self.other.insert(i, (name.to_owned(), 0));
                        i
                    }
                };
                &mut self.other[i].1
            }
        }
    }

    /// The amount of an extended resource.
    pub fn other(&self, name: &str) -> i64 {
        self.other.binary_search_by(|(n, _)| n.as_str().cmp(name)).map_or(0, |i| self.other[i].1)
    }

    /// Adds another vector.
    pub fn add(&mut self, more: &Self) {
        self.each(more, |a, b| a.saturating_add(b));
    }

    /// Takes another vector away.
    pub fn sub(&mut self, less: &Self) {
        self.each(less, |a, b| a.saturating_sub(b));
    }

    /// Takes the larger of each resource.
    pub fn max(&mut self, than: &Self) {
        self.each(than, i64::max);
    }

    fn each(&mut self, with: &Self, f: impl Fn(i64, i64) -> i64) {
        self.milli_cpu = f(self.milli_cpu, with.milli_cpu);
        self.memory = f(self.memory, with.memory);
        self.ephemeral_storage = f(self.ephemeral_storage, with.ephemeral_storage);
        self.pods = f(self.pods, with.pods);
        for (name, amount) in &with.other {
            let mine = self.get_mut(name);
            *mine = f(*mine, *amount);
        }
    }
}

/// What a pod asks of its node, and what it counts as in scores (CPU and memory never zero).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Requests {
    /// What filters count.
    pub exact: Resources,
    /// What scores count: thousandths of a core.
    pub scored_milli_cpu: i64,
    /// What scores count: bytes.
    pub scored_memory: i64,
}

/// The requests of a pod: containers together, or the neediest moment of initialization if that is more; sidecars
/// count in both; pod-level requests stand in for the sum; overhead comes on top.
pub fn requests(pod: &Pod) -> Requests {
    let Some(spec) = &pod.spec else { return Requests::default() };
    let mut exact = total(spec, |c| container_requests(pod, c));
    let mut scored = total(spec, |c| {
        let mut r = container_requests(pod, c);
        let asked = c.resources.as_ref().and_then(|r| r.requests.as_ref());
        let asks = |name| asked.is_some_and(|a| a.contains_key(name));
        if !asks("cpu") && r.milli_cpu == 0 {
            r.milli_cpu = DEFAULT_MILLI_CPU;
        }
        if !asks("memory") && r.memory == 0 {
            r.memory = DEFAULT_MEMORY;
        }
        r
    });
    if let Some(ResourceRequirements { requests: Some(own), .. }) = &spec.resources {
        let level = Resources::from_list(Some(own));
        for r in [&mut exact, &mut scored] {
            if own.contains_key("cpu") {
                r.milli_cpu = level.milli_cpu;
            }
            if own.contains_key("memory") {
                r.memory = level.memory;
            }
            for (name, amount) in &level.other {
                *r.get_mut(name) = *amount;
            }
        }
    }
    let overhead = Resources::from_list(spec.overhead.as_ref());
    exact.add(&overhead);
    scored.add(&overhead);
    Requests { exact, scored_milli_cpu: scored.milli_cpu, scored_memory: scored.memory }
}

fn total(spec: &PodSpec, of: impl Fn(&Container) -> Resources) -> Resources {
    let mut sum = Resources::default();
    for container in &spec.containers {
        sum.add(&of(container));
    }
    let mut sidecars = Resources::default();
    let mut peak = Resources::default();
    for container in spec.init_containers.iter().flatten() {
        let mut moment = of(container);
        if container.restart_policy.as_deref() == Some("Always") {
            sum.add(&moment);
            sidecars.add(&moment);
            peak.max(&sidecars);
        } else {
            moment.add(&sidecars);
            peak.max(&moment);
        }
    }
    sum.max(&peak);
    sum
}

/// What the spec asks for, or what the node has given already if a resize has not come through yet.
fn container_requests(pod: &Pod, container: &Container) -> Resources {
    let mut r = Resources::from_list(container.resources.as_ref().and_then(|r| r.requests.as_ref()));
    let status = pod.status.as_ref();
    let given = status
        .and_then(|s| s.container_statuses.as_ref())
        .into_iter()
        .chain(status.and_then(|s| s.init_container_statuses.as_ref()))
        .flatten()
        .find(|s| s.name == container.name);
    if let Some(given) = given {
        r.max(&Resources::from_list(given.allocated_resources.as_ref()));
        let actual = given.resources.as_ref().and_then(|r| r.requests.as_ref());
        r.max(&Resources::from_list(actual));
    }
    r
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of(spec: serde_json::Value) -> Requests {
        requests(&serde_json::from_value(json!({ "spec": spec })).expect("a pod"))
    }

    #[test]
    fn containers_add_up_and_init_containers_do_not() {
        let asks = |cpu: &str| json!({"requests": {"cpu": cpu}});
        let c = |name: &str, cpu: &str| json!({"name": name, "resources": asks(cpu)});
        let sidecar =
            |name: &str, cpu: &str| json!({"name": name, "restartPolicy": "Always", "resources": asks(cpu)});
        for (spec, milli) in [
            (json!({"containers": [c("a", "1"), c("b", "500m")]}), 1500),
            (json!({"containers": [c("a", "1")], "initContainers": [c("i", "2"), c("j", "3")]}), 3000),
            (json!({"containers": [c("a", "1")], "initContainers": [sidecar("s", "2")]}), 3000),
            (json!({"containers": [c("a", "1")], "initContainers": [sidecar("s", "1"), c("i", "3")]}), 4000),
            (json!({"containers": [c("a", "1")], "initContainers": [c("i", "3"), sidecar("s", "1")]}), 3000),
            (json!({"containers": [c("a", "1")], "overhead": {"cpu": "250m"}}), 1250),
            (json!({"containers": [c("a", "1")], "resources": asks("2"), "overhead": {"cpu": "250m"}}), 2250),
        ] {
            assert_eq!(of(spec.clone()).exact.milli_cpu, milli, "{spec}");
        }
    }

    #[test]
    fn nothing_asked_for_still_counts_in_scores() {
        let r = of(json!({"containers": [{"name": "a"}, {"name": "b"}]}));
        assert_eq!(r.exact, Resources::default());
        assert_eq!((r.scored_milli_cpu, r.scored_memory), (200, 400 << 20));
    }

    #[test]
    fn extended_resources_are_kept_by_name() {
        let r = of(
            json!({"containers": [{"name": "a", "resources": {"requests": {"x.y/z": "3"}}}, {"name": "b", "resources": {"requests": {"x.y/z": "2", "a.b/c": "1"}}}]}),
        );
        assert_eq!(r.exact.other("x.y/z"), 5);
        assert_eq!(r.exact.other("nothing"), 0);
        let mut used = r.exact.clone();
        used.sub(&r.exact);
        assert_eq!(used.other("x.y/z"), 0);
    }
}
