//! Writes the pod's status, only when it changed; for a static pod, the one of its mirror.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{Patch, PatchParams};

use super::operations::Done;
use super::*;
use crate::desired::mirror;
use crate::reconcilers::status;

impl Worker {
    /// The pod object in the API that carries the status.
    fn api_pod(&self, pod: &Arc<Pod>) -> Option<Arc<Pod>> {
        if pod.is_static() { self.mirror.clone() } else { Some(pod.clone()) }
    }

    pub(super) fn report(&mut self, pod: &Arc<Pod>, verdicts: &Verdicts, time: Timestamp) {
        let (ready, started) = self.verdict_sets(verdicts);
        // What was written last is newer than what a watch may have shown since.
        let mut known = pod.as_ref().clone();
        if let Some(api) = self.api_pod(pod) {
            known.status.clone_from(&api.status);
            known.metadata.generation = api.metadata.generation;
        }
        if let Some(status) = &self.status {
            known.status = Some(merged(known.status, status));
        }
        let settled = self.running.keys().all(|key| key.starts_with('/'));
        let generated = status::generate(&status::Seen {
            pod: &known,
            actual: &self.actual,
            memory: &self.memory,
            ready,
            started,
            terminal: (self.finished || self.ending() || pod.is_terminal())
                && self.actual.running().next().is_none()
                && settled,
            verdict: self.verdict_ref(),
            host_ips: &self.shared.host_ips,
            now: time,
        });
        let changed = self.status.as_ref() != Some(&generated);
        if changed {
            self.log_change(pod, &generated);
            self.status = Some(generated.clone());
        }
        self.publish(pod);
        if pod.is_static() {
            self.keep_mirror(pod);
        }
        if self.removed || self.is_busy(REPORT) || self.retry_at.is_some_and(|at| at > time) {
            return;
        }
        let Some(target) = self.api_pod(pod) else { return };
        let uid = target.uid().to_owned();
        let before = self.api_status(&target);
        let Some(patch) = status::patch(&uid, &before, &generated) else { return };
        if self.has_just_said(&uid, &generated, time) {
            return;
        }
        let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), target.namespace());
        let name = target.name().to_owned();
        self.begin_pod_work(REPORT, async move {
            Done::Reported(
                match api.patch_status(&name, &PatchParams::default(), &Patch::Strategic(&patch)).await {
                    Ok(written) => {
                        Ok(Some(Reported { uid, status: generated, revision: revision(&written), at: now() }))
                    }
                    // Gone or replaced: there is nobody to tell.
                    Err(kube::Error::Api(error)) if matches!(error.code, 404 | 409 | 422) => {
                        tracing::debug!(error = %error, "status refused");
                        Ok(Some(Reported { uid, status: generated, revision: u64::MAX, at: now() }))
                    }
                    Err(error) => Err(error.to_string()),
                },
            )
        });
    }

    /// Makes or replaces the API's picture of a static pod; without the API, the pod runs all the same.
    fn keep_mirror(&mut self, pod: &Arc<Pod>) {
        if self.removed || self.is_busy(MIRROR) || self.mirror_at.is_some_and(|at| at > now()) {
            return;
        }
        let (shared, pod, old) = (self.shared.clone(), pod.clone(), self.mirror.clone());
        match mirror::step(&pod, old.as_deref()) {
            mirror::Step::Keep => {}
            mirror::Step::Create => {
                self.begin_pod_work(
                    MIRROR,
                    async move { Done::Mirrored(mirror::create(&shared, &pod).await) },
                );
            }
            mirror::Step::Delete => {
                self.begin_pod_work(MIRROR, async move {
                    let gone = match &old {
                        Some(old) => mirror::delete(&shared, old).await,
                        None => true,
                    };
                    Done::Mirrored(if gone { Ok(()) } else { Err("mirror pod not deleted".into()) })
                });
            }
        }
    }

    /// The status that the API has: what was written last, until the watch shows that or something newer.
    fn api_status(&self, target: &Pod) -> PodStatus {
        match &self.reported {
            Some(reported) if reported.uid == target.uid() && reported.revision > revision(target) => {
                reported.status.clone()
            }
            _ => target.status.clone().unwrap_or_default(),
        }
    }

    /// Whether exactly this was written a moment ago. Should the API show something else all the same, then someone
    /// else writes it too, and answering at once would never end.
    fn has_just_said(&self, uid: &str, status: &PodStatus, time: Timestamp) -> bool {
        const QUIET: i64 = 10;
        self.reported.as_ref().is_some_and(|reported| {
            reported.uid == uid
                && reported.status == *status
                && time.duration_since(reported.at).as_secs() < QUIET
        })
    }

    /// Whether the API has heard the newest status.
    pub(super) fn is_reported(&self, pod: &Arc<Pod>) -> bool {
        let Some(target) = self.api_pod(pod) else { return true };
        let Some(status) = &self.status else { return false };
        let before = self.api_status(&target);
        let said = self
            .reported
            .as_ref()
            .is_some_and(|reported| reported.uid == target.uid() && reported.status == *status);
        !self.is_busy(REPORT) && (said || status::patch(target.uid(), &before, status).is_none())
    }

    fn log_change(&self, pod: &Pod, new: &PodStatus) {
        let phase =
            |status: Option<&PodStatus>| status.and_then(|status| status.phase.clone()).unwrap_or_default();
        let (old, new) = (phase(self.status.as_ref().or(pod.status.as_ref())), phase(Some(new)));
        if old != new {
            tracing::info!(pod = %pod.printed(), from = old, to = new, "pod phase");
        }
    }
}

fn revision(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The status that others last saw, with our own newest fields over it: foreign conditions are the API's.
fn merged(api: Option<PodStatus>, own: &PodStatus) -> PodStatus {
    let mut out = own.clone();
    let Some(api) = api else { return out };
    let mut conditions = out.conditions.unwrap_or_default();
    for foreign in api.conditions.into_iter().flatten() {
        if !conditions.iter().any(|known| known.type_ == foreign.type_) {
            conditions.push(foreign);
        }
    }
    out.conditions = Some(conditions);
    out
}
