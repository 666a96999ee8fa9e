//! What the scheduler writes: bindings, conditions of pods, evictions.
use std::time::Duration;

use client::{Cache, EventType, ObjectKey, Recorder, reference};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Binding, ObjectReference, PersistentVolume, PersistentVolumeClaim, Pod, PodCondition,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Status, Time};
use kube::api::{DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::pod::PodInfo;
use crate::preemption::Eviction;
use crate::scheduler::scheduler_of;
use crate::volumes::{Steps, is_bound};

/// How long a volume may take to be made.
const VOLUME_PATIENCE: Duration = Duration::from_secs(600);
/// Tells a provisioner which node a claim is for.
const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// Why a pod is not bound.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The server refused, or did not answer.
    #[error("running Bind plugin \"DefaultBinder\": {0}")]
    Api(#[from] kube::Error),
    /// A volume could not be had.
    #[error("running PreBind plugin \"VolumeBinding\": {0}")]
    Volume(String),
}

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
    claims: Cache<PersistentVolumeClaim>,
}

impl Writer {
    /// Events go out under the name of the pod's scheduler.
    pub fn new(client: Client, recorder: Recorder, claims: Cache<PersistentVolumeClaim>) -> Self {
        Self { client, recorder, claims }
    }

    fn recorder_of(&self, pod: &PodInfo) -> Recorder {
        self.recorder.named(scheduler_of(&pod.pod))
    }

    fn pods(&self, namespace: &str) -> Api<Pod> {
        Api::namespaced(self.client.clone(), namespace)
    }

    /// Gets the pod its volumes, then assigns it to a node.
    pub async fn bind(&self, pod: &PodInfo, node: &str, steps: &Steps) -> Result<(), BindError> {
        self.prepare_volumes(node, steps).await?;
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
        self.recorder_of(pod).normal(
            &*pod.pod,
            "Scheduled",
            format!("Successfully assigned {namespace}/{name} to {node}"),
        );
        Ok(())
    }

    async fn prepare_volumes(&self, node: &str, steps: &Steps) -> Result<(), BindError> {
        let volume_error = |e: kube::Error| BindError::Volume(e.to_string());
        let volumes: Api<PersistentVolume> = Api::all(self.client.clone());
        let mut waiting: Vec<ObjectKey> = steps.provision.clone();
        for (volume, claim) in &steps.give {
            let mut volume = PersistentVolume::clone(volume);
            // Carries the resourceVersion that was read: of two claims one gets a conflict.
            let mut reference = reference(&**claim);
            reference.resource_version = None;
            volume.spec.get_or_insert_default().claim_ref = Some(reference);
            let name = volume.metadata.name.clone().unwrap_or_default();
            volumes.replace(&name, &PostParams::default(), &volume).await.map_err(volume_error)?;
            waiting.push(ObjectKey::of(&**claim));
        }
        for key in &steps.provision {
            let api: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
            let patch = json!({ "metadata": { "annotations": { SELECTED_NODE: node } } });
            api.patch(&key.name, &PatchParams::default(), &Patch::Merge(patch))
                .await
                .map_err(volume_error)?;
        }
        if waiting.is_empty() {
            return Ok(());
        }
        let mut changes = self.claims.changes();
        let all_bound = async {
            let bound = |key: &ObjectKey| self.claims.get(key).is_some_and(|c| is_bound(&c));
            while !waiting.iter().all(bound) {
                changes.next().await;
            }
        };
        tokio::time::timeout(VOLUME_PATIENCE, all_bound)
            .await
            .map_err(|_| BindError::Volume("binding volumes: context deadline exceeded".into()))
    }

    /// Tells user and pod why it was not scheduled. Writes only what is not there yet.
    pub async fn report(&self, pod: &PodInfo, failure: &Failure) -> Result<(), kube::Error> {
        self.recorder_of(pod).warning(&*pod.pod, "FailedScheduling", failure.message.clone());
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
            self.recorder_of(preemptor).event(
                &reference(&*victim.pod),
                EventType::Normal,
                "Preempted",
                message,
            );
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
