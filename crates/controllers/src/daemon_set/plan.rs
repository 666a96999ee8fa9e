//! The next step of a DaemonSet, from what is seen.
use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{DaemonSet, DaemonSetStatus};
use k8s_openapi::api::core::v1::{Node, Pod};

use super::placement::{add_tolerations, fits, node_of, pin};
use crate::deployment::resolve;
use crate::ownership::controller_ref;
use crate::pods;
use crate::revisions::HASH;

/// Pods made or deleted in one pass.
const BURST: usize = 250;
const GENERATION: &str = "pod-template-generation";
/// Where an old kubectl notes the template's generation.
const TEMPLATE_GENERATION: &str = "deprecated.daemonset.template.generation";

/// Everything the decision depends on.
pub struct Seen {
    pub set: DaemonSet,
    pub nodes: Vec<Arc<Node>>,
    /// The pods it controls.
    pub pods: Vec<Arc<Pod>>,
    /// Hash of the current template.
    pub hash: String,
}

/// What to write.
#[derive(Debug, Default)]
pub struct Plan {
    /// Nodes to make a pod for.
    pub create: Vec<String>,
    pub delete: Vec<Arc<Pod>>,
    /// Ended pods to delete once their backoff allows it.
    pub ended: Vec<(String, Arc<Pod>)>,
    pub status: DaemonSetStatus,
}

fn is_current(seen: &Seen, pod: &Pod) -> bool {
    pod.metadata.labels.as_ref().and_then(|l| l.get(HASH)).is_some_and(|h| *h == seen.hash)
}

fn by_node(seen: &Seen) -> BTreeMap<String, Vec<Arc<Pod>>> {
    let mut by_node: BTreeMap<String, Vec<Arc<Pod>>> = BTreeMap::new();
    for pod in &seen.pods {
        if let Some(node) = node_of(pod) {
            by_node.entry(node).or_default().push(pod.clone());
        }
    }
    by_node
}

/// Places pods; where all are placed, goes on with the update.
pub fn plan(seen: &Seen, now: Timestamp) -> Plan {
    let mut plan = place(seen, now);
    if plan.create.is_empty() && plan.delete.is_empty() && seen.set.metadata.deletion_timestamp.is_none() {
        update(seen, &mut plan, now);
    }
    if seen.set.metadata.deletion_timestamp.is_some() {
        plan = Plan::default();
    }
    plan.create.truncate(BURST);
    plan.delete.truncate(BURST);
    plan.status = status(seen, now);
    plan
}

fn bounds(seen: &Seen, desired: usize) -> (usize, usize) {
    let rolling = seen.set.spec.as_ref().and_then(|s| s.update_strategy.as_ref()?.rolling_update.as_ref());
    let of = i32::try_from(desired).unwrap_or(i32::MAX);
    let number = |n: i32| usize::try_from(n).unwrap_or(0);
    let surge = number(resolve(rolling.and_then(|r| r.max_surge.as_ref()), of, true));
    let unavailable = number(match rolling.and_then(|r| r.max_unavailable.as_ref()) {
        None => 1,
        some => resolve(some, of, true),
    });
    if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
}

fn min_ready(seen: &Seen) -> i32 {
    seen.set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
}

fn desired(seen: &Seen) -> usize {
    seen.nodes.iter().filter(|n| fits(&seen.set, n).0).count()
}

fn place(seen: &Seen, now: Timestamp) -> Plan {
    let mut plan = Plan::default();
    let mut by_node = by_node(seen);
    let (surge, _) = bounds(seen, desired(seen));
    for node in &seen.nodes {
        let name = node.metadata.name.clone().unwrap_or_default();
        let here = by_node.remove(&name).unwrap_or_default();
        let (should_run, may_stay) = fits(&seen.set, node);
        if !may_stay {
            plan.delete.extend(here.into_iter().filter(|p| !pods::is_terminating(p)));
            continue;
        }
        let mut running = Vec::new();
        let mut ending = 0;
        for pod in &here {
            if pods::is_terminating(pod) {
                ending += 1;
            } else if pods::is_terminal(pod) {
                ending += 1;
                plan.ended.push((name.clone(), pod.clone()));
            } else {
                running.push(pod.clone());
            }
        }
        if should_run && running.is_empty() && ending == 0 {
            plan.create.push(name);
            continue;
        }
        // One is enough; the oldest that runs stays, and beside it one of the new template while it surges.
        running.sort_by_key(|p| {
            (
                pods::node_name(p).is_empty(),
                p.metadata.creation_timestamp.as_ref().map(|t| t.0),
                p.metadata.name.clone(),
            )
        });
        if surge == 0 {
            plan.delete.extend(running.into_iter().skip(1));
            continue;
        }
        let (new, old): (Vec<_>, Vec<_>) = running.into_iter().partition(|p| is_current(seen, p));
        let new_serves = new.first().is_some_and(|p| pods::is_available(p, min_ready(seen), now));
        plan.delete.extend(new.into_iter().skip(1));
        plan.delete.extend(old.into_iter().skip(usize::from(!new_serves)));
    }
    // Tied to Nodes that are no more.
    plan.delete.extend(
        by_node.into_values().flatten().filter(|p| !pods::is_terminating(p) && pods::node_name(p).is_empty()),
    );
    plan
}

