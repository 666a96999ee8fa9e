//! What a Deployment says about itself.
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::{Deployment, DeploymentCondition, DeploymentStatus, ReplicaSet};

use super::scale::{available, max_unavailable, replicas, total};
use crate::framework::Next;
use crate::pods::whole_seconds;

pub const PROGRESSING: &str = "Progressing";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const NEW_SET_AVAILABLE: &str = "NewReplicaSetAvailable";
const PAUSED: &str = "DeploymentPaused";

/// A deadline of this many seconds stands for none.
const NO_DEADLINE: i32 = i32::MAX;

fn deadline(deployment: &Deployment) -> Option<i32> {
    deployment.spec.as_ref()?.progress_deadline_seconds.filter(|d| *d != NO_DEADLINE)
}

pub fn has_deadline(deployment: &Deployment) -> bool {
    deadline(deployment).is_some()
}

pub fn condition(
    ty: &str,
    status: &str,
    reason: &str,
    message: String,
    now: Timestamp,
) -> DeploymentCondition {
    DeploymentCondition {
        type_: ty.into(),
        status: status.into(),
        reason: Some(reason.into()),
        message: Some(message),
        last_update_time: Some(whole_seconds(now)),
        last_transition_time: Some(whole_seconds(now)),
    }
}

pub fn get<'a>(
    conditions: &'a Option<Vec<DeploymentCondition>>,
    ty: &str,
) -> Option<&'a DeploymentCondition> {
    conditions.as_ref()?.iter().find(|c| c.type_ == ty)
}

/// Sets a condition unless it says the same already; the transition time stays while the status does.
pub fn set(conditions: &mut Option<Vec<DeploymentCondition>>, mut new: DeploymentCondition) {
    if let Some(old) = get(conditions, &new.type_) {
        if old.status == new.status && old.reason == new.reason {
            return;
        }
        if old.status == new.status {
            new.last_transition_time.clone_from(&old.last_transition_time);
        }
    }
    remove(conditions, &new.type_);
    conditions.get_or_insert_default().push(new);
}

pub fn remove(conditions: &mut Option<Vec<DeploymentCondition>>, ty: &str) {
    if let Some(list) = conditions {
        list.retain(|c| c.type_ != ty);
        if list.is_empty() {
            *conditions = None;
        }
    }
}

/// Notes a pause or its end, so that the deadline does not run meanwhile.
pub fn note_pause(deployment: &mut Deployment, now: Timestamp) {
    let paused = deployment.spec.as_ref().and_then(|s| s.paused).unwrap_or(false);
    if !has_deadline(deployment) {
        return;
    }
    let conditions = &mut deployment.status.get_or_insert_default().conditions;
    let reason = get(conditions, PROGRESSING).and_then(|c| c.reason.as_deref());
    if reason == Some(TIMED_OUT) {
        return;
    }
    let was_paused = reason == Some(PAUSED);
    if paused && !was_paused {
        set(conditions, condition(PROGRESSING, "Unknown", PAUSED, "Deployment is paused".into(), now));
    } else if !paused && was_paused {
        let resumed =
            condition(PROGRESSING, "Unknown", "DeploymentResumed", "Deployment is resumed".into(), now);
        set(conditions, resumed);
    }
}

