//! Keeps a ReplicaSet's live pod count equal to `spec.replicas`.
//! Watches: ReplicaSet (by key), Pod (by controller owner, or by labels where it has none).
//! Writes: Pod create/delete/adopt/release, ReplicaSet/status.
//! Invariants: never deletes a pod it does not own; a stale cache can delay a create, never repeat it.
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use client::{Cache, ObjectKey};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ReplicaSet, ReplicaSetCondition, ReplicaSetStatus};
use k8s_openapi::api::core::v1::Pod;
use kube::api::PostParams;
use kube::{Api, Client};
use machinery::label_selector::LabelSelector;

use crate::context::{Context, PodsByController};
use crate::framework::{Controller, Error, Next, Wakes, message, unless_gone};
use crate::ownership::{claim_all, controller_of, controller_ref};
use crate::pod_writer::{PodWriter, creation};
use crate::pods::{self, whole_seconds};

/// No more pods than this are made or deleted in one go.
const BURST: usize = 500;

/// See the module.
pub struct ReplicaSetController {
    client: Client,
    sets: Cache<ReplicaSet>,
    pods: PodsByController,
    writer: PodWriter,
}

impl ReplicaSetController {
    /// Built from the shared parts.
    pub fn new(context: &Context) -> Self {
        Self {
            client: context.client.clone(),
            sets: context.informers.cache(),
            pods: context.pods.clone(),
            writer: PodWriter::new(context.client.clone(), context.recorder.named("replicaset-controller")),
        }
    }

    /// How many pods of the same Deployment are on each node.
    fn siblings(&self, set: &ReplicaSet, own: &[Arc<Pod>]) -> HashMap<String, usize> {
        let mut crowd = HashMap::new();
        let mut count = |pods: &[Arc<Pod>]| {
            for pod in pods.iter().filter(|p| pods::is_active(p)) {
                *crowd.entry(pods::node_name(pod).to_owned()).or_default() += 1;
            }
        };
        match controller_of(&set.metadata) {
            None => count(own),
            Some(deployment) => {
                for sibling in self.sets.owned_by(&deployment.uid) {
                    count(&self.pods.of(sibling.metadata.uid.as_deref().unwrap_or("")));
                }
            }
        }
        crowd
    }
}

impl Controller for ReplicaSetController {
    const NAME: &'static str = "replicaset-controller";

    fn wake_on(&self, wakes: &mut Wakes) {
        wakes.own(&self.sets);
        wakes.owner_of(&self.pods.cache, "ReplicaSet");
        let sets = self.sets.clone();
        wakes.on(&self.pods.cache, move |change| {
            let orphan =
                change.new.as_ref().filter(|p| controller_of(&p.metadata).is_none() && pods::is_active(p));
            let Some(pod) = orphan else { return Vec::new() };
            let adopts = |set: &Arc<ReplicaSet>| {
                let selector = LabelSelector::from_typed(&set.spec.as_ref()?.selector).ok()?;
                (!selector.is_empty() && selector.matches_optional(pod.metadata.labels.as_ref()))
                    .then(|| ObjectKey::of(&**set))
            };
            sets.list_in(&change.key.namespace).iter().filter_map(adopts).collect()
        });
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(set) = self.sets.get(&key) else {
            self.writer.expectations.forget(&key);
            return Ok(Next::Rest);
        };
        let Some(spec) = &set.spec else { return Ok(Next::Rest) };
        let selector = LabelSelector::from_typed(&spec.selector).map_err(Error::Unfinished)?;
        let uid = set.metadata.uid.as_deref().unwrap_or("");
        let settled = self.writer.expectations.met(&key, &self.pods.cache);
        let candidates =
            self.pods.candidates(uid, &key.namespace).into_iter().filter(|p| !pods::is_terminal(p));
        let pods = claim_all(&self.client, &*set, &selector, candidates.collect(), &[]).await?;
        let now = Timestamp::now();

        let mut failure = None;
        let mut result = Ok(());
        if settled && set.metadata.deletion_timestamp.is_none() {
            let crowd = self.siblings(&set, &pods);
            match plan(&set, &pods, &crowd, now) {
                Plan::Nothing => {}
                Plan::Create(count) => {
                    tracing::debug!(count, "too few replicas");
                    let template = spec.template.clone().unwrap_or_default();
                    let pod = pods::from_template(&template, &key.name, controller_ref(&*set));
                    let (_, failed) = self.writer.create(&*set, vec![pod; count]).await;
                    failure = failed.as_ref().map(|e| ("FailedCreate", message(e)));
                    result = creation(failed);
                }
                Plan::Delete(surplus) => {
                    tracing::debug!(count = surplus.len(), "too many replicas");
                    let failed = self.writer.delete(&*set, &surplus).await.err();
                    failure = failed.as_ref().map(|e| ("FailedDelete", message(e)));
                    result = failed.map_or(Ok(()), |e| Err(Error::at("delete a pod")(e)));
                }
            }
        }

        let before = set.status.clone().unwrap_or_default();
        let diff = replicas(&set) - active(&pods).count() as i64;
        let status = status(&set, &pods, failure.filter(|_| diff != 0), now);
        if status != before {
            let mut next = (*set).clone();
            next.status = Some(status);
            let api: Api<ReplicaSet> = Api::namespaced(self.client.clone(), &key.namespace);
            let written = api.replace_status(&key.name, &PostParams::default(), &next).await;
            unless_gone(written).map_err(Error::at("write the status"))?;
        }
        result?;
        let min_ready = spec.min_ready_seconds.unwrap_or(0);
        let soonest = active(&pods).filter_map(|p| pods::until_available(p, min_ready, now)).min();
        Ok(soonest.map_or(Next::Rest, Next::After))
    }
}

