//! One task for each pod: looks at what is wanted and what runs, plans, starts what takes time aside, reports.
//!
//! The task itself never waits for anything slow. Pulls, starts, stops, volumes and clean-up run as operations beside it,
//! at most one for each container, and wake it when they are done. So a pod's status stays true while one of its
//! containers takes its whole grace period to stop.

mod finish;
mod operations;
mod report;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::actual::{self, PodRuntime};
use crate::objects::References;
use crate::plan::{self, Memory, Plan, SandboxStep};
use crate::pod::PodExt;
use crate::reconcilers::probe::{Probes, Verdicts};
use crate::reconcilers::status::Verdict;
use crate::shared::{Shared, now};
use crate::volumes::Mounted;
use crate::volumes::tokens::Tokens;

use operations::Done;

/// What a worker is told from outside; the newest word counts.
#[derive(Default)]
pub struct Order {
    /// The pod as its source last had it; `None` for what is left of a pod that no source knows.
    pub pod: Option<Arc<Pod>>,
    /// For a static pod: its picture in the API.
    pub mirror: Option<Arc<Pod>>,
    /// Whether the source no longer has it.
    pub removed: bool,
    /// Set when the kubelet itself decides to end the pod.
    pub verdict: Option<Verdict>,
    /// Whether the runtime's view may have changed.
    pub stale: bool,
}

/// The way to a worker from outside.
#[derive(Clone)]
pub struct Handle {
    order: Arc<Mutex<Order>>,
    wake: Arc<Notify>,
    view: Arc<Mutex<View>>,
}

/// What others may see of a pod.
#[derive(Clone, Default)]
pub struct View {
    /// The pod with its newest status.
    pub pod: Option<Arc<Pod>>,
    /// What runs of it.
    pub actual: PodRuntime,
}

impl Handle {
    /// Changes the order and wakes the worker.
    pub fn tell(&self, change: impl FnOnce(&mut Order)) {
        change(&mut self.order.lock().unwrap_or_else(PoisonError::into_inner));
        self.wake.notify_one();
    }

