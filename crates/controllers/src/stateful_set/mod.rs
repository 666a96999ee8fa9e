//! Runs a StatefulSet's pods under fixed names, one after the other.
//! Watches: StatefulSet (by key), Pod (by controller owner, or by labels), ControllerRevision (by owner).
//! Writes: Pod create/delete/label/adopt/release, PersistentVolumeClaim create, ControllerRevision, StatefulSet/status.
//! Invariants: never two pods of one name; in order, a pod is made or deleted only while those before it are well.
mod identity;
mod plan;

use std::sync::Arc;

use client::{Cache, EventType, ObjectKey, Recorder, reference};
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{ControllerRevision, StatefulSet};
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod};
use kube::api::{DeleteParams, PostParams, Preconditions};
use kube::{Api, Client};
use machinery::label_selector::LabelSelector;

use crate::context::{Context, PodsByController};
use crate::expectations::{Expectations, UNSEEN};
use crate::framework::{
    Controller, Error, Next, Wakes, code, is_namespace_terminating, message, unless_gone,
};
use crate::ownership::{claim_all, controller_of};
use crate::pods;
use crate::revisions::{History, Updated, template_in};
use identity::{add_identity, ordinal_of, revision_of};
use plan::{Seen, plan};

/// See the module.
pub struct StatefulSetController {
    client: Client,
    recorder: Recorder,
    sets: Cache<StatefulSet>,
    pods: PodsByController,
    history: History,
    /// Writes that the caches do not show yet: pods, and the status that says how far an update is.
    pod_writes: Expectations,
    status_writes: Expectations,
}

impl StatefulSetController {
    /// Built from the shared parts.
    pub fn new(context: &Context) -> Self {
        Self {
            client: context.client.clone(),
            recorder: context.recorder.named("statefulset-controller"),
            sets: context.informers.cache(),
            pods: context.pods.clone(),
            history: History::new(context.client.clone(), context.informers.cache()),
            pod_writes: Expectations::default(),
            status_writes: Expectations::default(),
        }
    }

    async fn write_status(&self, set: &StatefulSet) -> Result<(), Error> {
        let key = ObjectKey::of(set);
        let api: Api<StatefulSet> = Api::namespaced(self.client.clone(), &key.namespace);
        let written = api.replace_status(&key.name, &PostParams::default(), set).await;
        if let Some(written) = unless_gone(written).map_err(Error::at("write the status"))? {
            self.status_writes.written(&key, &written);
        }
        Ok(())
    }

    /// Tells how an act went; `what` is for example `Pod web-0`.
    fn tell(&self, set: &StatefulSet, verb: &str, what: &str, result: Result<(), &kube::Error>) {
        let of = identity::set_name(set);
        let title = if verb == "create" { "Create" } else { "Delete" };
        let (ty, reason, text) = match result {
            Ok(()) => (
                EventType::Normal,
                format!("Successful{title}"),
                format!("{verb} {what} in StatefulSet {of} successful"),
            ),
            Err(error) => (
                EventType::Warning,
                format!("Failed{title}"),
                format!("{verb} {what} in StatefulSet {of} failed error: {}", message(error)),
            ),
        };
        self.recorder.event(&reference(set), ty, &reason, text);
    }

    async fn create(&self, set: &StatefulSet, pod: &Pod) -> Result<(), Error> {
        let key = ObjectKey::of(set);
        let name = pod.metadata.name.as_deref().unwrap_or("");
        let claims: Api<PersistentVolumeClaim> = Api::namespaced(self.client.clone(), &key.namespace);
        for claim in identity::claims(set, pod) {
            let claim_name = claim.metadata.name.clone().unwrap_or_default();
            let result = claims.create(&PostParams::default(), &claim).await;
            let what = format!("Claim {claim_name} Pod {name}");
            match result {
                Err(error) if code(&error) == 409 => {}
                Err(error) => {
                    self.tell(set, "create", &what, Err(&error));
                    return Err(Error::at("create a claim")(error));
                }
                Ok(_) => self.tell(set, "create", &what, Ok(())),
            }
        }
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        match api.create(&PostParams::default(), pod).await {
            Ok(made) => {
                self.pod_writes.written(&key, &made);
                self.tell(set, "create", &format!("Pod {name}"), Ok(()));
                Ok(())
            }
            // Ours, and the cache will show it; or another's, and then it has to go first.
            Err(error) if code(&error) == 409 || is_namespace_terminating(&error) => Ok(()),
            Err(error) => {
                self.tell(set, "create", &format!("Pod {name}"), Err(&error));
                Err(Error::at("create a pod")(error))
            }
        }
    }