/// How many pods a set wants.
pub fn replicas(set: &ReplicaSet) -> i64 {
    set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1).into()
}

/// Those that count.
pub fn active(pods: &[Arc<Pod>]) -> impl Iterator<Item = &Pod> {
    pods.iter().map(|p| &**p).filter(|p| pods::is_active(p))
}

/// What to do about the pods of a set.
#[derive(Debug, PartialEq)]
pub enum Plan<'a> {
    Nothing,
    Create(usize),
    Delete(Vec<&'a Pod>),
}

/// Decides about the pods of a set.
pub fn plan<'a>(
    set: &ReplicaSet,
    pods: &'a [Arc<Pod>],
    crowd: &HashMap<String, usize>,
    now: Timestamp,
) -> Plan<'a> {
    let mut active: Vec<&Pod> = active(pods).collect();
    let want = usize::try_from(replicas(set)).unwrap_or(0);
    if active.len() < want {
        return Plan::Create((want - active.len()).min(BURST));
    }
    let surplus = (active.len() - want).min(BURST);
    if surplus == 0 {
        return Plan::Nothing;
    }
    let crowd: HashMap<&str, usize> = crowd.iter().map(|(k, v)| (k.as_str(), *v)).collect();
    active.sort_by(|a, b| pods::deletion_order(a, b, &crowd, now));
    active.truncate(surplus);
    Plan::Delete(active)
}

