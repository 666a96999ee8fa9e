//! Pods that want to be near other pods, or far from them.
use std::collections::{HashMap, HashSet};

use crate::framework::{Filter, MAX_SCORE, Plugin, Prepared, Rejection, Score, Scorer, Wakes};
use crate::node::NodeInfo;
use crate::pod::{PodInfo, PodTerm};
use crate::snapshot::Snapshot;

const AFFINITY: &str = "node(s) didn't match pod affinity rules";
const ANTI_AFFINITY: &str = "node(s) didn't match pod anti-affinity rules";
const EXISTING: &str = "node(s) didn't satisfy existing pods anti-affinity rules";

/// Filters and scores by pod affinity and anti-affinity.
pub struct InterPodAffinity;

impl Plugin for InterPodAffinity {
    fn name(&self) -> &'static str {
        "InterPodAffinity"
    }

    fn wakes(&self) -> Wakes {
        let pods = Wakes::POD_GONE.or(Wakes::POD_PLACED).or(Wakes::NAMESPACE);
        pods.or(Wakes::NODE_ADD).or(Wakes::NODE_LABELS)
    }
}

/// A place: a label of nodes and its value.
type Place<'a> = (&'a str, &'a str);

struct Neighbours<'a> {
    pod: &'a PodInfo,
    /// Places where a pod is that repels this one.
    forbidden: HashSet<Place<'a>>,
    /// Places where pods are that meet every affinity term.
    near: HashSet<Place<'a>>,
    /// Places where pods are that an anti-affinity term means.
    far: HashSet<Place<'a>>,
    /// Nobody is there to be near to, and the pod is one of those it wants to be near to.
    first_of_its_kind: bool,
}

fn place<'a>(node: &'a NodeInfo, key: &'a str) -> Option<Place<'a>> {
    Some((key, node.label(key)?))
}

fn terms(pod: &PodInfo) -> (&[PodTerm], &[PodTerm]) {
    pod.affinity.as_ref().map_or((&[], &[]), |a| (&a.affinity, &a.anti_affinity))
}

impl Filter for InterPodAffinity {
    fn prepare<'a>(&'a self, pod: &'a PodInfo, snapshot: &'a Snapshot) -> Prepared<'a> {
        let namespaces = snapshot.namespaces();
        let mut seen = Neighbours {
            pod,
            forbidden: HashSet::new(),
            near: HashSet::new(),
            far: HashSet::new(),
            first_of_its_kind: false,
        };
        for (node, other) in snapshot.with_rules() {
            let repels = terms(other).1.iter().filter(|t| t.matches(pod, namespaces));
            seen.forbidden.extend(repels.filter_map(|t| place(node, &t.topology_key)));
        }
        let (affinity, anti_affinity) = terms(pod);
        if affinity.is_empty() && anti_affinity.is_empty() {
            if seen.forbidden.is_empty() {
                return Prepared::Skip;
            }
            return Prepared::Judge(Box::new(seen));
        }
        for node in snapshot.nodes() {
            for other in &node.pods {
                if !affinity.is_empty() && affinity.iter().all(|t| t.matches(other, namespaces)) {
                    seen.near.extend(affinity.iter().filter_map(|t| place(node, &t.topology_key)));
                }
                let repelled = anti_affinity.iter().filter(|t| t.matches(other, namespaces));
                seen.far.extend(repelled.filter_map(|t| place(node, &t.topology_key)));
            }
        }
        seen.first_of_its_kind = seen.near.is_empty() && affinity.iter().all(|t| t.matches(pod, namespaces));
        Prepared::Judge(Box::new(seen))
    }
}

impl crate::framework::Judge for Neighbours<'_> {
    fn filter(&self, node: &NodeInfo) -> Result<(), Rejection> {
        let (affinity, anti_affinity) = terms(self.pod);
        let near = affinity.iter().all(|t| {
            node.label(&t.topology_key).is_some_and(|value| {
                self.first_of_its_kind || self.near.contains(&(t.topology_key.as_str(), value))
            })
        });
        if !near {
            return Err(Rejection::unresolvable(AFFINITY));
        }
        let is_in = |places: &HashSet<Place<'_>>, key: &str| {
            node.label(key).is_some_and(|value| places.contains(&(key, value)))
        };
        if anti_affinity.iter().any(|t| is_in(&self.far, &t.topology_key)) {
            return Err(Rejection::resolvable(ANTI_AFFINITY));
        }
        if self.forbidden.iter().any(|(key, value)| node.label(key) == Some(*value)) {
            return Err(Rejection::resolvable(EXISTING));
        }
        Ok(())
    }
}

/// What each place is worth.
struct Company<'a>(HashMap<&'a str, HashMap<&'a str, i64>>);

impl<'a> Company<'a> {
    fn add(&mut self, node: &'a NodeInfo, key: &'a str, weight: i64) {
        if let Some(value) = node.label(key) {
            *self.0.entry(key).or_default().entry(value).or_insert(0) += weight;
        }
    }
}

impl Scorer for Company<'_> {
    fn score(&self, node: &NodeInfo) -> i64 {
        let worth = |(key, places): (&&str, &HashMap<&str, i64>)| places.get(node.label(key)?).copied();
        self.0.iter().filter_map(worth).sum()
    }

    fn normalize(&self, scores: &mut [i64]) {
        let (least, most) =
            (scores.iter().copied().min().unwrap_or(0), scores.iter().copied().max().unwrap_or(0));
        for score in scores {
            *score = if most > least { MAX_SCORE * (*score - least) / (most - least) } else { 0 };
        }
    }
}