/// Replaces pods of old templates, as many at a time as allowed.
fn update(seen: &Seen, plan: &mut Plan, now: Timestamp) {
    let strategy = seen.set.spec.as_ref().and_then(|s| s.update_strategy.as_ref()?.type_.as_deref());
    if strategy == Some("OnDelete") {
        return;
    }
    let desired = desired(seen);
    let (surge, most_unavailable) = bounds(seen, desired);
    let by_node = by_node(seen);
    let available = |pod: &Pod| pods::is_available(pod, min_ready(seen), now) && !pods::is_terminating(pod);
    let mut unavailable = 0;
    let mut surging = 0;
    let mut broken = Vec::new();
    let mut serving = Vec::new();
    for node in &seen.nodes {
        let name = node.metadata.name.clone().unwrap_or_default();
        if !fits(&seen.set, node).0 {
            continue;
        }
        let here: Vec<_> =
            by_node.get(&name).into_iter().flatten().filter(|p| !pods::is_terminal(p)).collect();
        let new = here.iter().find(|p| is_current(seen, p) && !pods::is_terminating(p));
        let old = here.iter().find(|p| !is_current(seen, p));
        match (new, old) {
            (Some(_), Some(_)) => surging += 1,
            (Some(new), None) if available(new) => {}
            (None, Some(old)) if available(old) => serving.push((name, (*old).clone())),
            (None, Some(old)) => {
                unavailable += 1;
                if !pods::is_terminating(old) {
                    broken.push((name, (*old).clone()));
                }
            }
            _ => unavailable += 1,
        }
    }
    if surge > 0 {
        let room = surge.saturating_sub(surging);
        plan.create.extend(broken.into_iter().map(|(name, _)| name));
        plan.create.extend(serving.into_iter().take(room).map(|(name, _)| name));
        return;
    }
    let room = most_unavailable.saturating_sub(unavailable);
    plan.delete.extend(broken.into_iter().map(|(_, pod)| pod));
    plan.delete.extend(serving.into_iter().take(room).map(|(_, pod)| pod));
}

/// A pod for one Node.
pub fn pod_for(seen: &Seen, node: &str) -> Pod {
    let spec = seen.set.spec.clone().unwrap_or_default();
    let name = seen.set.metadata.name.as_deref().unwrap_or("");
    let mut pod = pods::from_template(&spec.template, name, controller_ref(&seen.set));
    let labels = pod.metadata.labels.get_or_insert_default();
    labels.insert(HASH.into(), seen.hash.clone());
    let noted = seen.set.metadata.annotations.as_ref().and_then(|a| a.get(TEMPLATE_GENERATION));
    let generation = noted.cloned().or(seen.set.metadata.generation.map(|g| g.to_string()));
    labels.extend(generation.map(|g| (GENERATION.to_owned(), g)));
    let spec = pod.spec.get_or_insert_default();
    add_tolerations(spec);
    pin(spec, node);
    pod
}

