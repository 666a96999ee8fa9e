//! Keeps a ReplicationController's live pod count equal to `spec.replicas`: a ReplicaSet of the old kind, decided by the
//! same plan.
//! Watches: ReplicationController (by key), Pod (by controller owner, or by labels where it has none).
//! Writes: Pod create/delete/adopt/release, ReplicationController/status.
//! Invariants: those of ReplicaSets.
use std::collections::HashMap;

use client::{Cache, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetSpec, ReplicaSetStatus};
use k8s_openapi::api::core::v1::{
    ReplicationController, ReplicationControllerCondition, ReplicationControllerStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector as Selector;
use kube::api::PostParams;
use kube::{Api, Client};
use machinery::label_selector::LabelSelector;

use crate::context::{Context, PodsByController};
use crate::framework::{Controller, Error, Next, Wakes, message, unless_gone};
use crate::ownership::{claim_all, controller_of, controller_ref};
use crate::pod_writer::{PodWriter, creation};
use crate::pods;
use crate::replica_set::{self, Plan};

/// See the module.
pub struct ReplicationControllerController {
    client: Client,
    owners: Cache<ReplicationController>,
    pods: PodsByController,
    writer: PodWriter,
}

impl ReplicationControllerController {
    /// Built from the shared parts.
    pub fn new(context: &Context) -> Self {
        let recorder = context.recorder.named("replication-controller");
        Self {
            client: context.client.clone(),
            owners: context.informers.cache(),
            pods: context.pods.clone(),
            writer: PodWriter::new(context.client.clone(), recorder),
        }
    }
}

/// The ReplicaSet that says the same.
fn as_set(owner: &ReplicationController) -> ReplicaSet {
    let spec = owner.spec.clone().unwrap_or_default();
    let status = owner.status.clone().unwrap_or_default();
    let conditions = status.conditions.map(|all| {
        let same = |c: ReplicationControllerCondition| ReplicaSetCondition {
            type_: c.type_,
            status: c.status,
            reason: c.reason,
            message: c.message,
            last_transition_time: c.last_transition_time,
        };
        all.into_iter().map(same).collect()
    });
    ReplicaSet {
        metadata: owner.metadata.clone(),
        spec: Some(ReplicaSetSpec {
            min_ready_seconds: spec.min_ready_seconds,
            replicas: spec.replicas,
            selector: Selector { match_labels: spec.selector, ..Selector::default() },
            template: spec.template,
        }),
        status: Some(ReplicaSetStatus {
            available_replicas: status.available_replicas,
            conditions,
            fully_labeled_replicas: status.fully_labeled_replicas,
            observed_generation: status.observed_generation,
            ready_replicas: status.ready_replicas,
            replicas: status.replicas,
            terminating_replicas: None,
        }),
    }
}

fn of_set(status: ReplicaSetStatus) -> ReplicationControllerStatus {
    let conditions = status.conditions.map(|all| {
        let same = |c: ReplicaSetCondition| ReplicationControllerCondition {
            type_: c.type_,
            status: c.status,
            reason: c.reason,
            message: c.message,
            last_transition_time: c.last_transition_time,
        };
        all.into_iter().map(same).collect()
    });
    ReplicationControllerStatus {
        available_replicas: status.available_replicas,
        conditions,
        fully_labeled_replicas: status.fully_labeled_replicas,
        observed_generation: status.observed_generation,
        ready_replicas: status.ready_replicas,
        replicas: status.replicas,
    }
}

/// What a controller selects; nothing, where it does not say.
fn selector(owner: &ReplicationController) -> LabelSelector {
    let labels = owner.spec.as_ref().and_then(|s| s.selector.as_ref()).filter(|labels| !labels.is_empty());
    labels.map_or_else(LabelSelector::nothing, LabelSelector::from_set)
}

impl Controller for ReplicationControllerController {
    const NAME: &'static str = "replicationcontroller-controller";

    fn wake_on(&self, wakes: &mut Wakes) {
        wakes.own(&self.owners);
        wakes.owner_of(&self.pods.cache, "ReplicationController");
        let owners = self.owners.clone();
        wakes.on(&self.pods.cache, move |change| {
            let orphan =
                change.new.as_ref().filter(|p| controller_of(&p.metadata).is_none() && pods::is_active(p));
            let Some(pod) = orphan else { return Vec::new() };
            let all = owners.list_in(&change.key.namespace).into_iter();
            let adopting = all.filter(|owner| selector(owner).matches_optional(pod.metadata.labels.as_ref()));
            adopting.map(|owner| ObjectKey::of(&*owner)).collect()
        });
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(owner) = self.owners.get(&key) else {
            self.writer.expectations.forget(&key);
            return Ok(Next::Rest);
        };
        let set = as_set(&owner);
        let selector = selector(&owner);
        let uid = owner.metadata.uid.as_deref().unwrap_or("");
        let settled = self.writer.expectations.met(&key, &self.pods.cache);
        let candidates =
            self.pods.candidates(uid, &key.namespace).into_iter().filter(|p| !pods::is_terminal(p));
        let pods = claim_all(&self.client, &*owner, &selector, candidates.collect(), &[]).await?;
        let now = Timestamp::now();

        let mut crowd: HashMap<String, usize> = HashMap::new();
        for pod in pods.iter().filter(|pod| pods::is_active(pod)) {
            *crowd.entry(pods::node_name(pod).to_owned()).or_default() += 1;
        }
        let mut failure = None;
        let mut result = Ok(());
        if settled && owner.metadata.deletion_timestamp.is_none() {
            match replica_set::plan(&set, &pods, &crowd, now) {
                Plan::Nothing => {}
                Plan::Create(count) => {
                    tracing::debug!(count, "too few replicas");
                    let template = set.spec.as_ref().and_then(|s| s.template.clone()).unwrap_or_default();
                    let pod = pods::from_template(&template, &key.name, controller_ref(&*owner));
                    let (_, failed) = self.writer.create(&*owner, vec![pod; count]).await;
                    failure = failed.as_ref().map(|e| ("FailedCreate", message(e)));
                    result = creation(failed);
                }
                Plan::Delete(surplus) => {
                    tracing::debug!(count = surplus.len(), "too many replicas");
                    let failed = self.writer.delete(&*owner, &surplus).await.err();
                    failure = failed.as_ref().map(|e| ("FailedDelete", message(e)));
                    result = failed.map_or(Ok(()), |e| Err(Error::at("delete a pod")(e)));
                }
            }
        }

        let diff = replica_set::replicas(&set) - replica_set::active(&pods).count() as i64;
        let status = of_set(replica_set::status(&set, &pods, failure.filter(|_| diff != 0), now));
        if owner.status.as_ref() != Some(&status) {
            let mut next = (*owner).clone();
            next.status = Some(status);
            let api: Api<ReplicationController> = Api::namespaced(self.client.clone(), &key.namespace);
            let written = api.replace_status(&key.name, &PostParams::default(), &next).await;
            unless_gone(written).map_err(Error::at("write the status"))?;
        }
        result?;
        let min_ready = owner.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0);
        let soonest =
            replica_set::active(&pods).filter_map(|p| pods::until_available(p, min_ready, now)).min();
        Ok(soonest.map_or(Next::Rest, Next::After))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn it_is_a_replica_set_of_the_old_kind() {
        let owner = |spec: serde_json::Value| -> ReplicationController {
            serde_json::from_value(json!({"metadata": {"name": "r", "generation": 3}, "spec": spec, "status": {"replicas": 2,
                "readyReplicas": 1, "conditions": [{"type": "ReplicaFailure", "status": "True", "reason": "FailedCreate"}]}}))
            .unwrap()
        };
        let given = owner(json!({"replicas": 2, "selector": {"a": "b"}, "minReadySeconds": 5}));
        let set = as_set(&given);
        assert_eq!(replica_set::replicas(&set), 2);
        assert_eq!(of_set(set.status.clone().unwrap()), given.status.clone().unwrap());
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        assert_eq!(replica_set::plan(&set, &[], &HashMap::new(), now), Plan::Create(2));
        let status = of_set(replica_set::status(&set, &[], None, now));
        assert_eq!((status.replicas, status.observed_generation, status.conditions), (0, Some(3), None));
        let labels = Some([("a".to_owned(), "b".to_owned())].into());
        assert!(selector(&given).matches_optional(labels.as_ref()));
        assert!(!selector(&owner(json!({"replicas": 2}))).matches_optional(labels.as_ref()));
    }
}
