//! Requests and limits turned into QoS class, CPU shares, quota, memory limit and OOM score. Upstream's formulas.

use k8s_openapi::api::core::v1::{Container, Pod, ResourceRequirements};

use crate::amount;
use crate::pod::{PodExt, Role};

const SHARES_PER_CPU: i64 = 1024;
const MIN_SHARES: i64 = 2;
const MAX_SHARES: i64 = 262_144;
/// The CFS period in microseconds.
pub const PERIOD: i64 = 100_000;
const MIN_QUOTA: i64 = 1000;

/// CPU shares for a request in thousandths of a CPU.
pub fn shares(milli: i64) -> i64 {
    if milli == 0 {
        return MIN_SHARES;
    }
    (milli * SHARES_PER_CPU / 1000).clamp(MIN_SHARES, MAX_SHARES)
}

/// The CFS quota for a limit in thousandths of a CPU; 0 is no quota.
pub fn quota(milli: i64) -> i64 {
    if milli == 0 { 0 } else { (milli * PERIOD / 1000).max(MIN_QUOTA) }
}

/// `cpu.weight` of cgroup v2 for CPU shares of v1.
pub fn weight(shares: i64) -> i64 {
    1 + (shares.clamp(MIN_SHARES, MAX_SHARES) - 2) * 9999 / 262_142
}

/// A container's request or limit of one resource, in thousandths (`cpu`) or whole units.
pub fn amount_of(list: &ResourceRequirements, limit: bool, resource: &str) -> Option<i64> {
    let map = if limit { list.limits.as_ref() } else { list.requests.as_ref() }?;
    let quantity = map.get(resource)?;
    if resource == "cpu" { amount::milli(quantity) } else { amount::value(quantity) }
}

/// A container's request, which a limit alone implies.
pub fn request(container: &Container, resource: &str) -> Option<i64> {
    let list = container.resources.as_ref()?;
    amount_of(list, false, resource).or_else(|| amount_of(list, true, resource))
}

/// A container's limit.
pub fn limit(container: &Container, resource: &str) -> Option<i64> {
    amount_of(container.resources.as_ref()?, true, resource)
}

/// The QoS class by upstream's rules: all containers, only `cpu` and `memory` count.
pub fn qos_class(pod: &Pod) -> &'static str {
    let mut any = false;
    let mut guaranteed = true;
    let pod_level = PodExt::spec(pod).resources.as_ref();
    if let Some(list) = pod_level.filter(|list| list.requests.is_some() || list.limits.is_some()) {
        for resource in ["cpu", "memory"] {
            let limit = amount_of(list, true, resource).unwrap_or(0);
            let request = amount_of(list, false, resource).unwrap_or(limit);
            any |= limit > 0 || request > 0;
            guaranteed &= limit > 0 && limit == request;
        }
    } else {
        for (_, container) in pod.containers() {
            for resource in ["cpu", "memory"] {
                let limit = limit(container, resource).unwrap_or(0);
                let request = request(container, resource).unwrap_or(0);
                any |= limit > 0 || request > 0;
                guaranteed &= limit > 0 && limit == request;
            }
        }
    }
    match (any, guaranteed) {
        (false, _) => "BestEffort",
        (true, true) => "Guaranteed",
        (true, false) => "Burstable",
    }
}

/// What the pod's own cgroup is limited to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PodLimits {
    /// CPU shares.
    pub shares: i64,
    /// CFS quota; `None` when a container has no CPU limit.
    pub quota: Option<i64>,
    /// Memory limit in bytes; `None` when a container has no memory limit.
    pub memory: Option<i64>,
}

/// The most that a pod may use: the larger of what runs together later and what init containers need on the way.
fn pod_total(pod: &Pod, of: impl Fn(&Container) -> Option<i64>) -> Option<i64> {
    let mut apps = 0i64;
    let mut sidecars = 0i64;
    let mut peak = 0i64;
    for (role, container) in pod.containers() {
        let own = of(container)?;
        match role {
            Role::Init => peak = peak.max(sidecars + own),
            Role::Sidecar => {
                sidecars += own;
                peak = peak.max(sidecars);
            }
            Role::App | Role::Ephemeral => apps += own,
        }
    }
    Some(peak.max(apps + sidecars))
}

