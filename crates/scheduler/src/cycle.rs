//! One scheduling cycle: a pod and the snapshot in, a node or the reasons why none will do out. No I/O.
use std::collections::BTreeMap;
use std::fmt;

use rand::Rng as _;

use crate::framework::{Framework, Judge, Prepared, Rejection, Wakes};
use crate::node::NodeInfo;
use crate::pod::PodInfo;
use crate::snapshot::Snapshot;

/// At least so many nodes are looked at before the search stops early.
const LEAST_NODES: usize = 100;

/// Where a pod goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placement {
    /// The node.
    pub node: String,
    /// How many nodes were looked at.
    pub evaluated: usize,
    /// How many of them would do.
    pub feasible: usize,
}

/// Why a pod goes nowhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unfit {
    /// How many nodes there are.
    pub nodes: usize,
    /// Why no node at all will do, where that was clear before looking at one.
    pub whole: Option<Rejection>,
    /// Why each node will not do, by name.
    pub rejections: BTreeMap<String, Rejection>,
    /// What may change that.
    pub wakes: Wakes,
    /// What preemption had to say.
    pub after: String,
}

impl fmt::Display for Unfit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        write!(f, "0/{} nodes are available:", self.nodes)?;
        match &self.whole {
            Some(rejection) => write!(f, " {}.", rejection.reasons.join(", "))?,
            None => {
                let text = histogram(self.rejections.values());
                if !text.is_empty() {
                    write!(f, " {text}.")?;
                }
            }
        }
        if self.after.is_empty() { Ok(()) } else { write!(f, " {}", self.after) }
    }
}

/// `2 Insufficient cpu, 1 Too many pods`, in the order of the texts.
pub fn histogram<'a>(rejections: impl IntoIterator<Item = &'a Rejection>) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for reason in rejections.into_iter().flat_map(|r| &r.reasons) {
        *counts.entry(reason).or_insert(0) += 1;
    }
    let mut texts: Vec<String> = counts.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    texts.sort_unstable();
    texts.join(", ")
}

/// The filters that have something to say about one pod.
pub struct Judges<'a> {
    judges: Vec<(Wakes, Box<dyn Judge + 'a>)>,
    pod: &'a PodInfo,
    snapshot: &'a Snapshot,
}

impl<'a> Judges<'a> {
    /// Lets each filter look at the pod and the cluster.
    pub fn new(
        framework: &'a Framework,
        pod: &'a PodInfo,
        snapshot: &'a Snapshot,
    ) -> Result<Self, (Wakes, Rejection)> {
        let mut judges = Vec::with_capacity(framework.filters.len());
        for filter in &framework.filters {
            match filter.prepare(pod, snapshot) {
                Prepared::Skip => {}
                Prepared::Reject(rejection) => return Err((filter.wakes(), rejection)),
                Prepared::Judge(judge) => judges.push((filter.wakes(), judge)),
            }
        }
        Ok(Self { judges, pod, snapshot })
    }

    /// Whether the pod may run on a node, also once those came that the node is kept free for.
    pub fn judge(&self, node: &NodeInfo) -> Result<(), (Wakes, Rejection)> {
        if self.snapshot.has_nominations() {
            let mut crowded = None;
            for other in self.snapshot.nominated_to(&node.name) {
                if other.priority >= self.pod.priority && other.uid != self.pod.uid {
                    crowded.get_or_insert_with(|| node.clone()).add_pod(other.clone());
                }
            }
            if let Some(crowded) = crowded {
                self.judge_alone(&crowded)?;
            }
        }
        self.judge_alone(node)
    }

    fn judge_alone(&self, node: &NodeInfo) -> Result<(), (Wakes, Rejection)> {
        for (wakes, judge) in &self.judges {
            judge.filter(node).map_err(|rejection| (*wakes, rejection))?;
        }
        Ok(())
    }
}

/// Finds nodes for pods, one after the other.
pub struct Cycle {
    /// How many of a hundred nodes to look at; 0: fewer the more there are.
    percentage: usize,
    /// Where the next search starts, so that all nodes get their turn.
    start: usize,
}

impl Cycle {
    /// `percentage`: `percentageOfNodesToScore`.
    pub fn new(percentage: usize) -> Self {
        Self { percentage, start: 0 }
    }

    /// How many feasible nodes are enough.
    fn enough(&self, nodes: usize) -> usize {
        if nodes < LEAST_NODES || self.percentage >= 100 {
            return nodes;
        }
        let percentage = match self.percentage {
            0 => 50_usize.saturating_sub(nodes / 125).max(5),
            p => p,
        };
        (nodes * percentage / 100).max(LEAST_NODES)
    }

