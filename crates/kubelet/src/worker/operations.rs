//! What takes time, beside the worker: each answers once, and the answer changes what the worker remembers.

use std::sync::Arc;
use std::time::Duration;

use client::EventType;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use tokio::sync::watch;
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::actual::Phase;
use crate::plan::{Kill, Start, Unhealthy, Wait};
use crate::pod::Role;
use crate::reconcilers::{container, hooks, sandbox, volume};

/// How an operation ended.
pub enum Done {
    /// The pod's volumes were set up or brought up to date.
    Volumes(Box<volume::Outcome>),
    /// A sandbox was made, or not.
    Sandbox(Result<String, String>),
    /// A sandbox was stopped, or not.
    Stopped(Result<(), cri::Error>),
    /// A container was started, or not.
    Started {
        /// Its name.
        name: String,
        /// How it went; `None` when it was given up.
        result: Option<Result<String, container::Failure>>,
    },
    /// A container was ended, or not.
    Killed {
        /// Its name.
        name: String,
        /// How it went.
        result: Result<(), cri::Error>,
    },
    /// What was left of the pod on the node was removed, or not.
    Cleaned(Result<(), String>),
    /// The status was written, or not.
    Reported(Result<Option<Reported>, String>),
    /// The pod object was deleted, or not.
    Deleted(Result<(), String>),
    /// The mirror pod was brought in line, or not.
    Mirrored(Result<(), String>),
}

/// How long to wait after a container could not be made for another reason than its image.
const CREATE_RETRY: Duration = Duration::from_secs(10);

impl Worker {
    fn begin(
        &mut self,
        key: &str,
        grace: Option<watch::Sender<Duration>>,
        work: impl Future<Output = Done> + Send + 'static,
    ) -> CancellationToken {
        let cancel = CancellationToken::new();
        self.running.insert(key.to_owned(), Running { grace, cancel: cancel.clone() });
        self.operations.spawn(work);
        cancel
    }

    pub(super) fn is_busy(&self, key: &str) -> bool {
        self.running.contains_key(key)
    }

    pub(super) fn absorb(&mut self, done: Result<Done, JoinError>) {
        let Ok(done) = done else {
            // A panic in an operation: forget all of them and look anew, rather than wait for ever.
            tracing::error!("an operation of this pod panicked");
            self.running.clear();
            self.stale = true;
            return;
        };
        let time = now();
        match done {
            Done::Volumes(outcome) => self.absorb_volumes(*outcome, time),
            Done::Sandbox(result) => {
                self.running.remove(SANDBOX);
                self.stale = true;
                self.sandbox_wait = match (&result, self.sandbox_wait) {
                    (Ok(_), _) => None,
                    (Err(_), before) => {
                        let wait =
                            before.map_or(FIRST_WAIT, |(wait, _)| (wait * 2).min(Duration::from_secs(10)));
                        time.checked_add(wait).ok().map(|until| (wait, until))
                    }
                };
                if let (Err(error), Some(pod)) = (result, &self.pod) {
                    tracing::info!(pod = %pod.printed(), error, "sandbox not made");
                    let about = container::pod_reference(pod);
                    self.shared.recorder.event(
                        &about,
                        EventType::Warning,
                        "FailedCreatePodSandBox",
                        format!("Failed to create pod sandbox: {error}"),
                    );
                }
            }
            Done::Stopped(result) => {
                self.running.remove(SANDBOX);
                self.stale = true;
                if let Err(error) = result {
                    self.retry_soon(time);
                    tracing::debug!(error = %error, "sandbox not stopped yet");
                }
            }
            Done::Started { name, result } => {
                self.running.remove(&name);
                self.stale = true;
                if let Some(result) = result {
                    self.absorb_start(&name, result, time);
                }
            }
            Done::Killed { name, result } => {
                self.running.remove(&name);
                self.stale = true;
                if let Err(error) = result {
                    self.retry_soon(time);
                    tracing::debug!(container = name, error = %error, "container not stopped yet");
                }
            }
            Done::Cleaned(result) => {
                self.running.remove(CLEANUP);
                self.stale = true;
                match result {
                    Ok(()) => {
                        self.cleaned_files = true;
                        self.cleaned = self.deleted();
                        self.retry_wait = FIRST_WAIT;
                    }
                    Err(error) => {
                        self.retry_soon(time);
                        tracing::warn!(error, "pod not cleaned up yet");
                    }
                }
            }
            Done::Reported(result) => {
                self.running.remove(REPORT);
                match result {
                    Ok(reported) => {
                        self.reported = reported;
                        self.retry_at = None;
                        self.retry_wait = FIRST_WAIT;
                    }
                    Err(error) => {
                        self.retry_soon(time);
                        tracing::debug!(error, "status not written yet");
                    }
                }
            }
            Done::Deleted(result) => {
                self.running.remove(REPORT);
                match result {
                    Ok(()) => self.delete_sent = true,
                    Err(error) => {
                        self.retry_soon(time);
                        tracing::debug!(error, "pod object not deleted yet");
                    }
                }
            }
            Done::Mirrored(result) => {
                self.running.remove(MIRROR);
                self.mirror_at = time.checked_add(Duration::from_secs(2)).ok();
                if let Err(error) = result {
                    self.retry_soon(time);
                    tracing::debug!(error, "mirror pod not in line yet");
                }
            }
        }
    }

