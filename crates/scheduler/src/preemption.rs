//! Makes room for a pod that fits nowhere by sending away pods of lower priority. Decides only.
use std::collections::BTreeMap;
use std::sync::Arc;

use crate::cycle::{Judges, Unfit, histogram};
use crate::framework::{Framework, Rejection};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

/// Candidates beyond so many (or a tenth of the nodes) are not looked for.
const ENOUGH: usize = 100;

/// Who has to go so that a pod fits.
#[derive(Debug, Clone)]
pub struct Eviction {
    /// From this node.
    pub node: String,
    /// These pods.
    pub victims: Vec<Arc<PodInfo>>,
}

/// Finds the node where sending pods away hurts least, or says why that does not help.
pub fn preempt(
    framework: &Framework,
    snapshot: &Snapshot,
    pod: &PodInfo,
    unfit: &Unfit,
) -> Result<Eviction, String> {
    if pod.spec().and_then(|s| s.preemption_policy.as_deref()) == Some("Never") {
        return Err("not eligible due to preemptionPolicy=Never.".to_owned());
    }
    if waits_for_victims(snapshot, pod) {
        return Err("not eligible due to a terminating pod on the nominated node.".to_owned());
    }
    let unhelpful = Rejection::unresolvable("Preemption is not helpful for scheduling");
    let mut verdicts: BTreeMap<&str, Rejection> = BTreeMap::new();
    let mut candidates = Vec::new();
    let enough = ENOUGH.max(unfit.nodes / 10);
    for node in snapshot.nodes() {
        let hopeless = unfit.whole.is_some()
            || unfit.rejections.get(&node.name).is_none_or(|rejection| rejection.unresolvable);
        if hopeless {
            verdicts.insert(&node.name, unhelpful.clone());
            continue;
        }
        match victims_on(framework, snapshot, pod, node) {
            Ok(victims) => candidates.push(Eviction { node: node.name.clone(), victims }),
            Err(rejection) => {
                verdicts.insert(&node.name, rejection);
            }
        }
        if candidates.len() >= enough {
            break;
        }
    }
    candidates
        .into_iter()
        .min_by_key(harm)
        .ok_or_else(|| format!("0/{} nodes are available: {}.", unfit.nodes, histogram(verdicts.values())))
}

/// Whether the room made before is only not free yet.
fn waits_for_victims(snapshot: &Snapshot, pod: &PodInfo) -> bool {
    let nominated = pod.pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref());
    nominated
        .and_then(|name| snapshot.node(name))
        .is_some_and(|node| node.pods.iter().any(|p| p.is_deleting() && p.priority < pod.priority))
}

/// The fewest pods that have to leave a node, the least important ones.
fn victims_on(
    framework: &Framework,
    snapshot: &Snapshot,
    pod: &PodInfo,
    node: &NodeInfo,
) -> Result<Vec<Arc<PodInfo>>, Rejection> {
    let mut lower: Vec<Arc<PodInfo>> =
        node.pods.iter().filter(|p| p.priority < pod.priority).cloned().collect();
    if lower.is_empty() {
        return Err(Rejection::unresolvable("No preemption victims found for incoming pod"));
    }
    let mut trial = snapshot.clone();
    for victim in &lower {
        trial.remove_pod(&victim.uid);
    }
    fits(framework, &trial, pod, &node.name)?;
    // The most important, and among equals the oldest, are the first that may stay.
    lower.sort_by(|a, b| b.priority.cmp(&a.priority).then_with(|| started(a).cmp(&started(b))));
    let mut victims = Vec::new();
    for candidate in lower {
        trial.place(candidate.clone(), &node.name);
        if fits(framework, &trial, pod, &node.name).is_err() {
            trial.remove_pod(&candidate.uid);
            victims.push(candidate);
        }
    }
    Ok(victims)
}

fn fits(framework: &Framework, snapshot: &Snapshot, pod: &PodInfo, node: &str) -> Result<(), Rejection> {
    let judges = Judges::new(framework, pod, snapshot).map_err(|(_, rejection)| rejection)?;
    match snapshot.node(node) {
        Some(node) => judges.judge(node).map_err(|(_, rejection)| rejection),
        None => Err(Rejection::unresolvable("node not found")),
    }
}

/// Seconds; pods that did not start yet count as the newest.
fn started(pod: &PodInfo) -> i64 {
    let at = pod.pod.status.as_ref().and_then(|s| s.start_time.as_ref());
    at.map_or(i64::MAX, |t| t.0.as_second())
}

/// What makes one eviction worse than another, most important first: the highest priority that suffers, the sum of
/// priorities, how many suffer, how long the highest of them have been running.
fn harm(eviction: &Eviction) -> (i32, i64, usize, std::cmp::Reverse<i64>) {
    let victims = &eviction.victims;
    let highest = victims.iter().map(|v| v.priority).max().unwrap_or(i32::MIN);
    // Shifted above zero, so that one victim more never makes the sum smaller.
    let sum = victims.iter().map(|v| i64::from(v.priority) + i64::from(i32::MAX) + 1).sum();
    let earliest = victims.iter().filter(|v| v.priority == highest).map(|v| started(v)).min();
    (highest, sum, victims.len(), std::cmp::Reverse(earliest.unwrap_or(i64::MAX)))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::cycle::Cycle;
    use crate::testing::{pod, roomy, snapshot};

    fn asking(cpu: &str, priority: i32) -> Value {
        json!({"priority": priority, "containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
    }

    fn run(snapshot: &Snapshot, spec: Value) -> Result<(String, Vec<String>), String> {
        let framework = Framework::default();
        let p = pod("p", spec);
        let unfit = Cycle::new(0).schedule(&framework, snapshot, &p).expect_err("it fits nowhere");
        preempt(&framework, snapshot, &p, &unfit).map(|e| {
            let mut names: Vec<String> = e.victims.iter().map(|v| v.uid.clone()).collect();
            names.sort();
            (e.node, names)
        })
    }

    #[test]
    fn the_least_important_pods_go_and_no_more_than_needed() {
        let mut s = snapshot([roomy("a"), roomy("b")]);
        s.place(pod("a1", asking("2", 5)), "a");
        s.place(pod("a2", asking("1", 1)), "a");
        s.place(pod("a3", asking("1", 2)), "a");
        s.place(pod("b1", asking("4", 6)), "b");
        assert_eq!(run(&s, asking("1", 10)), Ok(("a".into(), vec!["a2".into()])));
        assert_eq!(run(&s, asking("2", 10)), Ok(("a".into(), vec!["a2".into(), "a3".into()])));
        // Three pods of priorities up to 5 suffer rather than one of 6.
        assert_eq!(run(&s, asking("4", 10)).map(|(node, _)| node), Ok("a".into()));
    }

    #[test]
    fn says_why_it_does_not_help() {
        let mut s = snapshot([roomy("a"), roomy("b")]);
        s.place(pod("a1", asking("4", 5)), "a");
        s.place(pod("b1", asking("4", 5)), "b");
        let none = "0/2 nodes are available: 2 No preemption victims found for incoming pod.";
        assert_eq!(run(&s, asking("1", 5)), Err(none.into()));
        let hopeless = "0/2 nodes are available: 2 Preemption is not helpful for scheduling.";
        assert_eq!(run(&s, asking("5", 10)), Err(hopeless.into()));
        let mut never = asking("1", 10);
        never["preemptionPolicy"] = "Never".into();
        assert_eq!(run(&s, never), Err("not eligible due to preemptionPolicy=Never.".into()));
    }
}