    /// Finds a node for a pod.
    pub fn schedule(
        &mut self,
        framework: &Framework,
        snapshot: &Snapshot,
        pod: &PodInfo,
    ) -> Result<Placement, Box<Unfit>> {
        let nodes = snapshot.nodes();
        let mut unfit = Unfit {
            nodes: nodes.len(),
            whole: None,
            rejections: BTreeMap::new(),
            wakes: Wakes::NODE_ADD,
            after: String::new(),
        };
        if nodes.is_empty() {
            return Err(Box::new(unfit));
        }
        let judges = match Judges::new(framework, pod, snapshot) {
            Ok(judges) => judges,
            Err((wakes, rejection)) => {
                unfit.wakes = unfit.wakes.or(wakes);
                unfit.whole = Some(rejection);
                return Err(Box::new(unfit));
            }
        };
        // A pod that a node was made free for takes it.
        let nominated = pod.pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref());
        if let Some(node) = nominated.and_then(|name| snapshot.node(name))
            && judges.judge(node).is_ok()
        {
            return Ok(Placement { node: node.name.clone(), evaluated: 1, feasible: 1 });
        }
        let enough = self.enough(nodes.len());
        let mut feasible: Vec<&NodeInfo> = Vec::new();
        let mut evaluated = 0;
        let start = self.start % nodes.len();
        for node in nodes[start..].iter().chain(&nodes[..start]) {
            evaluated += 1;
            match judges.judge(node) {
                Ok(()) => feasible.push(node),
                Err((wakes, rejection)) => {
                    unfit.wakes = unfit.wakes.or(wakes);
                    unfit.rejections.insert(node.name.clone(), rejection);
                }
            }
            if feasible.len() >= enough {
                break;
            }
        }
        self.start = (start + evaluated) % nodes.len();
        let node = match feasible.as_slice() {
            [] => return Err(Box::new(unfit)),
            [only] => only,
            many => best(framework, snapshot, pod, many),
        };
        Ok(Placement { node: node.name.clone(), evaluated, feasible: feasible.len() })
    }
}

/// The node with the most points; among equals, any.
fn best<'a>(
    framework: &'a Framework,
    snapshot: &'a Snapshot,
    pod: &'a PodInfo,
    feasible: &[&'a NodeInfo],
) -> &'a NodeInfo {
    let mut totals = vec![0_i64; feasible.len()];
    let mut scores = vec![0_i64; feasible.len()];
    for (weight, score) in &framework.scores {
        let Some(scorer) = score.prepare(pod, snapshot, feasible) else { continue };
        for (score, node) in scores.iter_mut().zip(feasible) {
            *score = scorer.score(node);
        }
        scorer.normalize(&mut scores);
        for (total, score) in totals.iter_mut().zip(&scores) {
            *total += weight * score;
        }
    }
    let most = totals.iter().copied().max().unwrap_or(0);
    let equal = totals.iter().filter(|t| **t == most).count();
    let pick = if equal > 1 { rand::rng().random_range(0..equal) } else { 0 };
    let mut ties = totals.iter().zip(feasible).filter(|(t, _)| **t == most).map(|(_, n)| *n);
    ties.nth(pick).unwrap_or(feasible[0])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{node, pod, roomy, snapshot};

    fn asking(cpu: &str) -> Value {
        json!({"containers": [{"name": "c", "resources": {"requests": {"cpu": cpu}}}]})
    }

    fn message(snapshot: &Snapshot, spec: Value) -> String {
        match Cycle::new(0).schedule(&Framework::default(), snapshot, &pod("p", spec)) {
            Ok(placement) => placement.node,
            Err(unfit) => unfit.to_string(),
        }
    }

    #[test]
    fn says_why_no_node_will_do() {
        let tainted = json!({"spec": {"taints": [{"key": "k", "effect": "NoSchedule"}]}});
        let s = snapshot([roomy("a"), roomy("b"), node("c", tainted)]);
        assert_eq!(message(&Snapshot::default(), asking("1")), "no nodes available to schedule pods");
        assert_eq!(
            message(&s, asking("5")),
            "0/3 nodes are available: 1 node(s) had untolerated taint(s), 2 Insufficient cpu."
        );
        let mut cordoned = s.clone();
        cordoned.set_node(node("a", json!({"spec": {"unschedulable": true}})));
        assert_eq!(
            message(&cordoned, asking("5")),
            "0/3 nodes are available: 1 Insufficient cpu, 1 node(s) had untolerated taint(s), 1 node(s) were unschedulable."
        );
    }

    #[test]
    fn pods_go_where_most_is_left() {
        let mut s = snapshot([roomy("a"), roomy("b")]);
        s.place(pod("x", asking("1")), "a");
        assert_eq!(message(&s, asking("1")), "b");
        s.place(pod("y", asking("3")), "b");
        assert_eq!(message(&s, asking("1")), "a");
    }

    #[test]
    fn room_made_for_a_pod_is_not_given_to_a_lesser_one() {
        let mut s = snapshot([roomy("a")]);
        let mut high = asking("4");
        high["priority"] = 10.into();
        s.nominate(&pod("high", high.clone()), Some("a"));
        assert_eq!(message(&s, asking("1")), "0/1 nodes are available: 1 Insufficient cpu.");
        high["priority"] = 11.into();
        assert_eq!(message(&s, high), "a");
    }

    #[test]
    fn large_clusters_are_searched_in_part_and_in_turn() {
        let s = snapshot((0..1000).map(|i| roomy(&format!("n{i}"))));
        let mut cycle = Cycle::new(0);
        let first = cycle.schedule(&Framework::default(), &s, &pod("p", asking("1"))).expect("fits");
        assert_eq!((first.evaluated, first.feasible, cycle.start), (420, 420, 420));
        assert_eq!(Cycle::new(100).enough(1000), 1000);
        assert_eq!(Cycle::new(20).enough(1000), 200);
        assert_eq!(Cycle::new(0).enough(99), 99);
        assert_eq!(Cycle::new(0).enough(10_000), 500);
    }
}
