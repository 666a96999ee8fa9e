//! Pods of one kind spread evenly over zones, hosts or whatever a label of nodes says.
use std::collections::HashMap;

use super::taint_toleration::tolerates_node;
use crate::framework::{Filter, MAX_SCORE, Plugin, Prepared, Rejection, Score, Scorer, Wakes};
use crate::node::NodeInfo;
use crate::pod::{PodInfo, Spread};
use crate::snapshot::Snapshot;

const REASON: &str = "node(s) didn't match pod topology spread constraints";
const NO_LABEL: &str = "node(s) didn't match pod topology spread constraints (missing required label)";

/// Filters and scores by topology spread constraints.
pub struct PodTopologySpread;

impl Plugin for PodTopologySpread {
    fn name(&self) -> &'static str {
        "PodTopologySpread"
    }

    fn wakes(&self) -> Wakes {
        let nodes = Wakes::NODE_ADD.or(Wakes::NODE_LABELS).or(Wakes::NODE_TAINTS);
        nodes.or(Wakes::POD_GONE).or(Wakes::POD_PLACED)
    }
}

/// One constraint with the pods counted in each place.
struct Counted<'a> {
    spread: &'a Spread,
    counts: HashMap<&'a str, i64>,
    least: i64,
    /// The pod itself is one of those counted.
    itself: i64,
}

fn count_in(node: &NodeInfo, pod: &PodInfo, spread: &Spread) -> i64 {
    let counted = |p: &&std::sync::Arc<PodInfo>| {
        p.key.namespace == pod.key.namespace
            && !p.is_deleting()
            && spread.selector.matches_optional(p.labels())
    };
    i64::try_from(node.pods.iter().filter(counted).count()).unwrap_or(i64::MAX)
}

fn counts<'a>(pod: &'a PodInfo, snapshot: &'a Snapshot, spreads: &'a [Spread]) -> Vec<Counted<'a>> {
    let mut out: Vec<Counted<'a>> = spreads
        .iter()
        .map(|spread| Counted {
            spread,
            counts: HashMap::new(),
            least: 0,
            itself: i64::from(spread.selector.matches_optional(pod.labels())),
        })
        .collect();
    for node in snapshot.nodes() {
        // A node outside of one topology counts in none.
        if spreads.iter().any(|s| node.label(&s.topology_key).is_none()) {
            continue;
        }
        for counted in &mut out {
            let s = counted.spread;
            if (s.honor_affinity && !pod.node_terms.allow(node))
                || (s.honor_taints && !tolerates_node(pod, node))
            {
                continue;
            }
            if let Some(place) = node.label(&s.topology_key) {
                *counted.counts.entry(place).or_insert(0) += count_in(node, pod, s);
            }
        }
    }
    for counted in &mut out {
        let places = i64::try_from(counted.counts.len()).unwrap_or(i64::MAX);
        if places >= counted.spread.min_domains {
            counted.least = counted.counts.values().copied().min().unwrap_or(0);
        }
    }
    out
}

impl Filter for PodTopologySpread {
    fn prepare<'a>(&'a self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Prepared<'a> {
        let spreads = pod.affinity.as_ref().map_or(&[][..], |a| &a.spread);
        if spreads.is_empty() {
            return Prepared::Skip;
        }
        let counted = counts(pod, snapshot, spreads);
        Prepared::Judge(Box::new(move |node: &NodeInfo| {
            for c in &counted {
                let Some(place) = node.label(&c.spread.topology_key) else {
                    return Err(Rejection::unresolvable(NO_LABEL));
                };
                let here = c.counts.get(place).copied().unwrap_or(0);
                if here + c.itself - c.least > c.spread.max_skew {
                    return Err(Rejection::resolvable(REASON));
                }
            }
            Ok(())
        }))
    }
}

struct Crowd<'a>(Vec<Counted<'a>>);

/// Stands for a node without the labels, which scores nothing.
const OUTSIDE: i64 = -1;

impl Scorer for Crowd<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let mut score = 0.0;
        for c in &self.0 {
            let Some(place) = node.label(&c.spread.topology_key) else { return OUTSIDE };
            let here = c.counts.get(place).copied().unwrap_or(0) as f64;
            // More places make each difference between them weigh more.
            score += here * ((c.counts.len() + 2) as f64).ln() + (c.spread.max_skew - 1) as f64;
        }
        score.round() as i64
    }

    fn normalize(&self, scores: &mut [i64]) {
        let inside = || scores.iter().copied().filter(|s| *s != OUTSIDE);
        let (least, most) = (inside().min().unwrap_or(0), inside().max().unwrap_or(0));
        for score in scores {
            *score = match *score {
                OUTSIDE => 0,
                _ if most == 0 => MAX_SCORE,
                s => MAX_SCORE * (most + least - s) / most,
            };
        }
    }
}

impl Score for PodTopologySpread {
    fn prepare<'a>(
        &'a self,
        pod: &'a PodInfo,
        snapshot: &'a Snapshot,
        _: &[&'a NodeInfo],
    ) -> Option<Box<dyn Scorer + 'a>> {
        let spreads = pod.affinity.as_ref().map_or(&[][..], |a| &a.soft_spread);
        (!spreads.is_empty()).then(|| Box::new(Crowd(counts(pod, snapshot, spreads))) as Box<dyn Scorer>)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{scores, verdict};
    use crate::testing::{labelled, node, snapshot};

    fn spec(when: &str, more: Value) -> Value {
        let mut c = json!({"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": when, "labelSelector": {"matchLabels": {"app": "a"}}});
        c.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
        json!({"containers": [], "topologySpreadConstraints": [c]})
    }

    fn three_zones() -> Snapshot {
        let zone = |z: &str| json!({"metadata": {"labels": {"zone": z}}});
        let mut s = snapshot([
            node("a", zone("1")),
            node("b", zone("2")),
            node("c", zone("3")),
            node("d", json!({})),
        ]);
        for (name, at) in [("p1", "a"), ("p2", "a"), ("p3", "b")] {
            s.place(labelled(name, json!({"app": "a"}), json!({"containers": []})), at);
        }
        s.place(labelled("other", json!({"app": "b"}), json!({"containers": []})), "c");
        s
    }

    #[test]
    fn the_emptiest_places_come_first() {
        let s = three_zones();
        for (more, expect) in [
            (json!({}), [REASON, REASON, "", NO_LABEL]),
            (json!({"maxSkew": 2}), [REASON, "", "", NO_LABEL]),
            (json!({"minDomains": 4, "maxSkew": 1}), [REASON, REASON, "", NO_LABEL]),
            (json!({"labelSelector": {"matchLabels": {"app": "b"}}}), ["", "", "", NO_LABEL]),
            (json!({"labelSelector": {}, "matchLabelKeys": ["app"]}), [REASON, REASON, "", NO_LABEL]),
        ] {
            let p = labelled("p", json!({"app": "a"}), spec("DoNotSchedule", more.clone()));
            let got: Vec<String> = s.nodes().iter().map(|n| verdict(&PodTopologySpread, &p, &s, n)).collect();
            assert_eq!(got, expect, "{more}");
        }
    }

    #[test]
    fn soft_constraints_only_score() {
        let s = three_zones();
        let p = labelled("p", json!({"app": "a"}), spec("ScheduleAnyway", json!({})));
        assert_eq!(verdict(&PodTopologySpread, &p, &s, &s.nodes()[0]), "");
        let got = scores(&PodTopologySpread, &p, &s);
        assert!(got[2] > got[1] && got[1] > got[0], "{got:?}");
        assert_eq!(got[3], 0);
    }
}
