//! Runs a Job's pods to completion, and counts each exactly once.
//! Watches: Job (by key), Pod (by controller owner, or by labels; or that only lost its Job).
//! Writes: Pod create/delete/adopt/release and the finalizer batch.kubernetes.io/job-tracking, Job/status.
//! Invariants: a pod keeps the finalizer until its end is in the Job's status; Complete and Failed come only after
//! all pods have ended and are counted.
mod indexes;
mod plan;
mod policy;
mod template;
#[cfg(test)]
mod tests;
mod ttl;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use client::{Cache, EventType, ObjectKey, Recorder, reference};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Patch, PatchParams, PostParams};
use kube::{Api, Client};
use machinery::label_selector::LabelSelector;
use serde_json::json;

use crate::context::{Context, PodsByController};
use crate::expectations::{Expectations, UNSEEN};
use crate::framework::{Controller, Error, Next, Wakes, code, unless_gone};
use crate::ownership::{claim_all, controller_of};
use crate::pod_writer::{PodWriter, creation};
use crate::pods;
use plan::{FINALIZER, Failures, Seen, is_tracked, note_failures, plan};
pub use ttl::TtlAfterFinished;

const MANAGED_BY_US: &str = "kubernetes.io/job-controller";
/// Begins keys of pods that have no Job; no name has a slash.
const LOST_POD: &str = "pod/";

/// See the module.
pub struct JobController {
    client: Client,
    recorder: Recorder,
    jobs: Cache<Job>,
    pods: PodsByController,
    writer: PodWriter,
    /// Pods whose count is in a status that the cache does not show yet would be missed.
    status_writes: Expectations,
    failures: Mutex<HashMap<ObjectKey, Failures>>,
}

impl JobController {
    /// Built from the shared parts.
    pub fn new(context: &Context) -> Self {
        let recorder = context.recorder.named("job-controller");
        Self {
            client: context.client.clone(),
            writer: PodWriter::new(context.client.clone(), recorder.clone()),
            recorder,
            jobs: context.informers.cache(),
            pods: context.pods.clone(),
            status_writes: Expectations::default(),
            failures: Mutex::default(),
        }
    }

    /// Notes new failures and returns them all.
    fn failures(&self, key: &ObjectKey, job: &Job, pods: &[Arc<Pod>], now: Timestamp) -> Failures {
        let mut all = self.failures.lock().unwrap_or_else(PoisonError::into_inner);
        let failures = all.entry(key.clone()).or_default();
        note_failures(job, pods, failures, now);
        failures.clone()
    }