    /// What the worker last saw.
    pub fn view(&self) -> View {
        self.view.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

struct Worker {
    shared: Arc<Shared>,
    uid: String,
    order: Arc<Mutex<Order>>,
    wake: Arc<Notify>,
    view: Arc<Mutex<View>>,
    stop: CancellationToken,

    pod: Option<Arc<Pod>>,
    mirror: Option<Arc<Pod>>,
    removed: bool,
    verdict: Option<Verdict>,

    actual: PodRuntime,
    looked: bool,
    stale: bool,
    memory: BTreeMap<String, Memory>,
    probes: Probes,
    adopted: BTreeSet<String>,
    references: References,

    mounted: Option<Mounted>,
    tokens: Tokens,
    volumes_at: Option<Timestamp>,
    volumes_wait: Duration,
    volumes_dirty: bool,
    sandbox_wait: Option<(Duration, Timestamp)>,

    operations: JoinSet<Done>,
    running: BTreeMap<String, Running>,
    finished: bool,
    cleaned: bool,
    cleaned_files: bool,
    delete_sent: bool,
    status: Option<PodStatus>,
    reported: Option<Reported>,
    retry_at: Option<Timestamp>,
    retry_wait: Duration,
    /// After acting on the mirror pod: not again before then, the watch has to show it first.
    mirror_at: Option<Timestamp>,
}

/// The status that was written last.
#[derive(Clone)]
pub struct Reported {
    uid: String,
    status: PodStatus,
    revision: u64,
    at: Timestamp,
}

/// An operation under way.
struct Running {
    grace: Option<watch::Sender<Duration>>,
    cancel: CancellationToken,
}

/// Keys of operations that concern the pod, not a container; no container can have such a name.
const SANDBOX: &str = "/sandbox";
const VOLUMES: &str = "/volumes";
const CLEANUP: &str = "/cleanup";
const REPORT: &str = "/report";
const MIRROR: &str = "/mirror";
const FIRST_WAIT: Duration = Duration::from_millis(500);
const LONGEST_VOLUME_WAIT: Duration = Duration::from_secs(122);
const LONGEST_REPORT_WAIT: Duration = Duration::from_secs(10);

/// Starts a worker; the future ends when nothing is left of the pod, or when stopped.
pub fn spawn(
    shared: Arc<Shared>,
    uid: String,
    order: Order,
    stop: CancellationToken,
) -> (Handle, impl Future<Output = String> + Send) {
    let handle = Handle {
        order: Arc::new(Mutex::new(Order { stale: true, ..order })),
        wake: Arc::new(Notify::new()),
        view: Arc::default(),
    };
    handle.wake.notify_one();
    let worker = Worker {
        probes: Probes::new(handle.wake.clone()),
        order: handle.order.clone(),
        wake: handle.wake.clone(),
        view: handle.view.clone(),
        shared,
        uid: uid.clone(),
        stop,
        pod: None,
        mirror: None,
        removed: false,
        verdict: None,
        actual: PodRuntime::default(),
        looked: false,
        stale: true,
        memory: BTreeMap::new(),
        adopted: BTreeSet::new(),
        references: References::default(),
        mounted: None,
        tokens: Tokens::default(),
        volumes_at: None,
        volumes_wait: FIRST_WAIT,
        volumes_dirty: true,
        sandbox_wait: None,
        operations: JoinSet::new(),
        running: BTreeMap::new(),
        finished: false,
        cleaned: false,
        cleaned_files: false,
        delete_sent: false,
        status: None,
        reported: None,
        retry_at: None,
        retry_wait: FIRST_WAIT,
        mirror_at: None,
    };
    let future = async move {
        worker.run().await;
        uid
    };
    (handle, future)
}

impl Worker {
    #[tracing::instrument(name = "sync_pod", skip_all, fields(uid = %self.uid))]
    async fn run(mut self) {
        let mut wake_at: Option<Timestamp> = None;
        loop {
            let timer = wake_at.map(|at| Duration::try_from(at.duration_since(now())).unwrap_or_default());
            let wake = self.wake.clone();
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = wake.notified() => {}
                Some(done) = self.operations.join_next() => self.absorb(done),
                () = tokio::time::sleep(timer.unwrap_or_default()), if timer.is_some() => {}
            }
            while let Some(done) = self.operations.try_join_next() {
                self.absorb(done);
            }
            self.take_order();
            match self.step().await {
                Next::Over => return,
                Next::At(at) => wake_at = at,
            }
        }
    }

    fn take_order(&mut self) {
        let mut order = self.order.lock().unwrap_or_else(PoisonError::into_inner);
        let pod = order.pod.clone();
        self.mirror.clone_from(&order.mirror);
        self.removed = order.removed;
        self.stale |= std::mem::take(&mut order.stale);
        if self.verdict.is_none() {
            self.verdict.clone_from(&order.verdict);
        }
        drop(order);
        let Some(pod) = pod else { return };
        let changed = self.pod.as_ref().is_none_or(|old| !Arc::ptr_eq(old, &pod));
        if changed {
            // Labels and annotations show in downward API volumes.
            self.volumes_dirty |= self.pod.as_ref().is_none_or(|old| {
                old.metadata.labels != pod.metadata.labels
                    || old.metadata.annotations != pod.metadata.annotations
            });
            if !self.ended() {
                self.references.update(&pod, &self.shared.informers, &self.wake);
            }
            self.pod = Some(pod);
        }
        // The wake may have come from a watched ConfigMap or Secret: writing what is there already costs little.
        if self.references.take_changed() {
            self.volumes_dirty |= self.has_live_volumes();
            for memory in self.memory.values_mut() {
                memory.retry_at = None;
            }
        }
    }

    fn has_live_volumes(&self) -> bool {
        self.pod.as_ref().is_some_and(|pod| {
            pod.spec().volumes.iter().flatten().any(|volume| {
                volume.config_map.is_some()
                    || volume.secret.is_some()
                    || volume.projected.is_some()
                    || volume.downward_api.is_some()
            })
        })
    }

    fn deleted(&self) -> bool {
        self.removed || self.pod.as_ref().is_none_or(|pod| pod.metadata.deletion_timestamp.is_some())
    }

    /// Whether the pod is on its way out, whoever decided it.
    fn ending(&self) -> bool {
        self.deleted() || self.verdict.is_some()
    }

    /// Whether nothing of the pod will run again.
    fn ended(&self) -> bool {
        (self.ending() || self.finished || self.pod.as_ref().is_some_and(|pod| pod.is_terminal()))
            && self.looked
            && self.actual.running().next().is_none()
    }

    async fn look(&mut self) -> bool {
        if !self.stale {
            return true;
        }
        match actual::observe(&self.shared.cri, &self.uid, &self.actual).await {
            Ok(seen) => {
                self.actual = seen;
                self.stale = false;
                if !self.looked {
                    self.looked = true;
                    if let Some(pod) = &self.pod {
                        self.adopted = self.probes.adopt(pod, &self.actual);
                    }
                }
                true
            }
            Err(error) => {
                tracing::debug!(error = %error, "runtime not readable");
                false
            }
        }
    }

    async fn step(&mut self) -> Next {
        if !self.look().await {
            return Next::At(now().checked_add(Duration::from_secs(2)).ok());
        }
        let Some(pod) = self.pod.clone() else { return self.step_unknown() };
        let time = now();
        let mut wake_at: Option<Timestamp> = None;
        let mut wake = |at: Option<Timestamp>| {
            wake_at = [wake_at, at].into_iter().flatten().min();
        };

        if self.verdict.is_none() && !pod.is_terminal() && !self.finished {
            let started =
                self.status.as_ref().or(pod.status.as_ref()).and_then(|status| status.start_time.as_ref());
            if let Some(at) = plan::deadline(&pod, started.map(|time| time.0)) {
                if at <= time {
                    self.exceed_deadline(&pod);
                } else {
                    wake(Some(at));
                }
            }
        }
        self.shorten_graces(&pod);

        wake(self.unsettled_end(time));
        self.probes.reconcile(&self.shared, &pod, &self.actual, self.ending(), &self.adopted);
        let verdicts = self.probes.verdicts(&pod, &self.actual);
        let busy: BTreeSet<String> =
            self.running.keys().filter(|key| !key.starts_with('/')).cloned().collect();
        let plan = plan::plan(&plan::Seen {
            pod: &pod,
            actual: &self.actual,
            memory: &self.memory,
            unhealthy: &verdicts.unhealthy,
            started: &verdicts.started,
            busy: &busy,
            ending: self.ending(),
            now: time,
        });
        self.finished |= plan.finished;
        wake(plan.wake_at);
        self.carry_out(&pod, &plan, time);
        wake(self.volumes_at);
        if let Some((_, at)) = self.sandbox_wait {
            wake(Some(at));
        }
        self.report(&pod, &verdicts, time);
        wake(self.mirror_at.filter(|at| *at > time));
        if self.wind_up(&pod) {
            return Next::Over;
        }
        wake(self.retry_at);
        // What was due just now has been seen to; only what lies ahead needs a timer.
        Next::At(wake_at.map(|at| at.max(time.checked_add(Duration::from_millis(5)).unwrap_or(at))))
    }

    /// The runtime may learn that a container was out of memory only after it learnt that it was killed: such ends are
    /// looked at again for a moment. Answers when.
    fn unsettled_end(&mut self, time: Timestamp) -> Option<Timestamp> {
        const SETTLE: Duration = Duration::from_secs(3);
        let fresh = |record: &actual::ContainerRecord| {
            record.phase == actual::Phase::Exited
                && record.exit_code == 137
                && record.reason != "OOMKilled"
                && record
                    .finished_at
                    .and_then(|end| end.checked_add(SETTLE).ok())
                    .is_some_and(|until| until > time)
        };
        if !self.actual.containers.iter().any(fresh) {
            return None;
        }
        self.stale = true;
        time.checked_add(Duration::from_millis(300)).ok()
    }

    fn exceed_deadline(&mut self, pod: &Pod) {
        let about = crate::reconcilers::container::pod_reference(pod);
        self.shared.recorder.event(
            &about,
            client::EventType::Normal,
            "DeadlineExceeded",
            "Pod was active on the node longer than the specified deadline",
        );
        self.verdict = Some(Verdict {
            reason: "DeadlineExceeded".into(),
            message: "Pod was active on the node longer than the specified deadline".into(),
            disruption: false,
        });
    }

    /// A second deletion with a shorter grace period hurries what is being stopped; pulls for an ending pod are given up.
    fn shorten_graces(&mut self, pod: &Pod) {
        if !self.ending() {
            return;
        }
        let grace = pod.grace();
        for running in self.running.values() {
            if let Some(sender) = &running.grace {
                sender.send_if_modified(|current| {
                    let shorter = grace < *current;
                    if shorter {
                        *current = grace;
                    }
                    shorter
                });
            } else {
                running.cancel.cancel();
            }
        }
    }

    fn carry_out(&mut self, pod: &Arc<Pod>, plan: &Plan, time: Timestamp) {
        for wait in &plan.waits {
            let known = self.memory.entry(wait.name.clone()).or_default();
            let fresh = known
                .waiting
                .as_ref()
                .is_none_or(|(reason, message)| *reason != wait.reason || *message != wait.message);
            if fresh {
                known.waiting = Some((wait.reason.clone(), wait.message.clone()));
                self.announce_wait(pod, wait);
            }
        }
        for kill in &plan.kill {
            self.kill(pod, kill);
        }
        if !self.ending() && !self.finished && !pod.is_terminal() {
            self.keep_volumes(pod, time);
        }
        match &plan.sandbox {
            SandboxStep::Keep => {}
            SandboxStep::Stop => self.stop_sandbox(),
            SandboxStep::Create { attempt, replaces } => {
                let waits = self.sandbox_wait.is_some_and(|(_, until)| until > time);
                if self.mounted.is_some() && !waits {
                    self.create_sandbox(pod, *attempt, *replaces);
                }
            }
        }
        if let (Some(start), Some(_)) = (&plan.start, &self.mounted) {
            self.start(pod, start, time);
        }
    }
}

enum Next {
    Over,
    At(Option<Timestamp>),
}

impl Worker {
    fn verdict_ref(&self) -> Option<&Verdict> {
        self.verdict.as_ref()
    }

    fn publish(&self, pod: &Arc<Pod>) {
        let mut shown = pod.as_ref().clone();
        shown.status.clone_from(&self.status);
        let mut view = self.view.lock().unwrap_or_else(PoisonError::into_inner);
        *view = View { pod: Some(Arc::new(shown)), actual: self.actual.clone() };
    }

    fn verdict_sets<'a>(&self, verdicts: &'a Verdicts) -> (&'a BTreeSet<String>, &'a BTreeSet<String>) {
        (&verdicts.ready, &verdicts.started)
    }
}
