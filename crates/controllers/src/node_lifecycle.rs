//! Notices Nodes that fall silent, and turns Node conditions into taints.
//! Watches: Node (by key), Lease in kube-node-lease (last sign of life).
//! Writes: Node/status conditions to Unknown, Node.spec.taints of its own keys, Pod/status Ready=False on such Nodes.
//! Invariants: signs of life are timed on our own clock; when all Nodes are unwell, it is us: nothing is evicted.
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use client::{Cache, ObjectKey, Recorder, Select};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use k8s_openapi::api::core::v1::{Node, NodeCondition, Pod, PodCondition, Taint};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, Time};
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use serde_json::json;
use tokio::time::Instant;

use crate::context::Context;
use crate::framework::{Controller, Error, Next, Wakes, unless_gone};
use crate::pods::{self, whole_seconds};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Condition, its value, and the NoSchedule taint that this means.
const CONDITION_TAINTS: [(&str, &str, &str); 6] = [
    ("Ready", "False", NOT_READY),
    ("Ready", "Unknown", UNREACHABLE),
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
];
const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// What the kubelet reports, and so what is unknown without it.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// See the module.
pub struct NodeLifecycle {
    client: Client,
    recorder: Recorder,
    nodes: Cache<Node>,
    leases: Cache<Lease>,
    pods: Cache<Pod>,
    on_node: client::Index<Pod>,
    health: Mutex<HashMap<String, Health>>,
    grace: Duration,
    startup_grace: Duration,
    period: Duration,
}

/// What was last heard of a Node.
struct Health {
    heartbeat: Option<Time>,
    lease: Option<MicroTime>,
    heard: Instant,
}

impl NodeLifecycle {
    /// Built from the shared parts.
    pub fn new(context: &Context) -> Self {
        Self {
            client: context.client.clone(),
            recorder: context.recorder.named("node-controller"),
            nodes: context.informers.cache(),
            leases: context.informers.cache_with(Select::namespace("kube-node-lease")),
            on_node: context.pods.cache.index(|pod| vec![pods::node_name(pod).to_owned()]),
            pods: context.pods.cache.clone(),
            health: Mutex::default(),
            grace: context.config.node_monitor_grace,
            startup_grace: context.config.node_startup_grace,
            period: context.config.node_monitor_period,
        }
    }

    fn health(&self) -> MutexGuard<'_, HashMap<String, Health>> {
        self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How long the Node has been silent.
    fn silence(&self, node: &Node) -> Duration {
        let name = node.metadata.name.clone().unwrap_or_default();
        let lease = self.leases.get(&ObjectKey::new("kube-node-lease", name.clone()));
        let lease = lease.and_then(|l| l.spec.as_ref()?.renew_time.clone());
        let heartbeat = condition(node, "Ready").and_then(|c| c.last_heartbeat_time.clone());
        let mut all = self.health();
        let now = Instant::now();
        let health = all.entry(name).or_insert_with(|| Health { heartbeat: None, lease: None, heard: now });
        if health.heartbeat != heartbeat || (lease.is_some() && health.lease < lease) {
            health.heard = now;
            health.heartbeat = heartbeat;
            health.lease = lease.or(health.lease.take());
        }
        now.duration_since(health.heard)
    }

    /// Pods of a Node that is not ready any more serve nobody.
    async fn mark_pods_not_ready(&self, node: &str, now: Timestamp) -> Result<(), Error> {
        for pod in self.on_node.get(node) {
            let Some(ready) = pods::condition(&pod, "Ready").filter(|c| c.status != "False") else {
                continue;
            };
            let key = ObjectKey::of(&*pod);
            let next = PodCondition {
                status: "False".into(),
                last_transition_time: Some(whole_seconds(now)),
                ..ready.clone()
            };
            let patch = json!({"metadata": {"uid": pod.metadata.uid}, "status": {"conditions": [next]}});
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
            let patched =
                api.patch_status(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
            unless_gone(patched).map_err(Error::at("mark a pod as not ready"))?;
            self.recorder.named("node-controller").warning(&*pod, "NodeNotReady", "Node is not ready");
        }
        Ok(())
    }

    fn all_unwell(&self) -> bool {
        !self.nodes.list().iter().any(|n| condition(n, "Ready").is_some_and(|c| c.status == "True"))
    }
}

fn condition<'a>(node: &'a Node, ty: &str) -> Option<&'a NodeCondition> {
    node.status.as_ref()?.conditions.as_ref()?.iter().find(|c| c.type_ == ty)
}

