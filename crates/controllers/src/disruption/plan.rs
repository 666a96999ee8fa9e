//! What the status of a budget should be: pure.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::deployment::resolve;
use crate::framework::Next;
use crate::pods::{self, whole_seconds};

/// A pod whose eviction was granted is expected to be gone by then, and its condition is over then.
const DELETION_TIMEOUT: SignedDuration = SignedDuration::from_mins(2);
const CONDITION: &str = "DisruptionAllowed";

/// How many pods there should be, and how many of them have to be well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    pub expected: i32,
    pub desired: i32,
}

/// Whether a budget is relative to how many pods its pods' owners want.
pub fn needs_scale(budget: &PodDisruptionBudget) -> bool {
    let Some(spec) = &budget.spec else { return false };
    spec.max_unavailable.is_some() || matches!(spec.min_available, Some(IntOrString::String(_)))
}

/// What a budget asks for of this many pods.
pub fn counted(budget: &PodDisruptionBudget, expected: i32) -> Counted {
    let spec = budget.spec.as_ref();
    let (most, least) =
        (spec.and_then(|s| s.max_unavailable.as_ref()), spec.and_then(|s| s.min_available.as_ref()));
    match (most, least) {
        (Some(most), _) => {
            Counted { expected, desired: expected.saturating_sub(resolve(Some(most), expected, true)).max(0) }
        }
        (None, Some(least)) => Counted { expected, desired: resolve(Some(least), expected, true) },
        (None, None) => Counted { expected: 0, desired: 0 },
    }
}

/// All that a decision depends on.
pub struct Seen<'a> {
    pub budget: &'a PodDisruptionBudget,
    /// Those it selects.
    pub pods: &'a [Arc<Pod>],
    /// Or why it could not be counted.
    pub counted: Result<Counted, String>,
}

/// What to do.
#[derive(Debug, PartialEq)]
pub struct Plan {
    /// `None`: it is as it should be.
    pub status: Option<PodDisruptionBudgetStatus>,
    /// Pods whose eviction came to nothing.
    pub not_deleted: Vec<String>,
    pub next: Next,
}

pub fn plan(seen: &Seen<'_>, now: Timestamp) -> Plan {
    let before = seen.budget.status.clone().unwrap_or_default();
    let counted = match &seen.counted {
        Ok(counted) => *counted,
        Err(why) => {
            let mut status = before.clone();
            status.disruptions_allowed = Some(0);
            say(&mut status, false, "SyncFailed", why, now);
            let status = (Some(&status) != seen.budget.status.as_ref()).then_some(status);
            return Plan { status, not_deleted: Vec::new(), next: Next::Rest };
        }
    };
    let (disrupted, not_deleted, next) = disrupted(seen, &before, now);
    let healthy = seen.pods.iter().filter(|pod| is_healthy(pod, &disrupted)).count();
    let healthy = i32::try_from(healthy).unwrap_or(i32::MAX);
    // A budget without pods stays closed: its first pods may come before it is counted again.
    let allowed = if counted.expected <= 0 { 0 } else { healthy.saturating_sub(counted.desired).max(0) };
    let mut status = PodDisruptionBudgetStatus {
        current_healthy: Some(healthy),
        desired_healthy: Some(counted.desired),
        expected_pods: Some(counted.expected),
        disruptions_allowed: Some(allowed),
        disrupted_pods: (!disrupted.is_empty()).then_some(disrupted),
        observed_generation: seen.budget.metadata.generation,
        conditions: before.conditions.clone(),
    };
    let reason = if allowed > 0 { "SufficientPods" } else { "InsufficientPods" };
    say(&mut status, allowed > 0, reason, "", now);
    let same = PodDisruptionBudgetStatus {
        disrupted_pods: before.disrupted_pods.clone().filter(|pods| !pods.is_empty()),
        ..before
    } == status;
    Plan { status: (!same).then_some(status), not_deleted, next }
}

type Disrupted = BTreeMap<String, Time>;

/// Pods that are about to go because of an eviction, those that should have gone, and when to look again.
fn disrupted(
    seen: &Seen<'_>,
    before: &PodDisruptionBudgetStatus,
    now: Timestamp,
) -> (Disrupted, Vec<String>, Next) {
    let mut still = Disrupted::new();
    let (mut not_deleted, mut next) = (Vec::new(), Next::Rest);
    let granted = before.disrupted_pods.as_ref();
    for pod in seen.pods.iter().filter(|pod| !pods::is_terminating(pod)) {
        let name = pod.metadata.name.clone().unwrap_or_default();
        let Some(at) = granted.and_then(|granted| granted.get(&name)) else { continue };
        let left = DELETION_TIMEOUT - now.duration_since(at.0);
        if left.is_negative() {
            not_deleted.push(name);
        } else {
            // A moment later, so that it is over then.
            next = next.sooner(Next::After(left.unsigned_abs() + Duration::from_millis(100)));
            still.insert(name, at.clone());
        }
    }
    (still, not_deleted, next)
}

fn is_healthy(pod: &Pod, disrupted: &Disrupted) -> bool {
    let leaves = pod.metadata.name.as_ref().is_some_and(|name| disrupted.contains_key(name));
    !pods::is_terminating(pod) && !leaves && pods::is_ready(pod)
}

/// Sets the condition; its time changes with its status only.
fn say(status: &mut PodDisruptionBudgetStatus, allowed: bool, reason: &str, message: &str, now: Timestamp) {
    let text = if allowed { "True" } else { "False" };
    let conditions = status.conditions.get_or_insert_default();
    let found = conditions.iter().position(|c| c.type_ == CONDITION);
    let since =
        found.map(|i| &conditions[i]).filter(|c| c.status == text).map(|c| c.last_transition_time.clone());
    let condition = Condition {
        type_: CONDITION.into(),
        status: text.into(),
        reason: reason.into(),
        message: message.into(),
        last_transition_time: since.unwrap_or_else(|| whole_seconds(now)),
        observed_generation: status.observed_generation,
    };
    match found {
        Some(i) => conditions[i] = condition,
        None => conditions.push(condition),
    }
}

/// How long until a pod's condition `DisruptionTarget` counts as stale; `None` where it never does.
pub fn until_stale(pod: &Pod, now: Timestamp) -> Option<Duration> {
    let condition = pods::condition(pod, "DisruptionTarget").filter(|c| c.status == "True")?;
    // What a kubelet says may take as long as it takes.
    let by_kubelet = condition.reason.as_deref() == Some("TerminationByKubelet");
    if pods::is_terminating(pod) || pods::is_terminal(pod) || by_kubelet {
        return None;
    }
    let since = condition.last_transition_time.as_ref().map_or(now, |t| t.0);
    let left = DELETION_TIMEOUT - now.duration_since(since);
    Some(if left.is_positive() { left.unsigned_abs() } else { Duration::ZERO })
}