/// What a set's status should say.
pub fn status(
    set: &ReplicaSet,
    pods: &[Arc<Pod>],
    failure: Option<(&str, String)>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let before = set.status.clone().unwrap_or_default();
    let empty = BTreeMap::new();
    let template_labels = set
        .spec
        .as_ref()
        .and_then(|s| s.template.as_ref()?.metadata.as_ref()?.labels.as_ref())
        .unwrap_or(&empty);
    let min_ready = set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0);
    let count = |keep: &dyn Fn(&Pod) -> bool| {
        i32::try_from(active(pods).filter(|p| keep(p)).count()).unwrap_or(i32::MAX)
    };
    let some = |n: i32| (n != 0).then_some(n);
    let mut conditions = before.conditions.clone().unwrap_or_default();
    match failure {
        // Kept as it was first seen until it is over.
        Some((reason, text)) if !conditions.iter().any(|c| c.type_ == "ReplicaFailure") => {
            conditions.push(ReplicaSetCondition {
                type_: "ReplicaFailure".into(),
                status: "True".into(),
                reason: Some(reason.into()),
                message: Some(text),
                last_transition_time: Some(whole_seconds(now)),
            });
        }
        Some(_) => {}
        None => conditions.retain(|c| c.type_ != "ReplicaFailure"),
    }
    let terminating = pods.iter().filter(|p| pods::is_terminating(p) && !pods::is_terminal(p)).count();
    ReplicaSetStatus {
        replicas: count(&|_| true),
        fully_labeled_replicas: some(count(&|p| {
            template_labels
                .iter()
                .all(|(k, v)| p.metadata.labels.as_ref().is_some_and(|l| l.get(k) == Some(v)))
        })),
        ready_replicas: some(count(&pods::is_ready)),
        available_replicas: some(count(&|p| pods::is_available(p, min_ready, now))),
        terminating_replicas: i32::try_from(terminating).ok(),
        observed_generation: set.metadata.generation,
        conditions: (!conditions.is_empty()).then_some(conditions),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::ReplicaSetSpec;
    use k8s_openapi::api::core::v1::{PodCondition, PodStatus, PodTemplateSpec};
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};

    use super::*;

    fn now() -> Timestamp {
        Timestamp::from_second(1_800_000_000).unwrap()
    }

    fn set(replicas: i32) -> ReplicaSet {
        ReplicaSet {
            metadata: ObjectMeta { name: Some("rs".into()), generation: Some(3), ..ObjectMeta::default() },
            spec: Some(ReplicaSetSpec {
                replicas: Some(replicas),
                template: Some(PodTemplateSpec {
                    metadata: Some(ObjectMeta {
                        labels: Some([("a".to_owned(), "b".to_owned())].into()),
                        ..ObjectMeta::default()
                    }),
                    spec: None,
                }),
                ..ReplicaSetSpec::default()
            }),
            status: None,
        }
    }

    /// `r`: ready, `u`: not ready, `t`: terminating, `f`: failed, `l`: ready without the template's labels.
    fn pods(kinds: &str) -> Vec<Arc<Pod>> {
        let pod = |(i, kind): (usize, char)| {
            let ready = matches!(kind, 'r' | 'l');
            let labels =
                if kind == 'l' { BTreeMap::new() } else { [("a".to_owned(), "b".to_owned())].into() };
            Arc::new(Pod {
                metadata: ObjectMeta {
                    name: Some(format!("{kind}{i}")),
                    uid: Some(format!("{i}")),
                    labels: Some(labels),
                    deletion_timestamp: (kind == 't').then(|| Time(now())),
                    ..ObjectMeta::default()
                },
                status: Some(PodStatus {
                    phase: Some(if kind == 'f' { "Failed" } else { "Running" }.into()),
                    conditions: Some(vec![PodCondition {
                        type_: "Ready".into(),
                        status: if ready { "True" } else { "False" }.into(),
                        last_transition_time: Some(Time(now())),
                        ..PodCondition::default()
                    }]),
                    ..PodStatus::default()
                }),
                ..Pod::default()
            })
        };
        kinds.chars().enumerate().map(pod).collect()
    }

    #[test]
    fn only_active_pods_count() {
        // replicas, pods, pods to make (positive) or names to delete
        for (replicas, have, create, delete) in [
            (3, "", 3, &[][..]),
            (3, "rr", 1, &[]),
            (2, "rr", 0, &[]),
            (2, "rrtf", 0, &[]),
            (3, "rrtf", 1, &[]),
            (1, "ru", 0, &["u1"]),
            (0, "rutf", 0, &["u1", "r0"]),
            (600, "", 500, &[]),
        ] {
            let pods = pods(have);
            match plan(&set(replicas), &pods, &HashMap::new(), now()) {
                Plan::Nothing => assert!(create == 0 && delete.is_empty(), "{replicas} {have}"),
                Plan::Create(n) => assert_eq!(n, create, "{replicas} {have}"),
                Plan::Delete(gone) => {
                    let names: Vec<_> = gone.iter().map(|p| p.metadata.name.as_deref().unwrap()).collect();
                    assert_eq!(names, delete, "{replicas} {have}");
                }
            }
        }
    }

    #[test]
    fn status_counts_and_keeps_foreign_conditions() {
        let mut rs = set(4);
        rs.spec.as_mut().unwrap().min_ready_seconds = Some(10);
        let foreign = ReplicaSetCondition {
            type_: "Mine".into(),
            status: "True".into(),
            ..ReplicaSetCondition::default()
        };
        rs.status = Some(ReplicaSetStatus { conditions: Some(vec![foreign]), ..ReplicaSetStatus::default() });
        let failed = status(&rs, &pods("rlut"), Some(("FailedCreate", "quota".into())), now());
        assert_eq!(
            (
                failed.replicas,
                failed.fully_labeled_replicas,
                failed.ready_replicas,
                failed.available_replicas
            ),
            (3, Some(2), Some(2), None)
        );
        assert_eq!((failed.terminating_replicas, failed.observed_generation), (Some(1), Some(3)));
        let types =
            |s: &ReplicaSetStatus| s.conditions.iter().flatten().map(|c| c.type_.clone()).collect::<Vec<_>>();
        assert_eq!(types(&failed), ["Mine", "ReplicaFailure"]);
        rs.status = Some(failed);
        let later = now() + jiff::SignedDuration::from_secs(10);
        let fixed = status(&rs, &pods("rrrr"), None, later);
        assert_eq!(types(&fixed), ["Mine"]);
        assert_eq!(fixed.available_replicas, Some(4));
    }
}