    fn forget(&self, key: &ObjectKey) {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).remove(key);
        self.writer.expectations.forget(key);
        self.status_writes.forget(key);
    }

    async fn release(&self, pod: &Pod) -> Result<(), Error> {
        let key = ObjectKey::of(pod);
        let api: Api<Pod> = Api::namespaced(self.client.clone(), &key.namespace);
        let patch = json!({"metadata": {"uid": pod.metadata.uid, "$deleteFromPrimitiveList/finalizers": [FINALIZER]}});
        match api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await {
            Ok(_) => Ok(()),
            // Gone, or another pod of that name.
            Err(error) if matches!(code(&error), 404 | 409) => Ok(()),
            Err(error) => Err(Error::at("release a counted pod")(error)),
        }
    }

    /// Pods that count for no Job any more must not hang on to the finalizer.
    async fn release_lost(&self, key: &ObjectKey, lost: impl Fn(&Pod) -> bool) -> Result<Next, Error> {
        for pod in self.pods.cache.list_in(&key.namespace) {
            if is_tracked(&pod) && lost(&pod) {
                self.release(&pod).await?;
            }
        }
        Ok(Next::Rest)
    }

    async fn sync(&self, key: &ObjectKey, job: Arc<Job>) -> Result<Next, Error> {
        let spec = job.spec.clone().unwrap_or_default();
        if spec.managed_by.as_deref().is_some_and(|m| m != MANAGED_BY_US) {
            return Ok(Next::Rest);
        }
        let selector =
            LabelSelector::from_typed(&spec.selector.unwrap_or_default()).map_err(Error::Unfinished)?;
        let settled = self.writer.expectations.met(key, &self.pods.cache);
        let candidates = self.pods.candidates(job.metadata.uid.as_deref().unwrap_or(""), &key.namespace);
        let pods = if selector.is_empty() {
            self.pods.of(job.metadata.uid.as_deref().unwrap_or(""))
        } else {
            claim_all(&self.client, &*job, &selector, candidates, &[FINALIZER]).await?
        };
        let now = Timestamp::now();
        let failures = self.failures(key, &job, &pods, now);
        let seen = Seen { job: (*job).clone(), pods, settled, failures };
        let plan = plan(&seen, now);

        if job.status.as_ref() != Some(&plan.status) {
            let mut next = (*job).clone();
            next.status = Some(plan.status);
            let api: Api<Job> = Api::namespaced(self.client.clone(), &key.namespace);
            let written = api.replace_status(&key.name, &PostParams::default(), &next).await;
            let Some(written) = unless_gone(written).map_err(Error::at("write the status"))? else {
                return Ok(Next::Rest);
            };
            self.status_writes.written(key, &written);
            for (good, reason, text) in plan.events {
                let ty = if good { EventType::Normal } else { EventType::Warning };
                self.recorder.event(&reference(&*job), ty, reason, text);
            }
        }
        for pod in &plan.release {
            self.release(pod).await?;
        }
        let surplus: Vec<&Pod> = plan.delete.iter().map(|p| &**p).collect();
        self.writer.delete(&*job, &surplus).await.map_err(Error::at("delete a pod"))?;
        let (_, failed) = self.writer.create(&*job, plan.create).await;
        creation(failed)?;
        Ok(plan.next)
    }
}

impl Controller for JobController {
    const NAME: &'static str = "job-controller";

    fn wake_on(&self, wakes: &mut Wakes) {
        wakes.own(&self.jobs);
        wakes.owner_of(&self.pods.cache, "Job");
        let jobs = self.jobs.clone();
        wakes.on(&self.pods.cache, move |change| {
            let Some(pod) = change.new.as_ref().filter(|p| controller_of(&p.metadata).is_none()) else {
                return Vec::new();
            };
            if is_tracked(pod) {
                return vec![ObjectKey::new(
                    change.key.namespace.clone(),
                    format!("{LOST_POD}{}", change.key.name),
                )];
            }
            if !pods::is_active(pod) {
                return Vec::new();
            }
            let adopts = |job: &Arc<Job>| {
                let selector = LabelSelector::from_typed(job.spec.as_ref()?.selector.as_ref()?).ok()?;
                (!selector.is_empty() && selector.matches_optional(pod.metadata.labels.as_ref()))
                    .then(|| ObjectKey::of(&**job))
            };
            jobs.list_in(&change.key.namespace).iter().filter_map(adopts).collect()
        });
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        if let Some(name) = key.name.strip_prefix(LOST_POD) {
            let name = Some(name.to_owned());
            let lost = |pod: &Pod| pod.metadata.name == name && controller_of(&pod.metadata).is_none();
            return self.release_lost(&key, lost).await;
        }
        // Asked before the Job is read: what is read then has the last status.
        let up_to_date = self.status_writes.met(&key, &self.jobs);
        let job = self.jobs.get(&key);
        let uid = job.as_ref().and_then(|j| j.metadata.uid.clone());
        let of_an_earlier_job = |pod: &Pod| {
            controller_of(&pod.metadata)
                .is_some_and(|o| o.kind == "Job" && o.name == key.name && Some(&o.uid) != uid.as_ref())
        };
        match job {
            Some(_) if !up_to_date => Ok(UNSEEN),
            Some(job) => self.sync(&key, job).await,
            None => {
                self.forget(&key);
                // The cache of Jobs may lag behind that of pods.
                let api: Api<Job> = Api::namespaced(self.client.clone(), &key.namespace);
                if api.get_metadata_opt(&key.name).await.map_err(Error::at("read the job"))?.is_some() {
                    return Ok(Next::Rest);
                }
                self.release_lost(&key, of_an_earlier_job).await
            }
        }
    }
}