/// Counts and availability; conditions about progress are as they were.
pub fn counted(
    deployment: &Deployment,
    sets: &[ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> DeploymentStatus {
    let before = deployment.status.clone().unwrap_or_default();
    let some = |n: i32| (n != 0).then_some(n);
    let actual = |set: &ReplicaSet| set.status.as_ref().map_or(0, |s| s.replicas);
    let is_available: i32 = sets.iter().map(available).sum();
    let mut conditions = before.conditions;
    let enough = is_available >= replicas(deployment) - max_unavailable(deployment);
    set(
        &mut conditions,
        if enough {
            let text = "Deployment has minimum availability.".into();
            condition("Available", "True", "MinimumReplicasAvailable", text, now)
        } else {
            let text = "Deployment does not have minimum availability.".into();
            condition("Available", "False", "MinimumReplicasUnavailable", text, now)
        },
    );
    DeploymentStatus {
        observed_generation: deployment.metadata.generation,
        replicas: some(sets.iter().map(actual).sum()),
        updated_replicas: some(new.map_or(0, actual)),
        ready_replicas: some(sets.iter().filter_map(|s| s.status.as_ref()?.ready_replicas).sum()),
        available_replicas: some(is_available),
        unavailable_replicas: some((total(sets) - is_available).max(0)),
        terminating_replicas: Some(sets.iter().filter_map(|s| s.status.as_ref()?.terminating_replicas).sum()),
        collision_count: before.collision_count,
        conditions,
    }
}

pub fn is_complete(deployment: &Deployment, status: &DeploymentStatus) -> bool {
    let all = replicas(deployment);
    [status.updated_replicas, status.replicas, status.available_replicas]
        .iter()
        .all(|n| n.unwrap_or(0) == all)
        && status.observed_generation >= deployment.metadata.generation
}

fn is_progressing(before: &DeploymentStatus, after: &DeploymentStatus) -> bool {
    let old = |s: &DeploymentStatus| s.replicas.unwrap_or(0) - s.updated_replicas.unwrap_or(0);
    after.updated_replicas > before.updated_replicas
        || old(after) < old(before)
        || after.ready_replicas > before.ready_replicas
        || after.available_replicas > before.available_replicas
}

fn deadline_left(
    deployment: &Deployment,
    status: &DeploymentStatus,
    now: Timestamp,
) -> Option<SignedDuration> {
    let since = get(&status.conditions, PROGRESSING)?.last_update_time.as_ref()?.0;
    Some(SignedDuration::from_secs(deadline(deployment)?.into()) - now.duration_since(since))
}

/// Adds how the rollout fares, and says when to look at the deadline again.
/// `before`: the status that was written last.
pub fn with_progress(
    deployment: &Deployment,
    before: &DeploymentStatus,
    mut status: DeploymentStatus,
    sets: &[ReplicaSet],
    new: Option<&ReplicaSet>,
    now: Timestamp,
) -> (DeploymentStatus, Next) {
    if !has_deadline(deployment) {
        remove(&mut status.conditions, PROGRESSING);
    }
    let current = get(&status.conditions, PROGRESSING).cloned();
    let done_before = status.replicas == status.updated_replicas
        && current.as_ref().is_some_and(|c| c.reason.as_deref() == Some(NEW_SET_AVAILABLE));
    let complete = is_complete(deployment, &status);
    if has_deadline(deployment) && !done_before {
        let subject = match new.and_then(|s| s.metadata.name.as_deref()) {
            Some(name) => format!("ReplicaSet {name:?}"),
            None => format!("Deployment {:?}", deployment.metadata.name.as_deref().unwrap_or("")),
        };
        if complete {
            let text = format!("{subject} has successfully progressed.");
            set(&mut status.conditions, condition(PROGRESSING, "True", NEW_SET_AVAILABLE, text, now));
        } else if is_progressing(before, &status) {
            let text = format!("{subject} is progressing.");
            let mut next = condition(PROGRESSING, "True", "ReplicaSetUpdated", text, now);
            if let Some(current) = current.as_ref().filter(|c| c.status == "True") {
                next.last_transition_time.clone_from(&current.last_transition_time);
            }
            // The update time moves with each step, so the same reason is written anew.
            remove(&mut status.conditions, PROGRESSING);
            set(&mut status.conditions, next);
        } else if current.as_ref().is_some_and(|c| c.reason.as_deref() != Some(NEW_SET_AVAILABLE))
            && deadline_left(deployment, &status, now).is_some_and(|left| left.is_negative())
        {
            let text = format!("{subject} has timed out progressing.");
            set(&mut status.conditions, condition(PROGRESSING, "False", TIMED_OUT, text, now));
        }
    }
    match failure(sets, new) {
        Some(failure) => set(&mut status.conditions, failure),
        None => remove(&mut status.conditions, "ReplicaFailure"),
    }
    let timed_out =
        get(&status.conditions, PROGRESSING).is_some_and(|c| c.reason.as_deref() == Some(TIMED_OUT));
    let next = match deadline_left(deployment, &status, now) {
        Some(left) if !complete && !timed_out => {
            Next::After(Duration::try_from(left).unwrap_or_default() + Duration::from_secs(1))
        }
        _ => Next::Rest,
    };
    (status, next)
}

/// What keeps a set from making pods; the current set's trouble before the others'.
fn failure(sets: &[ReplicaSet], new: Option<&ReplicaSet>) -> Option<DeploymentCondition> {
    let of = |set: &ReplicaSet| {
        let condition =
            set.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == "ReplicaFailure")?.clone();
        Some(DeploymentCondition {
            type_: condition.type_,
            status: condition.status,
            reason: condition.reason,
            message: condition.message,
            last_transition_time: condition.last_transition_time.clone(),
            last_update_time: condition.last_transition_time,
        })
    };
    new.and_then(of).or_else(|| sets.iter().find_map(of))
}
