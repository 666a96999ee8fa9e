//! Deletes pods from Nodes whose NoExecute taints they do not tolerate, or tolerate no longer.
//! Watches: Pod (by key), Node (its pods).  Writes: Pod/status condition DisruptionTarget, Pod delete.
//! Invariant: a pod that tolerates a taint for a while gets that while, counted from when the taint was added.
use std::time::Duration;

use client::{Cache, Index, ObjectKey, Recorder};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Node, Pod, Taint, Toleration};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use kube::{Api, Client};
use serde_json::json;

use crate::context::Context;
use crate::framework::{Controller, Error, Next, Wakes, unless_gone};
use crate::pods::{self, whole_seconds};

/// See the module.
pub struct TaintEviction {
    client: Client,
    recorder: Recorder,
    nodes: Cache<Node>,
    pods: Cache<Pod>,
    on_node: Index<Pod>,
}

impl TaintEviction {
    /// Built from the shared parts.
    pub fn new(context: &Context) -> Self {
        Self {
            client: context.client.clone(),
            recorder: context.recorder.named("taint-eviction-controller"),
            nodes: context.informers.cache(),
            on_node: context.pods.cache.index(|pod| vec![pods::node_name(pod).to_owned()]),
            pods: context.pods.cache.clone(),
        }
    }
}

fn evicting(node: &Node) -> Vec<Taint> {
    let taints = node.spec.iter().flat_map(|s| s.taints.iter().flatten());
    taints.filter(|t| t.effect == "NoExecute").cloned().collect()
}

impl Controller for TaintEviction {
    const NAME: &'static str = "taint-eviction-controller";

    fn wake_on(&self, wakes: &mut Wakes) {
        let nodes = self.nodes.clone();
        wakes.on(&self.pods, move |change| {
            let Some(pod) = change.new.as_ref().filter(|p| !pods::node_name(p).is_empty()) else {
                return Vec::new();
            };
            let node = nodes.get(&ObjectKey::cluster(pods::node_name(pod)));
            let tainted = node.is_some_and(|n| !evicting(&n).is_empty());
            if tainted { vec![change.key.clone()] } else { Vec::new() }
        });
        let on_node = self.on_node.clone();
        wakes.on(&self.nodes, move |change| {
            let taints = |node: Option<&std::sync::Arc<Node>>| node.map(|n| evicting(n)).unwrap_or_default();
            if taints(change.old.as_ref()) == taints(change.new.as_ref()) {
                return Vec::new();
            }
            on_node.get(&change.key.name).iter().map(|p| ObjectKey::of(&**p)).collect()
        });
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(pod) = self.pods.get(&key).filter(|p| pods::is_active(p)) else { return Ok(Next::Rest) };
        let Some(node) = self.nodes.get(&ObjectKey::cluster(pods::node_name(&pod))) else {
            return Ok(Next::Rest);
        };
        let now = Timestamp::now();
        let tolerations = pod.spec.as_ref().and_then(|s| s.tolerations.clone()).unwrap_or_default();
        match verdict(&evicting(&node), &tolerations, now) {
            Verdict::Stay => return Ok(Next::Rest),
            Verdict::StayFor(time) => return Ok(Next::After(time)),
            Verdict::Go => {}
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        self.recorder.normal(&*pod, "TaintManagerEviction", format!("Marking for deletion Pod {key}"));
        let marked = pods::condition(&pod, "DisruptionTarget").is_some_and(|c| c.status == "True");
        if !marked {
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [{
                "type": "DisruptionTarget",
                "status": "True",
                "reason": "DeletionByTaintManager",
                "message": "Taint manager: deleting due to NoExecute taint",
                "lastTransitionTime": whole_seconds(now),
            }]}});
            let patched =
                api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            if unless_gone(patched).map_err(Error::at("mark a pod for eviction"))?.is_none() {
                return Ok(Next::Rest);
            }
        }
        let same = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        let deleted = api.delete(&key.name, &DeleteParams::default().preconditions(same)).await;
        unless_gone(deleted).map_err(Error::at("evict a pod"))?;
        tracing::info!(pod = %key, node = pods::node_name(&pod), "pod evicted by taint");
        Ok(Next::Rest)
    }
}