/// The limits of the pod's cgroup.
pub fn pod_limits(pod: &Pod) -> PodLimits {
    let pod_level = PodExt::spec(pod).resources.as_ref();
    let explicit = |limit: bool, resource: &str| pod_level.and_then(|list| amount_of(list, limit, resource));
    let cpu = explicit(false, "cpu")
        .or_else(|| pod_total(pod, |c| Some(request(c, "cpu").unwrap_or(0))))
        .unwrap_or(0);
    let positive =
        |resource: &'static str| move |c: &Container| limit(c, resource).filter(|amount| *amount > 0);
    let quota_of = explicit(true, "cpu").or_else(|| pod_total(pod, positive("cpu"))).map(quota);
    let memory = explicit(true, "memory").or_else(|| pod_total(pod, positive("memory")));
    PodLimits {
        shares: shares(cpu),
        quota: quota_of.filter(|quota| *quota > 0),
        memory: memory.filter(|bytes| *bytes > 0),
    }
}

/// The OOM score adjustment of a container on a node with that much memory.
pub fn oom_score_adj(pod: &Pod, container: &Container, node_memory: i64) -> i64 {
    if PodExt::spec(pod).priority.is_some_and(|priority| priority >= 2_000_000_000 + 1000) {
        return -997;
    }
    match qos_class(pod) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let memory = request(container, "memory").unwrap_or(0);
            let score = 1000 - (1000 * i128::from(memory) / i128::from(node_memory.max(1))) as i64;
            score.clamp(3, 999)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(containers: serde_json::Value) -> Pod {
        serde_json::from_value(json!({"metadata": {"name": "p"}, "spec": {"containers": containers}}))
            .expect("pod")
    }

    #[test]
    fn qos_classes_follow_requests_and_limits() {
        let check = |resources: serde_json::Value, expect: &str| {
            assert_eq!(
                qos_class(&pod(json!([{"name": "c", "resources": resources}]))),
                expect,
                "{resources}"
            );
        };
        check(json!({}), "BestEffort");
        check(json!({"requests": {"cpu": "1"}}), "Burstable");
        check(json!({"limits": {"cpu": "1", "memory": "1Gi"}}), "Guaranteed");
        check(json!({"limits": {"cpu": "1", "memory": "1Gi"}, "requests": {"cpu": "500m"}}), "Burstable");
        check(json!({"requests": {"example.com/gpu": "1"}}), "BestEffort");
    }

    #[test]
    fn shares_and_quota_have_floors() {
        assert_eq!((shares(0), shares(100), shares(1), shares(1_000_000_000)), (2, 102, 2, 262_144));
        assert_eq!((quota(0), quota(500), quota(1)), (0, 50_000, 1000));
        assert_eq!((weight(2), weight(1024), weight(262_144)), (1, 39, 10_000));
    }

    #[test]
    fn a_pod_is_limited_only_when_each_container_is() {
        let limited = json!({"name": "a", "resources": {"limits": {"cpu": "1", "memory": "64Mi"}}});
        let free = json!({"name": "b"});
        let both = pod_limits(&pod(json!([limited, limited])));
        assert_eq!((both.quota, both.memory), (Some(200_000), Some(128 << 20)));
        let one = pod_limits(&pod(json!([limited, free])));
        assert_eq!((one.quota, one.memory), (None, None));
    }

    #[test]
    fn oom_scores_rank_the_classes() {
        let best = pod(json!([{"name": "c"}]));
        let burst = pod(json!([{"name": "c", "resources": {"requests": {"memory": "1Gi"}}}]));
        let sure = pod(json!([{"name": "c", "resources": {"limits": {"cpu": "1", "memory": "1Gi"}}}]));
        let score = |pod: &Pod| oom_score_adj(pod, &PodExt::spec(pod).containers[0], 4 << 30);
        assert_eq!((score(&best), score(&burst), score(&sure)), (1000, 750, -997));
    }
}
