use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::policy::v1::PodDisruptionBudgetStatus;

use super::plan::{Counted, Plan, Seen, counted, needs_scale, plan, until_stale};
use super::*;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_800_000_000 + seconds).unwrap()
}

fn time(seconds: i64) -> String {
    at(seconds).to_string()
}

/// `spec` and `status` as JSON.
fn budget(spec: serde_json::Value, status: serde_json::Value) -> PodDisruptionBudget {
    let value =
        json!({"metadata": {"name": "b", "namespace": "a", "generation": 2}, "spec": spec, "status": status});
    serde_json::from_value(value).unwrap()
}

/// `r`: ready, `u`: not ready, `t`: ready and terminating. Names are the letter and the position.
fn pods(kinds: &str) -> Vec<Arc<Pod>> {
    let pod = |(i, kind): (usize, char)| {
        let mut pod = json!({"metadata": {"name": format!("{kind}{i}"), "namespace": "a"}, "status": {"conditions": [
            {"type": "Ready", "status": if kind == 'u' { "False" } else { "True" }}]}});
        if kind == 't' {
            pod["metadata"]["deletionTimestamp"] = time(0).into();
        }
        Arc::new(serde_json::from_value(pod).unwrap())
    };
    kinds.chars().enumerate().map(pod).collect()
}

#[test]
fn what_a_budget_asks_for() {
    for (spec, relative, expected, desired) in [
        (json!({"minAvailable": 2}), false, 5, 2),
        (json!({"minAvailable": 9}), false, 5, 9),
        (json!({"minAvailable": "50%"}), true, 5, 3),
        (json!({"minAvailable": "0%"}), true, 5, 0),
        (json!({"minAvailable": "100%"}), true, 5, 5),
        (json!({"maxUnavailable": 1}), true, 5, 4),
        (json!({"maxUnavailable": 9}), true, 5, 0),
        (json!({"maxUnavailable": "30%"}), true, 5, 3),
        (json!({"maxUnavailable": "0%"}), true, 5, 5),
    ] {
        let budget = budget(spec.clone(), json!({}));
        assert_eq!(needs_scale(&budget), relative, "{spec}");
        assert_eq!(counted(&budget, expected), Counted { expected, desired }, "{spec}");
    }
    assert_eq!(counted(&budget(json!({}), json!({})), 5), Counted { expected: 0, desired: 0 });
}

#[test]
fn healthy_pods_beyond_what_is_wanted_may_go() {
    for (kinds, expected, desired, healthy, allowed) in [
        ("rrr", 3, 2, 3, 1),
        ("rru", 3, 2, 2, 0),
        ("rrt", 3, 2, 2, 0),
        ("rrr", 3, 0, 3, 3),
        ("r", 3, 2, 1, 0),
        ("", 0, 0, 0, 0),
        ("rr", 0, 0, 2, 0),
    ] {
        let (budget, pods) = (budget(json!({}), json!({})), pods(kinds));
        let seen = Seen { budget: &budget, pods: &pods, counted: Ok(Counted { expected, desired }) };
        let Plan { status: Some(status), .. } = plan(&seen, at(0)) else { panic!("{kinds}: nothing to do") };
        assert_eq!(
            (status.current_healthy, status.disruptions_allowed),
            (Some(healthy), Some(allowed)),
            "{kinds}"
        );
        assert_eq!(
            (status.expected_pods, status.desired_healthy),
            (Some(expected), Some(desired)),
            "{kinds}"
        );
        assert_eq!(status.observed_generation, Some(2));
        let condition = &status.conditions.as_ref().unwrap()[0];
        let want = if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), want, "{kinds}");
        // Once it is written there is nothing to do.
        let budget = PodDisruptionBudget { status: Some(status), ..budget };
        let seen = Seen { budget: &budget, pods: &pods, counted: Ok(Counted { expected, desired }) };
        assert_eq!(plan(&seen, at(9)), Plan { status: None, not_deleted: vec![], next: Next::Rest });
    }
}

