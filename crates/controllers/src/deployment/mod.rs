//! Rolls a Deployment's template out over ReplicaSets, one for each template it ever had.
//! Watches: Deployment (by key), ReplicaSet (by controller owner, or by labels), Pod gone (Recreate).
//! Writes: ReplicaSet create/scale/annotate/adopt/release/delete, Deployment/status and its revision annotation.
//! Invariants: never more than replicas + maxSurge pods wanted, never fewer than replicas - maxUnavailable available
//! by its own doing; a template's ReplicaSet is made once.
mod revision;
mod rollout;
mod scale;
mod status;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use client::{Cache, ObjectKey, Recorder};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};
use machinery::label_selector::LabelSelector;

use crate::context::{Context, PodsByController};
use crate::framework::{
    Controller, Error, Next, Wakes, code, is_namespace_terminating, message, unless_gone,
};
use crate::ownership::{claim_all, controller_of};
use crate::pods;
use rollout::{Plan, Seen, plan};
pub use scale::resolve;

/// See the module.
pub struct DeploymentController {
    client: Client,
    recorder: Recorder,
    deployments: Cache<Deployment>,
    sets: Cache<ReplicaSet>,
    pods: PodsByController,
}

impl DeploymentController {
    /// Built from the shared parts.
    pub fn new(context: &Context) -> Self {
        Self {
            client: context.client.clone(),
            recorder: context.recorder.named("deployment-controller"),
            deployments: context.informers.cache(),
            sets: context.informers.cache(),
            pods: context.pods.clone(),
        }
    }

    async fn observe(&self, deployment: Arc<Deployment>, selector: &LabelSelector) -> Result<Seen, Error> {
        let namespace = deployment.metadata.namespace.as_deref().unwrap_or("");
        let uid = deployment.metadata.uid.as_deref();
        let ours =
            |set: &Arc<ReplicaSet>| controller_of(&set.metadata).is_none_or(|owner| Some(&*owner.uid) == uid);
        let candidates = self.sets.list_in(namespace).into_iter().filter(ours).collect();
        let sets = claim_all(&self.client, &*deployment, selector, candidates, &[]).await?;
        let sets: Vec<ReplicaSet> = sets.iter().map(|s| (**s).clone()).collect();
        let new_set = revision::find_new(&deployment, &sets).map(|s| s.metadata.uid.clone());
        let old_pods_running = sets.iter().filter(|s| Some(&s.metadata.uid) != new_set.as_ref()).any(|set| {
            let pods = self.pods.of(set.metadata.uid.as_deref().unwrap_or(""));
            pods.iter().any(|p| !pods::is_terminal(p))
        });
        Ok(Seen { deployment: (*deployment).clone(), sets, old_pods_running })
    }

    async fn apply(&self, key: &ObjectKey, seen: &Seen, plan: Plan) -> Result<Next, Error> {
        let sets: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &key.namespace);
        let mut deployment = seen.deployment.clone();
        if let Some(new) = &plan.create {
            match self.create(&sets, &deployment, new).await? {
                Created::Made | Created::Found => {}
                Created::Collision => {
                    let status = deployment.status.get_or_insert_default();
                    let count = status.collision_count.unwrap_or(0) + 1;
                    status.collision_count = Some(count);
                    self.write_status(&deployment).await?;
                    return Err(Error::Unfinished(format!("name collision {count} of a replica set")));
                }
                Created::Refused(error) => {
                    let name = new.metadata.name.as_deref().unwrap_or("");
                    let text = format!("Failed to create new replica set {name:?}: {}", message(&error));
                    self.recorder.warning(&deployment, "ReplicaSetCreateError", text.clone());
                    if status::has_deadline(&deployment) {
                        let conditions = &mut deployment.status.get_or_insert_default().conditions;
                        let failed = status::condition(
                            "Progressing",
                            "False",
                            "ReplicaSetCreateError",
                            text,
                            Timestamp::now(),
                        );
                        status::set(conditions, failed);
                        self.write_status(&deployment).await?;
                    }
                    return Err(Error::at("create a replica set")(error));
                }
            }
        }
        for set in &plan.update {
            let name = set.metadata.name.as_deref().unwrap_or("");
            // Carries the resourceVersion seen: two decisions on the same state cannot add up.
            sets.replace(name, &PostParams::default(), set)
                .await
                .map_err(Error::at("update a replica set"))?;
        }
        for text in plan.events {
            tracing::debug!(text, "scaled");
            self.recorder.normal(&deployment, "ScalingReplicaSet", text);
        }
        for set in &plan.delete {
            let name = set.metadata.name.as_deref().unwrap_or("");
            let same = Preconditions { uid: set.metadata.uid.clone(), resource_version: None };
            let deleted = sets.delete(name, &DeleteParams::default().preconditions(same)).await;
            unless_gone(deleted).map_err(Error::at("delete an old replica set"))?;
        }
        if plan.deployment.status != deployment.status
            || plan.deployment.metadata.annotations != deployment.metadata.annotations
        {
            self.write_status(&plan.deployment).await?;
        }
        Ok(plan.next)
    }

    async fn create(
        &self,
        api: &Api<ReplicaSet>,
        owner: &Deployment,
        set: &ReplicaSet,
    ) -> Result<Created, Error> {
        match api.create(&PostParams::default(), set).await {
            Ok(_) => Ok(Created::Made),
            Err(error) if code(&error) == 409 => {
                let name = set.metadata.name.as_deref().unwrap_or("");
                let live = api.get_opt(name).await.map_err(Error::at("read a replica set"))?;
                let same = live.is_some_and(|live| {
                    controller_of(&live.metadata).is_some_and(|c| Some(&c.uid) == owner.metadata.uid.as_ref())
                        && revision::same_template(owner, &live)
                });
                Ok(if same { Created::Found } else { Created::Collision })
            }
            Err(error) if is_namespace_terminating(&error) => Err(Error::at("create a replica set")(error)),
            Err(error) => Ok(Created::Refused(error)),
        }
    }

    /// Status and annotations in one write, as upstream's UpdateStatus.
    async fn write_status(&self, deployment: &Deployment) -> Result<(), Error> {
        let key = ObjectKey::of(deployment);
        let api: Api<Deployment> = Api::namespaced(self.client.clone(), &key.namespace);
        let written = api.replace_status(&key.name, &PostParams::default(), deployment).await;
        unless_gone(written).map_err(Error::at("write the status"))?;
        Ok(())
    }
}

