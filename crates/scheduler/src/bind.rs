//! What the scheduler writes: bindings, conditions of pods, evictions.
use client::{EventType, Recorder, reference};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Binding, ObjectReference, Pod, PodCondition};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status, Time};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::pod::PodInfo;
use crate::preemption::Eviction;

/// Why a pod was not scheduled.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Reason of the condition: `Unschedulable` or `SchedulerError`.
    pub reason: &'static str,
    /// What users read.
    pub message: String,
    /// The node that is kept free for the pod, where that changes.
    pub nominated: Option<String>,
}

/// Writes in the name of the scheduler; clones share everything.
#[derive(Clone)]
pub struct Writer {
    client: Client,
    recorder: Recorder,
}

impl Writer {
    /// `recorder` carries the scheduler's name.
    pub fn new(client: Client, recorder: Recorder) -> Self {
        Self { client, recorder }
    }

    fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Assigns a pod to a node.
    pub async fn bind(&self, pod: &PodInfo, node: &str) -> Result<(), kube::Error> {
        let (namespace, name) = (&pod.key.namespace, &pod.key.name);
        let binding = Binding {
            metadata: ObjectMeta {
                name: Some(name.clone()),
                namespace: Some(namespace.clone()),
                uid: Some(pod.uid.clone()),
                ..ObjectMeta::default()
            },
            target: ObjectReference {
                kind: Some("Node".into()),
                name: Some(node.to_owned()),
                ..ObjectReference::default()
            },
        };
        let params = PostParams::default();
        let _: Status = self.pods(namespace).create_subresource("binding", name, &params, &binding).await?;
        self.recorder.normal(
            &*pod.pod,
            "Scheduled",
            format!("Successfully assigned {namespace}/{name} to {node}"),
        );
        Ok(())
    }

    /// Tells user and pod why it was not scheduled. Writes only what is not there yet.
    pub async fn report(&self, pod: &PodInfo, failure: &Failure) -> Result<(), kube::Error> {
        self.recorder.warning(&*pod.pod, "FailedScheduling", failure.message.clone());
        let Some(patch) = status_patch(&pod.pod, failure, Timestamp::now()) else { return Ok(()) };
        let patch = Patch::Strategic(patch);
        let api = self.pods(&pod.key.namespace);
        unless_gone(api.patch_status(&pod.key.name, &PatchParams::default(), &patch).await)
    }

    /// Sends away the victims of a preemption.
    pub async fn evict(&self, preemptor: &PodInfo, eviction: &Eviction) -> Result<(), kube::Error> {
        let scheduler = preemptor.spec().and_then(|s| s.scheduler_name.as_deref()).unwrap_or("");
        for victim in &eviction.victims {
            let api = self.pods(&victim.key.namespace);
            let name = &victim.key.name;
            let condition = PodCondition {
                type_: "DisruptionTarget".into(),
                status: "True".into(),
                reason: Some("PreemptionByScheduler".into()),
                message: Some(format!("{scheduler}: preempting to accommodate a higher priority pod")),
                observed_generation: victim.pod.metadata.generation,
                last_transition_time: Some(Time(now())),
                ..PodCondition::default()
            };
            let patch = json!({
                "metadata": { "uid": victim.uid },
                "status": { "conditions": [condition] },
            });
            let params = PatchParams::default();
            unless_gone(api.patch_status(name, &params, &Patch::Strategic(patch)).await)?;
            let uid = Some(victim.uid.clone());
            let params = DeleteParams {
                preconditions: Some(Preconditions { uid, resource_version: None }),
                ..DeleteParams::default()
            };
            unless_gone(api.delete(name, &params).await)?;
            tracing::info!(victim = %victim.key, node = eviction.node, preemptor = %preemptor.key, "pod preempted");
            let message = format!("Preempted by pod {} on node {}", preemptor.uid, eviction.node);
            self.recorder.event(&reference(&*victim.pod), EventType::Normal, "Preempted", message);
        }
        Ok(())
    }
}

fn now() -> Timestamp {
    let now = Timestamp::now();
    Timestamp::from_second(now.as_second()).unwrap_or(now)
}

/// Takes for done what was done to an object that is gone.
fn unless_gone<T>(result: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
        Err(error) => Err(error),
    }
}

/// What to write to a pod's status; `None`: it says so already.
fn status_patch(pod: &Pod, failure: &Failure, now: Timestamp) -> Option<Value> {
    let status = pod.status.as_ref();
    let old =
        status.and_then(|s| s.conditions.as_ref()).and_then(|c| c.iter().find(|c| c.type_ == "PodScheduled"));
    let same = old.is_some_and(|c| {
        c.status == "False"
            && c.reason.as_deref() == Some(failure.reason)
            && c.message.as_deref() == Some(&failure.message)
    });
    let had = status.and_then(|s| s.nominated_node_name.as_deref()).unwrap_or("");
    let nominates = failure.nominated.as_deref().filter(|n| *n != had);
    if same && nominates.is_none() {
        return None;
    }
    let since = old.filter(|c| c.status == "False").and_then(|c| c.last_transition_time.clone());
    let second = Timestamp::from_second(now.as_second()).unwrap_or(now);
    let mut patch = json!({ "metadata": { "uid": pod.metadata.uid }, "status": {} });
    if !same {
        let mut condition = json!({
            "type": "PodScheduled",
            "status": "False",
            "reason": failure.reason,
            "message": failure.message,
            "lastProbeTime": null,
            "lastTransitionTime": since.unwrap_or(Time(second)),
        });
        if let Some(generation) = pod.metadata.generation {
            condition["observedGeneration"] = generation.into();
        }
        patch["status"]["conditions"] = json!([condition]);
    }
    if let Some(node) = nominates {
        patch["status"]["nominatedNodeName"] = if node.is_empty() { Value::Null } else { node.into() };
    }
    Some(patch)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(message: &str, nominated: Option<&str>) -> Failure {
        Failure { reason: "Unschedulable", message: message.into(), nominated: nominated.map(Into::into) }
    }

    #[test]
    fn writes_only_what_changed() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"uid": "u", "generation": 1},
            "status": {"nominatedNodeName": "a", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "m", "lastTransitionTime": "2026-01-01T00:00:00Z"}]},
        }))
        .expect("a pod");
        let now: Timestamp = "2026-02-02T00:00:00.5Z".parse().expect("a time");
        assert_eq!(status_patch(&pod, &failure("m", None), now), None);
        assert_eq!(status_patch(&pod, &failure("m", Some("a")), now), None);
        let patch = status_patch(&pod, &failure("n", None), now).expect("a new message");
        let condition = &patch["status"]["conditions"][0];
        assert_eq!(condition["lastTransitionTime"], "2026-01-01T00:00:00Z", "it was false before");
        assert_eq!((&condition["message"], &condition["observedGeneration"]), (&json!("n"), &json!(1)));
        let patch = status_patch(&pod, &failure("m", Some("")), now).expect("the nomination ends");
        assert_eq!(patch["status"], json!({"nominatedNodeName": null}));
        let fresh = status_patch(&Pod::default(), &failure("m", None), now).expect("nothing was there");
        assert_eq!(fresh["status"]["conditions"][0]["lastTransitionTime"], "2026-02-02T00:00:00Z");
    }
}
