//! Arithmetic of replicas: surge, unavailability, shares.
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::revision::{DESIRED_REPLICAS, MAX_REPLICAS, annotation};

pub fn replicas(deployment: &Deployment) -> i32 {
    deployment.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

pub fn wanted(set: &ReplicaSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1)
}

pub fn total<'a>(sets: impl IntoIterator<Item = &'a ReplicaSet>) -> i32 {
    sets.into_iter().map(wanted).sum()
}

pub fn available(set: &ReplicaSet) -> i32 {
    set.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0)
}

pub fn is_recreate(deployment: &Deployment) -> bool {
    let strategy = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref()?.type_.as_deref());
    strategy == Some("Recreate")
}

/// A number, or so much of `of`; up or down to the next whole.
pub fn resolve(value: Option<&IntOrString>, of: i32, up: bool) -> i32 {
    match value {
        None => 0,
        Some(IntOrString::Int(n)) => *n,
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.trim_end_matches('%').parse().unwrap_or(0);
            let share = percent * i64::from(of);
            let whole = if up { (share + 99).div_euclid(100) } else { share.div_euclid(100) };
            i32::try_from(whole).unwrap_or(i32::MAX)
        }
    }
}

/// Resolved maxSurge and maxUnavailable; never both 0, or nothing could move.
fn bounds(deployment: &Deployment) -> (i32, i32) {
    let rolling = deployment.spec.as_ref().and_then(|s| s.strategy.as_ref()?.rolling_update.as_ref());
    let of = replicas(deployment);
    let surge = resolve(rolling.and_then(|r| r.max_surge.as_ref()), of, true);
    let unavailable = resolve(rolling.and_then(|r| r.max_unavailable.as_ref()), of, false);
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

pub fn max_surge(deployment: &Deployment) -> i32 {
    if is_recreate(deployment) { 0 } else { bounds(deployment).0 }
}

pub fn max_unavailable(deployment: &Deployment) -> i32 {
    let of = replicas(deployment);
    if is_recreate(deployment) || of == 0 { 0 } else { bounds(deployment).1.min(of) }
}

pub fn min_available(deployment: &Deployment) -> i32 {
    if is_recreate(deployment) { 0 } else { replicas(deployment) - max_unavailable(deployment) }
}

/// Whether the set has all the replicas of the Deployment, and all are available.
pub fn is_saturated(deployment: &Deployment, set: &ReplicaSet) -> bool {
    let desired = annotation(&set.metadata, DESIRED_REPLICAS).and_then(|v| v.parse().ok());
    let all = replicas(deployment);
    desired == Some(all) && wanted(set) == all && available(set) == all
}

/// How many replicas the current set may have now.
pub fn new_set_size(deployment: &Deployment, all: i32, current: i32) -> i32 {
    let of = replicas(deployment);
    if is_recreate(deployment) {
        return of;
    }
    let room = of + max_surge(deployment) - all;
    if room <= 0 { current } else { current + room.min(of - current) }
}

/// Sizes for active sets when the Deployment is resized in the middle of a rollout: each grows or shrinks by its
/// share, and the largest takes what rounding leaves. Expects the sets in the order in which they may take.
pub fn shares(deployment: &Deployment, sets: &[&ReplicaSet]) -> Vec<i32> {
    let of = replicas(deployment);
    let allowed = if of > 0 { of + max_surge(deployment) } else { 0 };
    let to_add = allowed - sets.iter().map(|s| wanted(s)).sum::<i32>();
    let mut added = 0;
    let mut sizes: Vec<i32> = sets
        .iter()
        .map(|set| {
            let share = share(deployment, set, to_add, added);
            added += share;
            wanted(set) + share
        })
        .collect();
    if let Some(first) = sizes.first_mut() {
        *first = (*first + to_add - added).max(0);
    }
    sizes
}

fn share(deployment: &Deployment, set: &ReplicaSet, to_add: i32, added: i32) -> i32 {
    let size = wanted(set);
    if size == 0 || to_add == 0 || to_add == added {
        return 0;
    }
    let of = replicas(deployment);
    let fraction = if of == 0 {
        -size
    } else {
        let noted =
            annotation(&set.metadata, MAX_REPLICAS).and_then(|v| v.parse::<i32>().ok()).filter(|n| *n != 0);
        let before = noted.or_else(|| deployment.status.as_ref()?.replicas).unwrap_or(0);
        if before == 0 {
            return 0;
        }
        let size_after = f64::from(size) * f64::from(of + max_surge(deployment)) / f64::from(before);
        size_after.round() as i32 - size
    };
    if to_add > 0 { fraction.min(to_add - added) } else { fraction.max(to_add - added) }
}
