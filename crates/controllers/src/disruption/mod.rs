//! Counts for each PodDisruptionBudget how many of its pods may be evicted now.
//! Watches: PodDisruptionBudget (by key), Pod (by the budgets that select it); reads ReplicationControllers, ReplicaSets,
//! Deployments, StatefulSets, and the scale of all other owners.  Writes: PodDisruptionBudget/status; Pod/status, where an
//! eviction came to nothing.
//! Invariants: a budget that cannot be counted allows nothing; a pod whose eviction was granted counts as gone for two
//! minutes.
mod plan;
mod scale;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use client::{Cache, ObjectKey, Recorder};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use machinery::label_selector::LabelSelector;
use serde_json::json;

use crate::context::Context;
use crate::framework::{Controller, Error, Next, Wakes, unless_gone};
use crate::ownership::controller_of;
use crate::pods::{self, whole_seconds};
use plan::{Counted, Seen};
use scale::Scales;

/// Before the name of a pod whose condition `DisruptionTarget` may have come to nothing; no budget's name has a slash.
const POD: &str = "pod/";

/// See the module.
pub struct DisruptionController {
    client: Client,
    recorder: Recorder,
    budgets: Cache<PodDisruptionBudget>,
    pods: Cache<Pod>,
    scales: Scales,
}

impl DisruptionController {
    /// Built from the shared parts.
    pub fn new(context: &Context) -> Self {
        Self {
            client: context.client.clone(),
            recorder: context.recorder.named("controllermanager"),
            budgets: context.informers.cache(),
            pods: context.pods.cache.clone(),
            scales: Scales::new(context),
        }
    }

    /// How many pods the owners of these want, and the pods without one.
    async fn expected(&self, pods: &[Arc<Pod>]) -> Result<(i32, Vec<String>), String> {
        let mut wanted: BTreeMap<String, i32> = BTreeMap::new();
        let mut unmanaged = Vec::new();
        for pod in pods {
            let meta = &pod.metadata;
            let Some(owner) = controller_of(meta) else {
                unmanaged.push(meta.name.clone().unwrap_or_default());
                continue;
            };
            if wanted.contains_key(&owner.uid) {
                continue;
            }
            let namespace = meta.namespace.as_deref().unwrap_or("");
            let Some((uid, replicas)) = self.scales.of(owner, namespace).await? else {
                return Err(format!("found no controllers for pod {:?}", meta.name.as_deref().unwrap_or("")));
            };
            wanted.insert(uid, replicas);
        }
        Ok((wanted.values().fold(0, |sum, n| sum.saturating_add(*n)), unmanaged))
    }

    async fn count(&self, budget: &PodDisruptionBudget, pods: &[Arc<Pod>]) -> Result<Counted, String> {
        if plan::needs_scale(budget) {
            let (expected, unmanaged) = self.expected(pods).await.inspect_err(|why| {
                let text = format!("Failed to calculate the number of expected pods: {why}");
                self.recorder.warning(budget, "CalculateExpectedPodCountFailed", text);
            })?;
            if !unmanaged.is_empty() {
                let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
                let selector = selector.and_then(|s| LabelSelector::from_typed(s).ok());
                let text = format!(
                    "Pods selected by this PodDisruptionBudget (selector: {}) were found to be unmanaged. As a result, the \
                     status of the PDB cannot be calculated correctly, which may result in undefined behavior. To account \
                     for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.",
                    selector.map(|s| s.to_string()).unwrap_or_default()
                );
                self.recorder.warning(budget, "UnmanagedPods", text);
            }
            return Ok(plan::counted(budget, expected));
        }
        Ok(plan::counted(budget, i32::try_from(pods.len()).unwrap_or(i32::MAX)))
    }

    async fn look_at_budget(&self, key: &ObjectKey) -> Result<Next, Error> {
        let Some(budget) = self.budgets.get(key) else { return Ok(Next::Rest) };
        let selector = selector(&budget);
        let mut pods = self.pods.list_in(&key.namespace);
        pods.retain(|pod| selector.matches_optional(pod.metadata.labels.as_ref()));
        if pods.is_empty() {
            self.recorder.normal(&*budget, "NoPods", "No matching pods found");
        }
        let now = Timestamp::now();
        let counted = self.count(&budget, &pods).await;
        let plan = plan::plan(&Seen { budget: &budget, pods: &pods, counted }, now);
        for name in &plan.not_deleted {
            let Some(pod) = pods.iter().find(|p| p.metadata.name.as_ref() == Some(name)) else { continue };
            let text = format!("Pod was expected by PDB {0}/{0} to be deleted but it wasn't", key.namespace);
            self.recorder.warning(&**pod, "NotDeleted", text);
        }
        if let Some(status) = plan.status {
            let mut next = (*budget).clone();
            next.status = Some(status);
            let api: Api<PodDisruptionBudget> = Api::namespaced(self.client.clone(), &key.namespace);
            let written = api.replace_status(&key.name, &PostParams::default(), &next).await;
            unless_gone(written).map_err(Error::at("write the status"))?;
        }
        Ok(plan.next)
    }

    /// An eviction that was granted and came to nothing is over.
    async fn look_at_pod(&self, namespace: &str, name: &str) -> Result<Next, Error> {
        let Some(pod) = self.pods.get(&ObjectKey::new(namespace, name)) else { return Ok(Next::Rest) };
        let now = Timestamp::now();
        match plan::until_stale(&pod, now) {
            None => return Ok(Next::Rest),
            Some(left) if !left.is_zero() => return Ok(Next::After(left)),
            Some(_) => {}
        }
        let patch = json!({
            "metadata": {"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version},
            "status": {"conditions": [{
                "type": "DisruptionTarget",
                "status": "False",
                "lastTransitionTime": whole_seconds(now),
                "reason": null,
                "message": null,
            }]},
        });
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let patched = api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        unless_gone(patched).map_err(Error::at("take back a condition"))?;
        Ok(Next::Rest)
    }
}

/// Without a selector a budget has no pods.
fn selector(budget: &PodDisruptionBudget) -> LabelSelector {
    let given = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
    given.and_then(|s| LabelSelector::from_typed(s).ok()).unwrap_or_else(LabelSelector::nothing)
}

impl Controller for DisruptionController {
    const NAME: &'static str = "disruption-controller";

    fn wake_on(&self, wakes: &mut Wakes) {
        wakes.own(&self.budgets);
        self.scales.read_by(wakes);
        let budgets = self.budgets.clone();
        wakes.on(&self.pods, move |change| {
            let metas: Vec<&ObjectMeta> = change.old.iter().chain(&change.new).map(|p| &p.metadata).collect();
            let selects = |budget: &PodDisruptionBudget| {
                let selector = selector(budget);
                metas.iter().any(|meta| selector.matches_optional(meta.labels.as_ref()))
            };
            let near = budgets.list_in(&change.key.namespace).into_iter().filter(|b| selects(b));
            let mut keys: Vec<ObjectKey> = near.map(|b| ObjectKey::of(&*b)).collect();
            if change.new.as_ref().is_some_and(|pod| pods::condition(pod, "DisruptionTarget").is_some()) {
                keys.push(ObjectKey::new(change.key.namespace.clone(), format!("{POD}{}", change.key.name)));
            }
            keys
        });
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        match key.name.strip_prefix(POD) {
            Some(pod) => self.look_at_pod(&key.namespace, pod).await,
            None => self.look_at_budget(&key).await,
        }
    }
}