impl Score for InterPodAffinity {
    fn prepare<'a>(
        &'a self,
        pod: &'a PodInfo,
        snapshot: &'a Snapshot,
        _: &[&'a NodeInfo],
    ) -> Option<Box<dyn Scorer + 'a>> {
        /// What a required term of a pod that is there adds for a pod it wants near.
        const HARD_WEIGHT: i64 = 1;
        let namespaces = snapshot.namespaces();
        let mut company = Company(HashMap::new());
        for (node, other) in snapshot.with_rules() {
            let Some(rules) = &other.affinity else { continue };
            let required = rules.affinity.iter().map(|t| (HARD_WEIGHT, t));
            for (weight, term) in rules.preferred.iter().map(|(w, t)| (*w, t)).chain(required) {
                if term.matches(pod, namespaces) {
                    company.add(node, &term.topology_key, weight);
                }
            }
        }
        let wishes = pod.affinity.as_ref().map_or(&[][..], |a| &a.preferred);
        if !wishes.is_empty() {
            for node in snapshot.nodes() {
                for other in &node.pods {
                    for (weight, term) in wishes.iter().filter(|(_, t)| t.matches(other, namespaces)) {
                        company.add(node, &term.topology_key, *weight);
                    }
                }
            }
        }
        (!company.0.is_empty()).then(|| Box::new(company) as Box<dyn Scorer>)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{scores, verdict};
    use crate::testing::{labelled, node, snapshot};

    fn term(app: &str, key: &str) -> Value {
        json!({"labelSelector": {"matchLabels": {"app": app}}, "topologyKey": key})
    }

    fn required(kind: &str, term: Value) -> Value {
        json!({"containers": [], "affinity": {kind: {"requiredDuringSchedulingIgnoredDuringExecution": [term]}}})
    }

    fn two_zones() -> Snapshot {
        let zone = |z: &str| json!({"metadata": {"labels": {"zone": z}}});
        let mut s = snapshot([node("a", zone("1")), node("b", zone("1")), node("c", zone("2"))]);
        s.place(labelled("web", json!({"app": "web"}), json!({"containers": []})), "a");
        s.place(
            labelled("hermit", json!({"app": "hermit"}), required("podAntiAffinity", term("noisy", "zone"))),
            "c",
        );
        s
    }

    #[test]
    fn places_are_judged_by_who_is_there() {
        let s = two_zones();
        let plain = json!({"containers": []});
        for (app, spec, expect) in [
            ("x", required("podAffinity", term("web", "zone")), ["", "", AFFINITY]),
            ("x", required("podAffinity", term("web", "kubernetes.io/hostname")), ["", AFFINITY, AFFINITY]),
            ("x", required("podAffinity", term("none", "zone")), [AFFINITY; 3]),
            ("none", required("podAffinity", term("none", "zone")), [""; 3]),
            ("none", required("podAffinity", term("none", "rack")), [AFFINITY; 3]),
            ("x", required("podAntiAffinity", term("web", "zone")), [ANTI_AFFINITY, ANTI_AFFINITY, ""]),
            ("noisy", plain.clone(), ["", "", EXISTING]),
            ("x", plain, [""; 3]),
        ] {
            let p = labelled("p", json!({"app": app}), spec.clone());
            let got: Vec<String> = s.nodes().iter().map(|n| verdict(&InterPodAffinity, &p, &s, n)).collect();
            assert_eq!(got, expect, "{app} {spec}");
        }
    }

    #[test]
    fn namespaces_are_named_selected_or_the_pods_own() {
        let mut s = two_zones();
        s.set_namespace("default", Some([("team".to_owned(), "a".to_owned())].into()));
        let with = |more: Value| {
            let mut t = term("web", "zone");
            t.as_object_mut().expect("an object").extend(more.as_object().cloned().unwrap_or_default());
            labelled("p", json!({}), required("podAntiAffinity", t))
        };
        for (more, expect) in [
            (json!({"namespaces": ["other"]}), ""),
            (json!({"namespaces": ["default"]}), ANTI_AFFINITY),
            (json!({"namespaceSelector": {}}), ANTI_AFFINITY),
            (json!({"namespaceSelector": {"matchLabels": {"team": "a"}}}), ANTI_AFFINITY),
            (json!({"namespaceSelector": {"matchLabels": {"team": "b"}}}), ""),
        ] {
            let p = with(more.clone());
            assert_eq!(verdict(&InterPodAffinity, &p, &s, &s.nodes()[0]), expect, "{more}");
        }
    }

    #[test]
    fn wishes_only_score() {
        let s = two_zones();
        let wish = |kind: &str, app: &str| {
            let spec = json!({"containers": [], "affinity": {kind: {"preferredDuringSchedulingIgnoredDuringExecution": [{"weight": 10, "podAffinityTerm": term(app, "zone")}]}}});
            scores(&InterPodAffinity, &labelled("p", json!({}), spec), &s)
        };
        assert_eq!(wish("podAffinity", "web"), [100, 100, 0]);
        assert_eq!(wish("podAntiAffinity", "web"), [0, 0, 100]);
        assert_eq!(wish("podAffinity", "nobody"), [0, 0, 0]);
    }
}