impl Controller for NodeLifecycle {
    const NAME: &'static str = "node-lifecycle-controller";

    fn wake_on(&self, wakes: &mut Wakes) {
        wakes.own(&self.nodes);
        wakes.reads(&self.leases);
        wakes.reads(&self.pods);
        let (queue, nodes, period) = (wakes.queue(), self.nodes.clone(), self.period);
        // Silence makes no event.
        wakes.beside(async move {
            let mut ticks = tokio::time::interval(period);
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            loop {
                ticks.tick().await;
                for node in nodes.list() {
                    queue.add(ObjectKey::of(&*node));
                }
            }
        });
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(node) = self.nodes.get(&key) else {
            self.health().remove(&key.name);
            return Ok(Next::Rest);
        };
        let grace = if condition(&node, "Ready").is_some() { self.grace } else { self.startup_grace };
        let silent = self.silence(&node) > grace;
        let now = Timestamp::now();
        let api: Api<Node> = Api::all(self.client.clone());
        let mut node = node;
        if silent && let Some(next) = silenced(&node, now) {
            tracing::info!(node = key.name, "node fell silent");
            let written = api.replace_status(&key.name, &PostParams::default(), &next).await;
            let Some(written) = unless_gone(written).map_err(Error::at("write the node's conditions"))?
            else {
                return Ok(Next::Rest);
            };
            node = Arc::new(written);
        }
        let ready = condition(&node, "Ready").map_or("Unknown", |c| &*c.status);
        if ready != "True" && condition(&node, "Ready").is_some() {
            self.mark_pods_not_ready(&key.name, now).await?;
        }
        let before = node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
        let after = taints(&node, &before, self.all_unwell(), now);
        if after != before {
            let evicts =
                |taints: &[Taint]| taints.iter().any(|t| t.effect == "NoExecute" && is_ready_taint(&t.key));
            if evicts(&after) && !evicts(&before) {
                let text = format!("Node {} status is now: NodeNotReady", key.name);
                self.recorder.normal(&*node, "NodeNotReady", text);
            }
            let patch = json!({
                "metadata": {"uid": node.metadata.uid, "resourceVersion": node.metadata.resource_version},
                "spec": {"taints": after},
            });
            let patched = api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch)).await;
            unless_gone(patched).map_err(Error::at("write the node's taints"))?;
            tracing::debug!(node = key.name, taints = ?after.iter().map(|t| &t.key).collect::<Vec<_>>(), "node tainted");
        }
        Ok(Next::Rest)
    }
}

/// The Node with all that its kubelet reports set to Unknown; `None` when it is so already.
fn silenced(node: &Node, now: Timestamp) -> Option<Node> {
    let mut next = node.clone();
    let created = node.metadata.creation_timestamp.clone();
    let conditions = next.status.get_or_insert_default().conditions.get_or_insert_default();
    for ty in REPORTED {
        match conditions.iter_mut().find(|c| c.type_ == ty) {
            None => conditions.push(NodeCondition {
                type_: ty.into(),
                status: "Unknown".into(),
                reason: Some("NodeStatusNeverUpdated".into()),
                message: Some("Kubelet never posted node status.".into()),
                last_heartbeat_time: created.clone(),
                last_transition_time: Some(whole_seconds(now)),
            }),
            Some(c) if c.status != "Unknown" => {
                c.status = "Unknown".into();
                c.reason = Some("NodeStatusUnknown".into());
                c.message = Some("Kubelet stopped posting node status.".into());
                c.last_transition_time = Some(whole_seconds(now));
            }
            Some(_) => {}
        }
    }
    (next != *node).then_some(next)
}

fn is_ready_taint(key: &str) -> bool {
    key == NOT_READY || key == UNREACHABLE
}