    async fn delete(&self, set: &StatefulSet, pod: &Pod) -> Result<(), Error> {
        let key = ObjectKey::of(pod);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let same = Preconditions { uid: pod.metadata.uid.clone(), resource_version: None };
        match api.delete(&key.name, &DeleteParams::default().preconditions(same)).await {
            Ok(_) => {
                self.pod_writes.deleted(&ObjectKey::of(set), pod);
                self.tell(set, "delete", &format!("Pod {}", key.name), Ok(()));
                Ok(())
            }
            Err(error) if matches!(code(&error), 404 | 409) => Ok(()),
            Err(error) => {
                self.tell(set, "delete", &format!("Pod {}", key.name), Err(&error));
                Err(Error::at("delete a pod")(error))
            }
        }
    }
}

impl Controller for StatefulSetController {
    const NAME: &'static str = "statefulset-controller";

    fn wake_on(&self, wakes: &mut Wakes) {
        wakes.own(&self.sets);
        wakes.owner_of(&self.pods.cache, "StatefulSet");
        wakes.owner_of(self.history.cache(), "StatefulSet");
        let sets = self.sets.clone();
        wakes.on(&self.pods.cache, move |change| {
            let orphan =
                change.new.as_ref().filter(|p| controller_of(&p.metadata).is_none() && pods::is_active(p));
            let Some(pod) = orphan else { return Vec::new() };
            let adopts = |set: &Arc<StatefulSet>| {
                let selector = LabelSelector::from_typed(&set.spec.as_ref()?.selector).ok()?;
                let fits =
                    selector.matches_optional(pod.metadata.labels.as_ref()) && ordinal_of(set, pod).is_some();
                (!selector.is_empty() && fits).then(|| ObjectKey::of(&**set))
            };
            sets.list_in(&change.key.namespace).iter().filter_map(adopts).collect()
        });
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        // Asked before anything is read: what is read then has it.
        let seen = self.pod_writes.met(&key, &self.pods.cache) && self.status_writes.met(&key, &self.sets);
        let Some(set) = self.sets.get(&key) else {
            self.pod_writes.forget(&key);
            self.status_writes.forget(&key);
            return Ok(Next::Rest);
        };
        if !seen {
            return Ok(UNSEEN);
        }
        let Some(spec) = &set.spec else { return Ok(Next::Rest) };
        let selector = LabelSelector::from_typed(&spec.selector).map_err(Error::Unfinished)?;
        if selector.is_empty() {
            return Ok(Next::Rest);
        }
        let uid = set.metadata.uid.as_deref().unwrap_or("");
        let mut candidates = self.pods.candidates(uid, &key.namespace);
        candidates.retain(|p| ordinal_of(&set, p).is_some());
        let pods = claim_all(&self.client, &*set, &selector, candidates, &[]).await?;
        let mut revisions = self.history.of(&*set, &selector).await?;
        let status = set.status.clone().unwrap_or_default();
        let updated = self
            .history
            .bring_up_to_date(&*set, &spec.template, status.collision_count, &mut revisions)
            .await?;
        let update = match updated {
            Updated::To(revision) => revision,
            Updated::Collision => {
                let mut next = (*set).clone();
                next.status.get_or_insert_default().collision_count =
                    Some(status.collision_count.unwrap_or(0) + 1);
                self.write_status(&next).await?;
                return Err(Error::Unfinished("name collision of a revision".into()));
            }
        };
        let name = |revision: &ControllerRevision| revision.metadata.name.clone().unwrap_or_default();
        let current = revisions.iter().find(|r| Some(name(r)) == status.current_revision).unwrap_or(&update);
        let named = |revision: &ControllerRevision| {
            (name(revision), template_in(revision).unwrap_or_else(|| spec.template.clone()))
        };
        let seen = Seen { set: (*set).clone(), pods, current: named(current), update: named(&update) };
        let plan = plan(&seen, Timestamp::now());

        let mut result = Ok(());
        for pod in &plan.create {
            result = result.and(self.create(&set, pod).await);
        }
        for pod in &plan.delete {
            result = result.and(self.delete(&set, pod).await);
        }
        for pod in &plan.identify {
            let mut next = (**pod).clone();
            add_identity(&mut next, ordinal_of(&set, pod).unwrap_or(0));
            let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
            let pod_name = next.metadata.name.clone().unwrap_or_default();
            let written = api.replace(&pod_name, &PostParams::default(), &next).await;
            unless_gone(written).map_err(Error::at("label a pod"))?;
        }
        if result.is_ok() && set.status.as_ref() != Some(&plan.status) {
            let mut next = (*set).clone();
            next.status = Some(plan.status);
            self.write_status(&next).await?;
        }
        result?;
        let in_use = |revision: &ControllerRevision| {
            let name = name(revision);
            name == seen.current.0
                || name == seen.update.0
                || seen.pods.iter().any(|p| revision_of(p) == name)
        };
        self.history.clean_up(&revisions, spec.revision_history_limit.unwrap_or(10), in_use).await?;
        Ok(plan.next)
    }
}