#[derive(Debug, PartialEq)]
enum Verdict {
    Stay,
    StayFor(Duration),
    Go,
}

fn verdict(taints: &[Taint], tolerations: &[Toleration], now: Timestamp) -> Verdict {
    let mut stay: Option<SignedDuration> = None;
    for taint in taints {
        let mut tolerated = tolerations.iter().filter(|t| tolerates(t, taint)).peekable();
        if tolerated.peek().is_none() {
            return Verdict::Go;
        }
        let Some(seconds) = tolerated.filter_map(|t| t.toleration_seconds).min() else { continue };
        let age = taint.time_added.as_ref().map_or(SignedDuration::ZERO, |t| now.duration_since(t.0));
        let left = SignedDuration::from_secs(seconds.max(0)) - age;
        stay = Some(stay.map_or(left, |s| s.min(left)));
    }
    match stay {
        None => Verdict::Stay,
        Some(left) => match Duration::try_from(left) {
            Ok(left) if !left.is_zero() => Verdict::StayFor(left),
            _ => Verdict::Go,
        },
    }
}

/// Whether a toleration covers a taint.
pub fn tolerates(toleration: &Toleration, taint: &Taint) -> bool {
    let text = |o: &Option<String>| o.clone().unwrap_or_default();
    let (effect, key, operator) =
        (text(&toleration.effect), text(&toleration.key), text(&toleration.operator));
    (effect.is_empty() || effect == taint.effect)
        && (key.is_empty() || key == taint.key)
        && match &*operator {
            "Exists" => true,
            "" | "Equal" => text(&toleration.value) == text(&taint.value) && !key.is_empty(),
            _ => false,
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdicts() {
        let taint = |key: &str, added: Option<i64>| Taint {
            key: key.into(),
            effect: "NoExecute".into(),
            time_added: added.map(|s| {
                k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(Timestamp::from_second(s).unwrap())
            }),
            value: None,
        };
        let toleration = |key: &str, seconds: Option<i64>| Toleration {
            key: Some(key.into()),
            operator: Some("Exists".into()),
            effect: Some("NoExecute".into()),
            toleration_seconds: seconds,
            value: None,
        };
        let now = Timestamp::from_second(1000).unwrap();
        let secs = |s| Verdict::StayFor(Duration::from_secs(s));
        for (taints, tolerations, expect) in [
            (vec![], vec![], Verdict::Stay),
            (vec![taint("a", None)], vec![], Verdict::Go),
            (vec![taint("a", None)], vec![toleration("a", None)], Verdict::Stay),
            (vec![taint("a", None)], vec![toleration("", None)], Verdict::Stay),
            (vec![taint("a", Some(900))], vec![toleration("a", Some(300))], secs(200)),
            (vec![taint("a", Some(700))], vec![toleration("a", Some(300))], Verdict::Go),
            (
                vec![taint("a", Some(900)), taint("b", Some(990))],
                vec![toleration("a", Some(300)), toleration("b", Some(20))],
                secs(10),
            ),
            (vec![taint("a", Some(900)), taint("b", None)], vec![toleration("a", Some(300))], Verdict::Go),
            (vec![taint("a", Some(900))], vec![toleration("a", Some(0))], Verdict::Go),
        ] {
            assert_eq!(verdict(&taints, &tolerations, now), expect, "{taints:?} {tolerations:?}");
        }
    }

    #[test]
    fn equal_needs_the_same_value() {
        let taint =
            Taint { key: "k".into(), value: Some("v".into()), effect: "NoExecute".into(), time_added: None };
        let mut t = Toleration { key: Some("k".into()), value: Some("v".into()), ..Toleration::default() };
        assert!(tolerates(&t, &taint));
        t.value = None;
        assert!(!tolerates(&t, &taint));
        t.effect = Some("NoSchedule".into());
        t.operator = Some("Exists".into());
        assert!(!tolerates(&t, &taint));
    }
}