/// The Node's taints as its conditions want them; others' taints stay as they are.
fn taints(node: &Node, before: &[Taint], all_unwell: bool, now: Timestamp) -> Vec<Taint> {
    let is = |ty: &str, value: &str| condition(node, ty).is_some_and(|c| c.status == value);
    let mut wanted: Vec<(&str, &str)> = CONDITION_TAINTS
        .iter()
        .filter(|(ty, value, _)| is(ty, value))
        .map(|(_, _, key)| (*key, "NoSchedule"))
        .collect();
    if node.spec.as_ref().and_then(|s| s.unschedulable).unwrap_or(false) {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    if !all_unwell {
        if is("Ready", "False") {
            wanted.push((NOT_READY, "NoExecute"));
        }
        if is("Ready", "Unknown") {
            wanted.push((UNREACHABLE, "NoExecute"));
        }
    }
    let ours = |taint: &Taint| match &*taint.effect {
        "NoSchedule" => {
            taint.key == UNSCHEDULABLE || CONDITION_TAINTS.iter().any(|(_, _, key)| taint.key == *key)
        }
        "NoExecute" => is_ready_taint(&taint.key),
        _ => false,
    };
    // Before the first condition nobody knows; admission's own taint stays.
    if condition(node, "Ready").is_none() {
        wanted.extend(
            before
                .iter()
                .filter(|t| t.key == NOT_READY && t.effect == "NoSchedule")
                .map(|_| (NOT_READY, "NoSchedule")),
        );
    }
    let is_wanted =
        |taint: &Taint| wanted.iter().any(|(key, effect)| taint.key == *key && taint.effect == *effect);
    let mut after: Vec<Taint> = before.iter().filter(|t| !ours(t) || is_wanted(t)).cloned().collect();
    for (key, effect) in wanted {
        if !after.iter().any(|t| t.key == key && t.effect == effect) {
            after.push(Taint {
                key: key.into(),
                effect: effect.into(),
                value: None,
                time_added: Some(whole_seconds(now)),
            });
        }
    }
    after
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(conditions: &[(&str, &str)]) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": "n", "creationTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"conditions": conditions.iter().map(|(t, s)| json!({"type": t, "status": s})).collect::<Vec<_>>()}}))
        .unwrap()
    }

    fn taint(text: &str) -> Taint {
        let (key, effect) = text.split_once(':').unwrap();
        Taint { key: key.into(), effect: effect.into(), ..Taint::default() }
    }

    #[test]
    fn taints_follow_conditions_and_leave_others_alone() {
        let not_ready = "node.kubernetes.io/not-ready";
        // conditions, all unwell, taints before, taints after
        for (conditions, all_unwell, before, after) in [
            (&[("Ready", "True")][..], false, &[][..], &[][..]),
            (
                &[("Ready", "True")],
                false,
                &["node.kubernetes.io/not-ready:NoSchedule", "mine:NoSchedule"],
                &["mine:NoSchedule"],
            ),
            (
                &[("Ready", "False")],
                false,
                &[],
                &["node.kubernetes.io/not-ready:NoSchedule", "node.kubernetes.io/not-ready:NoExecute"],
            ),
            (&[("Ready", "False")], true, &[], &["node.kubernetes.io/not-ready:NoSchedule"]),
            (
                &[("Ready", "Unknown")],
                false,
                &["node.kubernetes.io/not-ready:NoExecute"],
                &["node.kubernetes.io/unreachable:NoSchedule", "node.kubernetes.io/unreachable:NoExecute"],
            ),
            (
                &[("Ready", "True"), ("DiskPressure", "True"), ("PIDPressure", "False")],
                false,
                &[],
                &["node.kubernetes.io/disk-pressure:NoSchedule"],
            ),
            (
                &[],
                true,
                &["node.kubernetes.io/not-ready:NoSchedule"],
                &["node.kubernetes.io/not-ready:NoSchedule"],
            ),
        ] {
            let before: Vec<_> = before.iter().map(|t| taint(t)).collect();
            let seen = taints(&node(conditions), &before, all_unwell, Timestamp::UNIX_EPOCH);
            let seen: Vec<_> = seen.iter().map(|t| format!("{}:{}", t.key, t.effect)).collect();
            assert_eq!(seen, after, "{conditions:?} {all_unwell} {not_ready}");
        }
    }

    #[test]
    fn a_cordoned_node_is_tainted() {
        let mut n = node(&[("Ready", "True")]);
        n.spec.get_or_insert_default().unschedulable = Some(true);
        assert_eq!(taints(&n, &[], false, Timestamp::UNIX_EPOCH)[0].key, UNSCHEDULABLE);
    }

    #[test]
    fn silence_makes_conditions_unknown_once() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let next = silenced(&node(&[("Ready", "True"), ("NetworkUnavailable", "False")]), now).unwrap();
        let reason =
            |ty| condition(&next, ty).map(|c| (c.status.as_str(), c.reason.as_deref().unwrap_or("")));
        assert_eq!(reason("Ready"), Some(("Unknown", "NodeStatusUnknown")));
        assert_eq!(reason("DiskPressure"), Some(("Unknown", "NodeStatusNeverUpdated")));
        assert_eq!(reason("NetworkUnavailable"), Some(("False", "")));
        assert!(silenced(&next, now).is_none());
    }
}
