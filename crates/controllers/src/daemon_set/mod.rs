//! Runs one pod of a DaemonSet on every Node that fits.
//! Watches: DaemonSet (by key), Pod (by controller owner, or by labels), Node (all sets), ControllerRevision (by owner).
//! Writes: Pod create/delete/adopt/release, ControllerRevision, DaemonSet/status.
//! Invariants: never two running pods on a Node but during a surge; pods are tied to Nodes, the scheduler binds them.
mod placement;
mod plan;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use client::{Cache, ObjectKey, Recorder};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::PostParams;
use kube::{Api, Client};
use machinery::label_selector::LabelSelector;
use tokio::time::Instant;

use crate::context::{Context, PodsByController};
use crate::framework::{Controller, Error, Next, Wakes, unless_gone};
use crate::ownership::{claim_all, controller_of};
use crate::pod_writer::{PodWriter, creation};
use crate::pods;
use crate::revisions::{History, Updated, hash_of};
use plan::{Seen, plan, pod_for};

const FIRST_BACKOFF: Duration = Duration::from_secs(1);
const LONGEST_BACKOFF: Duration = Duration::from_secs(15 * 60);

/// See the module.
pub struct DaemonSetController {
    client: Client,
    recorder: Recorder,
    sets: Cache<DaemonSet>,
    nodes: Cache<Node>,
    pods: PodsByController,
    history: History,
    writer: PodWriter,
    /// How long to wait before an ended pod on a Node is replaced, and from when on.
    backoffs: Mutex<HashMap<(ObjectKey, String), (Duration, Instant)>>,
}

impl DaemonSetController {
    /// Built from the shared parts.
    pub fn new(context: &Context) -> Self {
        let recorder = context.recorder.named("daemonset-controller");
        Self {
            client: context.client.clone(),
            writer: PodWriter::new(context.client.clone(), recorder.clone()),
            recorder,
            sets: context.informers.cache(),
            nodes: context.informers.cache(),
            pods: context.pods.clone(),
            history: History::new(context.client.clone(), context.informers.cache()),
            backoffs: Mutex::default(),
        }
    }

    /// Whether an ended pod may be replaced now; otherwise how long to wait.
    fn may_replace(&self, key: &ObjectKey, node: &str) -> Result<(), Duration> {
        let mut all = self.backoffs.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        all.retain(|_, (delay, at)| now.duration_since(*at) < *delay * 2 + LONGEST_BACKOFF);
        match all.get_mut(&(key.clone(), node.to_owned())) {
            None => {
                all.insert((key.clone(), node.to_owned()), (FIRST_BACKOFF, now));
                Ok(())
            }
            Some((delay, at)) => match (*at + *delay).checked_duration_since(now).filter(|d| !d.is_zero()) {
                Some(left) => Err(left),
                None => {
                    *delay = (*delay * 2).min(LONGEST_BACKOFF);
                    *at = now;
                    Ok(())
                }
            },
        }
    }
}

impl Controller for DaemonSetController {
    const NAME: &'static str = "daemonset-controller";
    const WORKERS: usize = 2;