    pub(super) fn retry_soon(&mut self, time: Timestamp) {
        self.retry_at = time.checked_add(self.retry_wait).ok();
        self.retry_wait = (self.retry_wait * 2).min(LONGEST_REPORT_WAIT);
    }

    fn absorb_volumes(&mut self, outcome: volume::Outcome, time: Timestamp) {
        self.running.remove(VOLUMES);
        self.tokens = outcome.tokens;
        if outcome.failed.is_empty() {
            if self.mounted.as_ref() != Some(&outcome.mounted) {
                self.mounted = Some(outcome.mounted);
            }
            self.volumes_wait = FIRST_WAIT;
            self.volumes_at = outcome.refresh_at;
            return;
        }
        self.volumes_at = time.checked_add(self.volumes_wait).ok();
        self.volumes_wait = (self.volumes_wait * 2).min(LONGEST_VOLUME_WAIT);
        let Some(pod) = &self.pod else { return };
        let about = container::pod_reference(pod);
        for (name, error) in outcome.failed {
            tracing::debug!(pod = %pod.printed(), volume = name, error, "volume not set up");
            let message = format!("MountVolume.SetUp failed for volume \"{name}\" : {error}");
            self.shared.recorder.event(&about, EventType::Warning, "FailedMount", message);
        }
    }

    fn absorb_start(&mut self, name: &str, result: Result<String, container::Failure>, time: Timestamp) {
        let memory = self.memory.entry(name.to_owned()).or_default();
        match result {
            Ok(_) => {
                memory.waiting = None;
                memory.pull_failed = None;
                memory.retry_at = None;
            }
            Err(failure) => {
                if failure.reason == "ErrImagePull" {
                    memory.pull.advance(time, time);
                    memory.pull_failed = Some((time, format!("{}: {}", failure.reason, failure.message)));
                } else {
                    memory.retry_at = time.checked_add(CREATE_RETRY).ok();
                }
                memory.waiting = Some((failure.reason.to_owned(), failure.message.clone()));
                tracing::info!(
                    container = name,
                    reason = failure.reason,
                    error = failure.message,
                    "container not started"
                );
            }
        }
    }

    pub(super) fn announce_wait(&self, pod: &Pod, wait: &Wait) {
        let about = container::reference(pod, &wait.name);
        let recorder = &self.shared.recorder;
        if wait.reason == "CrashLoopBackOff" {
            let message =
                format!("Back-off restarting failed container {} in pod {}", wait.name, pod.printed());
            recorder.event(&about, EventType::Warning, "BackOff", message);
        } else {
            let image = pod
                .container(&wait.name)
                .and_then(|(_, container)| container.image.clone())
                .unwrap_or_default();
            recorder.event(
                &about,
                EventType::Normal,
                "BackOff",
                format!("Back-off pulling image \"{image}\""),
            );
            recorder.event(&about, EventType::Warning, "Failed", format!("Error: {}", wait.reason));
        }
    }

    /// Sets the volumes up, or brings them up to date where something they show has changed.
    pub(super) fn keep_volumes(&mut self, pod: &Arc<Pod>, time: Timestamp) {
        let due = self.volumes_at.is_some_and(|at| at <= time);
        let first = self.mounted.is_none() && self.volumes_at.is_none();
        if self.is_busy(VOLUMES) || !(first || due || (self.volumes_dirty && self.mounted.is_some())) {
            // A watched object that appears ends the wait of a volume that lacked it.
            if !(self.volumes_dirty && self.mounted.is_none() && !self.is_busy(VOLUMES)) {
                return;
            }
        }
        self.volumes_dirty = false;
        self.volumes_at = None;
        let mut shown = pod.as_ref().clone();
        if let Some(status) = &self.status {
            shown.status = Some(status.clone());
        }
        let job = volume::Job {
            pod: Arc::new(shown),
            reader: self.references.reader(),
            tokens: self.tokens.clone(),
        };
        let shared = self.shared.clone();
        self.begin(VOLUMES, None, async move { Done::Volumes(Box::new(volume::set_up(&shared, job).await)) });
    }

    pub(super) fn create_sandbox(&mut self, pod: &Arc<Pod>, attempt: u32, replaces: bool) {
        if self.is_busy(SANDBOX) {
            return;
        }
        if replaces {
            let about = container::pod_reference(pod);
            let message = "Pod sandbox changed, it will be killed and re-created.";
            self.shared.recorder.event(&about, EventType::Normal, "SandboxChanged", message);
        }
        let (shared, pod) = (self.shared.clone(), pod.clone());
        let old: Vec<String> = self.actual.sandboxes.iter().map(|sandbox| sandbox.id.clone()).collect();
        self.begin(SANDBOX, None, async move {
            for id in old {
                // Its address and links must be free before the next one takes them.
                if let Err(error) = shared.cri.stop_pod_sandbox(&id).await {
                    return Done::Sandbox(Err(error.to_string()));
                }
            }
            Done::Sandbox(sandbox::create(&shared, &pod, attempt).await)
        });
    }