enum Created {
    Made,
    /// By an earlier try of ours.
    Found,
    /// Something else has that name.
    Collision,
    Refused(kube::Error),
}

impl Controller for DeploymentController {
    const NAME: &'static str = "deployment-controller";

    fn wake_on(&self, wakes: &mut Wakes) {
        wakes.own(&self.deployments);
        wakes.owner_of(&self.sets, "Deployment");
        let deployments = self.deployments.clone();
        wakes.on(&self.sets, move |change| {
            let Some(set) = change.new.as_ref().filter(|s| controller_of(&s.metadata).is_none()) else {
                return Vec::new();
            };
            let adopts = |deployment: &Arc<Deployment>| {
                let selector = LabelSelector::from_typed(&deployment.spec.as_ref()?.selector).ok()?;
                (!selector.is_empty() && selector.matches_optional(set.metadata.labels.as_ref()))
                    .then(|| ObjectKey::of(&**deployment))
            };
            deployments.list_in(&change.key.namespace).iter().filter_map(adopts).collect()
        });
        // Recreate goes on when the last old pod is gone.
        let (deployments, sets) = (self.deployments.clone(), self.sets.clone());
        wakes.on(&self.pods.cache, move |change| {
            let ended = change.new.as_ref().is_none_or(|p| pods::is_terminal(p));
            let owner = change.object().filter(|_| ended).and_then(|pod: &Arc<Pod>| {
                let set = controller_of(&pod.metadata).filter(|o| o.kind == "ReplicaSet")?;
                let set = sets.get(&ObjectKey::new(change.key.namespace.clone(), set.name.clone()))?;
                let deployment = controller_of(&set.metadata).filter(|o| o.kind == "Deployment")?;
                let key = ObjectKey::new(change.key.namespace.clone(), deployment.name.clone());
                deployments.get(&key).filter(|d| scale::is_recreate(d)).map(|_| key)
            });
            owner.into_iter().collect()
        });
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(deployment) = self.deployments.get(&key) else { return Ok(Next::Rest) };
        let Some(spec) = &deployment.spec else { return Ok(Next::Rest) };
        let selector = LabelSelector::from_typed(&spec.selector).map_err(Error::Unfinished)?;
        if selector.is_empty() {
            let text = "This deployment is selecting all pods. A non-empty selector is required.";
            self.recorder.warning(&*deployment, "SelectingAll", text);
            let observed = deployment.status.as_ref().and_then(|s| s.observed_generation);
            if observed < deployment.metadata.generation {
                let mut next = (*deployment).clone();
                next.status.get_or_insert_default().observed_generation = deployment.metadata.generation;
                self.write_status(&next).await?;
            }
            return Ok(Next::Rest);
        }
        let seen = self.observe(deployment, &selector).await?;
        let plan = plan(&seen, Timestamp::now());
        self.apply(&key, &seen, plan).await
    }
}