    fn wake_on(&self, wakes: &mut Wakes) {
        wakes.own(&self.sets);
        wakes.owner_of(&self.pods.cache, "DaemonSet");
        wakes.owner_of(self.history.cache(), "DaemonSet");
        let sets = self.sets.clone();
        wakes.on(&self.pods.cache, move |change| {
            let orphan =
                change.new.as_ref().filter(|p| controller_of(&p.metadata).is_none() && pods::is_active(p));
            let Some(pod) = orphan else { return Vec::new() };
            let adopts = |set: &Arc<DaemonSet>| {
                let selector = LabelSelector::from_typed(&set.spec.as_ref()?.selector).ok()?;
                (!selector.is_empty() && selector.matches_optional(pod.metadata.labels.as_ref()))
                    .then(|| ObjectKey::of(&**set))
            };
            sets.list_in(&change.key.namespace).iter().filter_map(adopts).collect()
        });
        let sets = self.sets.clone();
        wakes.on(&self.nodes, move |change| {
            // What placement looks at; heartbeats are not.
            let facts = |node: &Arc<Node>| {
                let spec = node.spec.clone().unwrap_or_default();
                (node.metadata.labels.clone(), spec.taints, spec.unschedulable)
            };
            if change.old.as_ref().map(facts) == change.new.as_ref().map(facts) {
                return Vec::new();
            }
            sets.list().iter().map(|s| ObjectKey::of(&**s)).collect()
        });
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(set) = self.sets.get(&key) else {
            self.writer.expectations.forget(&key);
            return Ok(Next::Rest);
        };
        let Some(spec) = &set.spec else { return Ok(Next::Rest) };
        let selector = LabelSelector::from_typed(&spec.selector).map_err(Error::Unfinished)?;
        if selector.is_empty() {
            let text = "This daemon set is selecting all pods. A non-empty selector is required.";
            self.recorder.warning(&*set, "SelectingAll", text);
            return Ok(Next::Rest);
        }
        let settled = self.writer.expectations.met(&key, &self.pods.cache);
        let uid = set.metadata.uid.as_deref().unwrap_or("");
        let candidates = self.pods.candidates(uid, &key.namespace);
        let pods = claim_all(&self.client, &*set, &selector, candidates, &[]).await?;
        let mut revisions = self.history.of(&*set, &selector).await?;
        let collisions = set.status.as_ref().and_then(|s| s.collision_count);
        let current = if set.metadata.deletion_timestamp.is_none() {
            self.history.bring_up_to_date(&*set, &spec.template, collisions, &mut revisions).await?
        } else {
            match revisions.last() {
                Some(last) => Updated::To(last.clone()),
                None => return Ok(Next::Rest),
            }
        };
        let api: Api<DaemonSet> = Api::namespaced(self.client.clone(), &key.namespace);
        let hash = match current {
            Updated::To(revision) => hash_of(&revision),
            Updated::Collision => {
                let mut next = (*set).clone();
                next.status.get_or_insert_default().collision_count = Some(collisions.unwrap_or(0) + 1);
                let written = api.replace_status(&key.name, &PostParams::default(), &next).await;
                unless_gone(written).map_err(Error::at("write the status"))?;
                return Err(Error::Unfinished("name collision of a revision".into()));
            }
        };
        let now = Timestamp::now();
        let seen = Seen { set: (*set).clone(), nodes: self.nodes.list(), pods, hash };
        let plan = plan(&seen, now);

        let mut next = Next::Rest;
        let mut result = Ok(());
        if settled {
            let mut delete: Vec<&Pod> = plan.delete.iter().map(|p| &**p).collect();
            for (node, pod) in &plan.ended {
                if let Err(wait) = self.may_replace(&key, node) {
                    next = next.sooner(Next::After(wait));
                    continue;
                }
                let (reason, what) = match pods::phase(pod) {
                    "Failed" => ("FailedDaemonPod", "failed"),
                    _ => ("SucceededDaemonPod", "succeeded"),
                };
                let text = format!(
                    "Found {what} daemon pod {} on node {node}, will try to kill it",
                    ObjectKey::of(&**pod)
                );
                if what == "failed" {
                    self.recorder.warning(&*set, reason, text);
                } else {
                    self.recorder.normal(&*set, reason, text);
                }
                delete.push(pod);
            }
            let created = plan.create.iter().map(|node| pod_for(&seen, node)).collect();
            let (_, failed) = self.writer.create(&*set, created).await;
            result = creation(failed);
            self.writer.delete(&*set, &delete).await.map_err(Error::at("delete a pod"))?;
        }
        if set.status.as_ref() != Some(&plan.status) {
            let mut with_status = (*set).clone();
            with_status.status = Some(plan.status);
            let written = api.replace_status(&key.name, &PostParams::default(), &with_status).await;
            unless_gone(written).map_err(Error::at("write the status"))?;
        }
        result?;
        let in_use = |revision: &k8s_openapi::api::apps::v1::ControllerRevision| {
            let hash = hash_of(revision);
            hash == seen.hash
                || seen.pods.iter().any(|p| {
                    p.metadata.labels.as_ref().and_then(|l| l.get(crate::revisions::HASH)) == Some(&hash)
                })
        };
        self.history.clean_up(&revisions, spec.revision_history_limit.unwrap_or(10), in_use).await?;
        let min_ready = spec.min_ready_seconds.unwrap_or(0);
        let soonest = seen.pods.iter().filter_map(|p| pods::until_available(p, min_ready, now)).min();
        Ok(soonest.map_or(next, |left| next.sooner(Next::After(left))))
    }
}