    pub(super) fn stop_sandbox(&mut self) {
        if self.is_busy(SANDBOX) {
            return;
        }
        let shared = self.shared.clone();
        let ids: Vec<String> = self
            .actual
            .sandboxes
            .iter()
            .filter(|sandbox| sandbox.ready)
            .map(|sandbox| sandbox.id.clone())
            .collect();
        self.begin(SANDBOX, None, async move {
            for id in ids {
                if let Err(error) = shared.cri.stop_pod_sandbox(&id).await {
                    return Done::Stopped(Err(error));
                }
            }
            Done::Stopped(Ok(()))
        });
    }

    pub(super) fn start(&mut self, pod: &Arc<Pod>, start: &Start, time: Timestamp) {
        let Some((role, container)) =
            pod.container(&start.name).map(|(role, container)| (role, container.clone()))
        else {
            return;
        };
        let Some(sandbox) = self.actual.ready_sandbox().cloned() else { return };
        let Some(mounted) = self.mounted.clone() else { return };
        let memory = self.memory.entry(start.name.clone()).or_default();
        if let Some(failed_at) = start.failed_at {
            memory.crash.advance(failed_at, time);
        }
        let job = container::Job {
            restart_count: start.restart_count.max(self.known_restarts(&start.name, role)),
            pod: pod.clone(),
            container,
            role,
            sandbox,
            mounted,
            reader: self.references.reader(),
        };
        let shared = self.shared.clone();
        let name = start.name.clone();
        let cancel = CancellationToken::new();
        let given_up = cancel.clone();
        let old = self.superseded(&start.name);
        self.running.insert(name.clone(), Running { grace: None, cancel });
        self.operations.spawn(async move {
            let starting = container::start(&shared, &job);
            tokio::pin!(starting);
            let result = tokio::select! {
                result = &mut starting => Some(result),
                () = given_up.cancelled() => None,
            };
            if matches!(result, Some(Ok(_))) {
                for id in old {
                    // Only the last one's log is kept for `logs --previous`.
                    let _ = shared.cri.remove_container(&id).await;
                }
            }
            Done::Started { name, result }
        });
    }

    /// Ended containers of that name that no one will ask about once a new one runs: all but the newest.
    fn superseded(&self, name: &str) -> Vec<String> {
        self.actual
            .history(name)
            .filter(|record| record.phase == Phase::Exited)
            .skip(1)
            .map(|record| record.id.clone())
            .collect()
    }

    /// How many containers of that name there were, by the API's last word: it outlives the runtime's records.
    fn known_restarts(&self, name: &str, role: Role) -> i32 {
        let source = self.mirror.as_ref().or(self.pod.as_ref());
        let status = source.and_then(|pod| pod.status.as_ref());
        let list = status.and_then(|status| match role {
            Role::Init | Role::Sidecar => status.init_container_statuses.as_ref(),
            _ => status.container_statuses.as_ref(),
        });
        let known = list.and_then(|list| list.iter().find(|status| status.name == name));
        known.map_or(0, |status| {
            let ran = status.container_id.is_some() && self.actual.latest(name).is_none();
            status.restart_count + i32::from(ran)
        })
    }

    pub(super) fn kill(&mut self, pod: &Arc<Pod>, kill: &Kill) {
        let Some(record) = self.actual.containers.iter().find(|record| record.id == kill.id).cloned() else {
            return;
        };
        let probe = pod.container(&kill.name).and_then(|(_, container)| match kill.cause {
            Some(Unhealthy::Liveness) => container.liveness_probe.clone(),
            Some(Unhealthy::Startup) => container.startup_probe.clone(),
            None => None,
        });
        let own = probe
            .and_then(|probe| probe.termination_grace_period_seconds)
            .and_then(|seconds| u64::try_from(seconds).ok());
        let grace = own.filter(|_| !self.ending()).map(Duration::from_secs).unwrap_or_else(|| pod.grace());
        let ip = container::pod_ips(&self.shared, pod, self.actual.ready_sandbox()).into_iter().next();
        self.end_container(
            record,
            Some(container::reference(pod, &kill.name)),
            kill.message.clone(),
            ip,
            grace,
        );
    }

    pub(super) fn end_container(
        &mut self,
        record: actual::ContainerRecord,
        about: Option<k8s_openapi::api::core::v1::ObjectReference>,
        message: String,
        ip: Option<String>,
        grace: Duration,
    ) {
        if self.is_busy(&record.name) {
            return;
        }
        let (sender, receiver) = watch::channel(grace);
        let name = record.name.clone();
        let shared = self.shared.clone();
        let ending = hooks::Ending { record, about, message, ip, grace: receiver };
        let key = name.clone();
        self.begin(&key, Some(sender), async move {
            Done::Killed { name, result: hooks::end(&shared, ending).await }
        });
    }

    pub(super) fn begin_pod_work(&mut self, key: &str, work: impl Future<Output = Done> + Send + 'static) {
        self.begin(key, None, work);
    }
}
