//! The end of a pod: what it leaves on the node goes first, then its object, then the worker.

use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use kube::api::{DeleteParams, Preconditions};

use super::operations::Done;
use super::*;
use crate::labels;
use crate::reconcilers::{cleanup, volume};

impl Worker {
    /// Takes the next step of the pod's end; true when nothing is left to do.
    pub(super) fn wind_up(&mut self, pod: &Arc<Pod>) -> bool {
        if !self.ended() || self.running.keys().any(|key| key != MIRROR) {
            return false;
        }
        if self.retry_at.is_some_and(|at| at > now()) {
            return false;
        }
        if self.actual.sandboxes.iter().any(|sandbox| sandbox.ready) {
            return false;
        }
        if !self.deleted() {
            // The containers of a pod that ended stay for their logs, what else it held is given back.
            if !self.cleaned_files {
                self.references.clear();
                self.release(pod);
            }
            return false;
        }
        // The final words are written while the object still exists.
        if !self.removed && !self.is_reported(pod) {
            return false;
        }
        if !self.cleaned {
            self.references.clear();
            self.clean(pod);
            return false;
        }
        if self.removed || pod.is_static() {
            return true;
        }
        if !self.delete_sent {
            self.delete_object(pod);
        }
        // The source takes the pod away once the object is gone.
        false
    }

    fn release(&mut self, pod: &Arc<Pod>) {
        let shared = self.shared.clone();
        let cgroup = shared.cgroup(pod);
        let dir = shared.pod_dir(&self.uid);
        self.mounted = None;
        self.begin_pod_work(CLEANUP, async move {
            Done::Cleaned(
                blocking(move || {
                    volume::tear_down(&dir)?;
                    shared.cgroups.remove(&cgroup)
                })
                .await,
            )
        });
    }

    fn clean(&mut self, pod: &Arc<Pod>) {
        let shared = self.shared.clone();
        let left = cleanup::Left {
            uid: self.uid.clone(),
            namespace: pod.namespace().to_owned(),
            name: pod.name().to_owned(),
            sandboxes: self.actual.sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect(),
            containers: self.actual.containers.iter().map(|record| record.id.clone()).collect(),
        };
        self.begin_pod_work(CLEANUP, async move { Done::Cleaned(cleanup::remove_pod(shared, left).await) });
    }

    fn delete_object(&mut self, pod: &Arc<Pod>) {
        let api: Api<Pod> = Api::namespaced(self.shared.client.clone(), pod.namespace());
        let name = pod.name().to_owned();
        let params = DeleteParams {
            grace_period_seconds: Some(0),
            preconditions: Some(Preconditions { uid: Some(self.uid.clone()), resource_version: None }),
            ..Default::default()
        };
        tracing::info!(pod = %pod.printed(), "pod is gone from the node");
        self.begin_pod_work(REPORT, async move {
            Done::Deleted(match api.delete(&name, &params).await {
                Ok(_) => Ok(()),
                Err(kube::Error::Api(error)) if matches!(error.code, 404 | 409) => Ok(()),
                Err(error) => Err(error.to_string()),
            })
        });
    }

    /// Ends what is left of a pod that no source knows.
    pub(super) fn step_unknown(&mut self) -> Next {
        let grace = |record: &actual::ContainerRecord| {
            let note = |key: &str| record.annotations.get(key).and_then(|text| text.parse::<u64>().ok());
            Duration::from_secs(
                note(labels::DELETION_GRACE).or(note(labels::TERMINATION_GRACE)).unwrap_or(30).max(1),
            )
        };
        let running: Vec<_> = self.actual.running().cloned().collect();
        if !running.is_empty() {
            let ip = self.actual.ready_sandbox().and_then(|sandbox| sandbox.ips.first().cloned());
            for record in running {
                let grace = grace(&record);
                self.end_container(record, None, String::new(), ip.clone(), grace);
            }
            return Next::At(self.retry_at);
        }
        if !self.running.is_empty() {
            return Next::At(None);
        }
        if let Some(at) = self.retry_at.filter(|at| *at > now()) {
            return Next::At(Some(at));
        }
        if self.cleaned {
            return Next::Over;
        }
        tracing::info!(
            uid = self.uid,
            name = self.actual.name,
            namespace = self.actual.namespace,
            "removing an orphaned pod"
        );
        let shared = self.shared.clone();
        let left = cleanup::Left {
            uid: self.uid.clone(),
            namespace: self.actual.namespace.clone(),
            name: self.actual.name.clone(),
            sandboxes: self.actual.sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect(),
            containers: self.actual.containers.iter().map(|record| record.id.clone()).collect(),
        };
        self.begin_pod_work(CLEANUP, async move { Done::Cleaned(cleanup::remove_pod(shared, left).await) });
        Next::At(None)
    }
}

/// Runs file work off the async threads.
pub(super) async fn blocking(
    work: impl FnOnce() -> std::io::Result<()> + Send + 'static,
) -> Result<(), String> {
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome.map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    }
}