fn status(seen: &Seen, now: Timestamp) -> DaemonSetStatus {
    let before = seen.set.status.clone().unwrap_or_default();
    let by_node = by_node(seen);
    let mut next = DaemonSetStatus {
        observed_generation: seen.set.metadata.generation,
        collision_count: before.collision_count,
        conditions: before.conditions,
        ..DaemonSetStatus::default()
    };
    let (mut updated, mut available) = (0, 0);
    for node in &seen.nodes {
        let here: Vec<_> =
            by_node.get(node.metadata.name.as_deref().unwrap_or("")).into_iter().flatten().collect();
        if !fits(&seen.set, node).0 {
            next.number_misscheduled += i32::from(!here.is_empty());
            continue;
        }
        next.desired_number_scheduled += 1;
        // The oldest speaks for the Node.
        let oldest = here
            .iter()
            .min_by_key(|p| (p.metadata.creation_timestamp.as_ref().map(|t| t.0), &p.metadata.name));
        let Some(pod) = oldest else { continue };
        next.current_number_scheduled += 1;
        if pods::is_ready(pod) {
            next.number_ready += 1;
            available += i32::from(pods::is_available(pod, min_ready(seen), now));
        }
        updated += i32::from(is_current(seen, pod));
    }
    let some = |n: i32| (n != 0).then_some(n);
    next.updated_number_scheduled = some(updated);
    next.number_available = some(available);
    next.number_unavailable = some(next.desired_number_scheduled - available);
    next
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn seen(strategy: serde_json::Value, nodes: &[&str], pods: &[(&str, &str, &str)]) -> Seen {
        let pod = |(i, (node, hash, state)): (usize, &(&str, &str, &str))| {
            let mut value = json!({
                "metadata": {"name": format!("p{i}"), "namespace": "ns", "uid": format!("{i}"), "labels": {HASH: hash},
                    "creationTimestamp": Timestamp::from_second(1_700_000_000 + i as i64).unwrap().to_string()},
                "spec": {"nodeName": node, "containers": []},
                "status": {"phase": if *state == "failed" { "Failed" } else { "Running" }, "conditions": [
                    {"type": "Ready", "status": if *state == "ready" { "True" } else { "False" }, "lastTransitionTime": "2026-01-01T00:00:00Z"}]}});
            if *state == "going" {
                value["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
            }
            Arc::new(serde_json::from_value(value).unwrap())
        };
        Seen {
            set: serde_json::from_value(json!({
                "metadata": {"name": "ds", "namespace": "ns", "generation": 2},
                "spec": {"selector": {}, "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": []}}, "updateStrategy": strategy}}))
            .unwrap(),
            nodes: nodes.iter().map(|n| Arc::new(serde_json::from_value(json!({"metadata": {"name": n}})).unwrap())).collect(),
            pods: pods.iter().enumerate().map(pod).collect(),
            hash: "new".into(),
        }
    }

    fn names(pods: &[Arc<Pod>]) -> Vec<String> {
        pods.iter().map(|p| p.metadata.name.clone().unwrap()).collect()
    }

    #[test]
    fn each_node_gets_one_pod() {
        let on_delete = json!({"type": "OnDelete"});
        // pods; nodes to make one for, pods to delete, ended pods
        for (pods, create, delete, ended) in [
            (&[][..], &["a", "b"][..], &[][..], &[][..]),
            (&[("a", "new", "ready")], &["b"], &[], &[]),
            (&[("a", "new", "ready"), ("b", "new", "going")], &[], &[], &[]),
            (&[("a", "new", "ready"), ("b", "new", "failed")], &[], &[], &["p1"]),
            (&[("a", "new", "ready"), ("a", "new", "ready"), ("b", "old", "ready")], &[], &["p1"], &[]),
            (&[("a", "old", "ready"), ("b", "old", "ready")], &[], &[], &[]),
        ] {
            let plan = plan(&seen(on_delete.clone(), &["a", "b"], pods), Timestamp::now());
            assert_eq!(plan.create, create, "{pods:?}");
            assert_eq!(names(&plan.delete), delete, "{pods:?}");
            assert_eq!(
                plan.ended.iter().map(|(_, p)| p.metadata.name.as_deref().unwrap()).collect::<Vec<_>>(),
                ended
            );
        }
    }

    #[test]
    fn updates_keep_to_max_unavailable_and_take_broken_pods_first() {
        let rolling =
            |n: i32| json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": n, "maxSurge": 0}});
        for (limit, states, delete) in [
            (1, [("a", "old", "ready"), ("b", "old", "ready"), ("c", "old", "ready")], &["p0"][..]),
            (2, [("a", "old", "ready"), ("b", "old", "ready"), ("c", "old", "ready")], &["p0", "p1"]),
            (1, [("a", "new", "unready"), ("b", "old", "ready"), ("c", "old", "ready")], &[]),
            (1, [("a", "new", "ready"), ("b", "old", "ready"), ("c", "old", "unready")], &["p2"]),
            (1, [("a", "new", "ready"), ("b", "old", "going"), ("c", "old", "ready")], &[]),
            (1, [("a", "new", "ready"), ("b", "new", "ready"), ("c", "new", "ready")], &[]),
        ] {
            let plan = plan(&seen(rolling(limit), &["a", "b", "c"], &states), Timestamp::now());
            assert_eq!(names(&plan.delete), delete, "{limit} {states:?}");
        }
    }

    #[test]
    fn a_surge_makes_the_new_pod_before_the_old_one_goes() {
        let surge = json!({"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}});
        let both = [("a", "old", "ready"), ("b", "old", "ready")];
        assert_eq!(plan(&seen(surge.clone(), &["a", "b"], &both), Timestamp::now()).create, ["a"]);
        let starting = [("a", "old", "ready"), ("a", "new", "unready"), ("b", "old", "ready")];
        let p = plan(&seen(surge.clone(), &["a", "b"], &starting), Timestamp::now());
        assert!(p.create.is_empty() && p.delete.is_empty(), "{p:?}");
        let serving = [("a", "old", "ready"), ("a", "new", "ready"), ("b", "old", "ready")];
        assert_eq!(names(&plan(&seen(surge, &["a", "b"], &serving), Timestamp::now()).delete), ["p0"]);
    }

    #[test]
    fn status_and_pods() {
        let seen =
            seen(json!({"type": "OnDelete"}), &["a", "b"], &[("a", "new", "ready"), ("b", "old", "unready")]);
        let status = plan(&seen, Timestamp::now()).status;
        assert_eq!(
            serde_json::to_value(&status).unwrap(),
            json!({"currentNumberScheduled": 2, "desiredNumberScheduled": 2, "numberMisscheduled": 0, "numberReady": 1,
                "numberAvailable": 1, "numberUnavailable": 1, "updatedNumberScheduled": 1, "observedGeneration": 2})
        );
        let pod = pod_for(&seen, "a");
        assert_eq!(node_of(&pod).as_deref(), Some("a"));
        assert_eq!(pod.metadata.labels.unwrap()["pod-template-generation"], "2");
        assert_eq!(pod.spec.unwrap().tolerations.unwrap().len(), 6);
    }
}