#[test]
fn a_pod_that_was_let_go_counts_as_gone_for_a_while() {
    let granted = |names: &[&str]| -> serde_json::Value {
        names.iter().map(|n| (n.to_string(), json!(time(0)))).collect()
    };
    for (kinds, names, seconds, healthy, kept, not_deleted, next) in [
        ("rr", &["r0"][..], 30, 1, &["r0"][..], &[][..], Next::After(Duration::from_millis(90_100))),
        ("rr", &["r0"], 121, 2, &[], &["r0"], Next::Rest),
        ("tr", &["t0"], 30, 1, &[], &[], Next::Rest),
        ("rr", &["gone"], 30, 2, &[], &[], Next::Rest),
    ] {
        let (budget, pods) = (
            budget(
                json!({}),
                json!({"currentHealthy": 0, "desiredHealthy": 0, "disruptionsAllowed": 0,
            "expectedPods": 0, "disruptedPods": granted(names)}),
            ),
            pods(kinds),
        );
        let seen = Seen { budget: &budget, pods: &pods, counted: Ok(Counted { expected: 2, desired: 1 }) };
        let plan = plan(&seen, at(seconds));
        let status = plan.status.unwrap();
        assert_eq!(status.current_healthy, Some(healthy), "{kinds} {names:?}");
        let left: Vec<String> = status.disrupted_pods.into_iter().flatten().map(|(name, _)| name).collect();
        assert_eq!(
            (left, plan.not_deleted, plan.next),
            (
                kept.iter().map(|s| s.to_string()).collect(),
                not_deleted.iter().map(|s| s.to_string()).collect(),
                next
            ),
            "{kinds} {names:?}"
        );
    }
}

#[test]
fn what_cannot_be_counted_allows_nothing() {
    let open = json!({"currentHealthy": 3, "desiredHealthy": 1, "disruptionsAllowed": 2, "expectedPods": 3, "observedGeneration": 2});
    let budget = budget(json!({"maxUnavailable": 1}), open);
    let why = "jobs.batch does not implement the scale subresource".to_owned();
    let seen = Seen { budget: &budget, pods: &pods("rrr"), counted: Err(why.clone()) };
    let status = plan(&seen, at(0)).status.unwrap();
    assert_eq!((status.disruptions_allowed, status.current_healthy), (Some(0), Some(3)));
    let condition = &status.conditions.as_ref().unwrap()[0];
    assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "SyncFailed"));
    assert_eq!(condition.message, why);
    let budget = PodDisruptionBudget { status: Some(status), ..budget };
    let seen = Seen { budget: &budget, pods: &pods("rrr"), counted: Err(why) };
    assert_eq!(plan(&seen, at(60)).status, None::<PodDisruptionBudgetStatus>);
}

#[test]
fn an_eviction_that_came_to_nothing_is_forgotten() {
    let pod = |status: &str, reason: &str, phase: &str, going: bool| -> Pod {
        let mut pod = json!({"metadata": {"name": "p"}, "status": {"phase": phase, "conditions": [
            {"type": "DisruptionTarget", "status": status, "reason": reason, "lastTransitionTime": time(0)}]}});
        if going {
            pod["metadata"]["deletionTimestamp"] = time(1).into();
        }
        serde_json::from_value(pod).unwrap()
    };
    let evicted = "EvictionByEvictionAPI";
    for (pod, seconds, want) in [
        (pod("True", evicted, "Running", false), 30, Some(Duration::from_secs(90))),
        (pod("True", evicted, "Running", false), 120, Some(Duration::ZERO)),
        (pod("True", evicted, "Running", true), 120, None),
        (pod("True", evicted, "Failed", false), 120, None),
        (pod("True", "TerminationByKubelet", "Running", false), 120, None),
        (pod("False", evicted, "Running", false), 120, None),
    ] {
        assert_eq!(until_stale(&pod, at(seconds)), want, "{pod:?}");
    }
}
