//! Facts about pods, and pods made from templates.
use std::cmp::Ordering;
use std::collections::HashMap;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodCondition, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};

/// `status.phase`, empty where there is none.
pub fn phase(pod: &Pod) -> &str {
    pod.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or("")
}

/// Whether the pod has ended for good.
pub fn is_terminal(pod: &Pod) -> bool {
    matches!(phase(pod), "Succeeded" | "Failed")
}

/// Whether deletion was asked for.
pub fn is_terminating(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether the pod counts: neither ended nor being deleted.
pub fn is_active(pod: &Pod) -> bool {
    !is_terminal(pod) && !is_terminating(pod)
}

/// One of the pod's conditions.
pub fn condition<'a>(pod: &'a Pod, ty: &str) -> Option<&'a PodCondition> {
    pod.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == ty)
}

/// Whether condition Ready is true.
pub fn is_ready(pod: &Pod) -> bool {
    condition(pod, "Ready").is_some_and(|c| c.status == "True")
}

/// Whether the pod has been ready for that long.
pub fn is_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> bool {
    is_ready(pod) && until_available(pod, min_ready_seconds, now).is_none()
}

/// How long a ready pod still needs to be available; `None` when it is, or when it is not ready.
pub fn until_available(pod: &Pod, min_ready_seconds: i32, now: Timestamp) -> Option<Duration> {
    let ready = condition(pod, "Ready").filter(|c| c.status == "True")?;
    if min_ready_seconds <= 0 {
        return None;
    }
    let since = ready.last_transition_time.as_ref()?.0;
    let left = SignedDuration::from_secs(min_ready_seconds.into()) - now.duration_since(since);
    Duration::try_from(left).ok().filter(|d| !d.is_zero())
}

/// Restarts of the pod's most restarted container, init containers that go on running included.
pub fn restarts(pod: &Pod) -> i32 {
    let Some(status) = &pod.status else { return 0 };
    let regular = status.container_statuses.iter().flatten();
    regular.map(|c| c.restart_count).max().unwrap_or(0)
}

/// Orders pods so that those to delete first come first: unassigned, pending, not ready, on nodes with more of
/// their siblings, ready for less long, more restarts, newer. Lower `deletion-cost` goes before most of these.
pub fn deletion_order(a: &Pod, b: &Pod, siblings: &HashMap<&str, usize>, now: Timestamp) -> Ordering {
    let assigned = |p: &Pod| !node_name(p).is_empty();
    let phase_rank = |p: &Pod| match phase(p) {
        "Pending" | "" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    let crowd = |p: &Pod| siblings.get(node_name(p)).copied().unwrap_or(0);
    // Exact times leak whom we killed last; upstream compares their magnitudes.
    let age = |since: Option<Timestamp>| {
        since.map_or(-1, |t| {
            now.duration_since(t).as_secs().max(0).checked_ilog2().map_or(0, |l| i64::from(l) + 1)
        })
    };
    let ready_since =
        |p: &Pod| condition(p, "Ready").and_then(|c| c.last_transition_time.as_ref()).map(|t| t.0);
    let created = |p: &Pod| p.metadata.creation_timestamp.as_ref().map(|t| t.0);
    assigned(a)
        .cmp(&assigned(b))
        .then_with(|| phase_rank(a).cmp(&phase_rank(b)))
        .then_with(|| is_ready(a).cmp(&is_ready(b)))
        .then_with(|| deletion_cost(a).cmp(&deletion_cost(b)))
        .then_with(|| crowd(b).cmp(&crowd(a)))
        .then_with(|| {
            if is_ready(a) && is_ready(b) {
                age(ready_since(a)).cmp(&age(ready_since(b)))
            } else {
                Ordering::Equal
            }
        })
        .then_with(|| restarts(b).cmp(&restarts(a)))
        .then_with(|| age(created(a)).cmp(&age(created(b))))
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

fn deletion_cost(pod: &Pod) -> i32 {
    let annotations = pod.metadata.annotations.as_ref();
    annotations
        .and_then(|a| a.get("controller.kubernetes.io/pod-deletion-cost"))
        .and_then(|v| v.parse().ok())
        .unwrap_or(0)
}

/// `spec.nodeName`, empty where there is none.
pub fn node_name(pod: &Pod) -> &str {
    pod.spec.as_ref().and_then(|s| s.node_name.as_deref()).unwrap_or("")
}

/// A pod as a template makes it; the server gives it a name that begins with the owner's.
pub fn from_template(template: &PodTemplateSpec, owner_name: &str, owner: OwnerReference) -> Pod {
    let meta = template.metadata.clone().unwrap_or_default();
    // A name that ends in '-' may be too long to generate from; the server cuts it.
    let generate_name = Some(format!("{owner_name}-"));
    Pod {
        metadata: ObjectMeta {
            generate_name,
            labels: meta.labels,
            annotations: meta.annotations,
            finalizers: meta.finalizers,
            owner_references: Some(vec![owner]),
            ..ObjectMeta::default()
        },
        spec: template.spec.clone(),
        status: None,
    }
}

/// Now, as API times count: in whole seconds.
pub fn whole_seconds(now: Timestamp) -> Time {
    Time(Timestamp::from_second(now.as_second()).unwrap_or(now))
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::{PodSpec, PodStatus};

    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn pod(node: &str, phase: &str, ready_since: Option<i64>) -> Pod {
        Pod {
            spec: Some(PodSpec { node_name: Some(node.into()), ..PodSpec::default() }),
            status: Some(PodStatus {
                phase: Some(phase.into()),
                conditions: ready_since.map(|s| {
                    vec![PodCondition {
                        type_: "Ready".into(),
                        status: "True".into(),
                        last_transition_time: Some(Time(at(s))),
                        ..PodCondition::default()
                    }]
                }),
                ..PodStatus::default()
            }),
            ..Pod::default()
        }
    }

    #[test]
    fn availability_waits_for_min_ready_seconds() {
        let p = pod("n", "Running", Some(0));
        assert!(is_available(&p, 0, at(0)));
        assert!(!is_available(&p, 10, at(9)));
        assert_eq!(until_available(&p, 10, at(9)), Some(Duration::from_secs(1)));
        assert!(is_available(&p, 10, at(10)));
        assert!(!is_available(&pod("n", "Running", None), 0, at(10)));
    }

    #[test]
    fn the_least_useful_pod_goes_first() {
        let crowd = HashMap::from([("busy", 3), ("n", 1)]);
        let mut cheap = pod("n", "Running", Some(-500));
        cheap.metadata.annotations =
            Some([("controller.kubernetes.io/pod-deletion-cost".to_owned(), "-1".to_owned())].into());
        let ranked = [
            pod("", "Pending", None),
            pod("n", "Pending", None),
            pod("n", "Running", None),
            cheap,
            pod("busy", "Running", Some(-500)),
            pod("n", "Running", Some(-5)),
            pod("n", "Running", Some(-500)),
        ];
        for (i, a) in ranked.iter().enumerate() {
            for b in &ranked[i + 1..] {
                assert_eq!(deletion_order(a, b, &crowd, at(0)), Ordering::Less, "{a:?} before {b:?}");
            }
        }
    }
}
