//! The loop: changes in, cycles, writes out.
use std::collections::HashMap;
use std::sync::Arc;

use client::{Change, ElectionConfig, Informers, Recorder, lead};
use k8s_openapi::api::core::v1::{Namespace, Node, PersistentVolume, PersistentVolumeClaim, Pod};
use k8s_openapi::api::storage::v1::StorageClass;
use kube::Client;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bind::{BindError, Failure, Writer};
use crate::cycle::{Cycle, Unfit};
use crate::framework::{Framework, Wakes};
use crate::pod::{PodInfo, is_terminal, node_of};
use crate::preemption::{Eviction, preempt};
use crate::profile::{Profile, ProfileError};
use crate::queue::{Delays, SchedulingQueue};
use crate::snapshot::Snapshot;
use crate::volumes::Steps;

/// So many writes are under way at a time; beyond that the loop waits, for the server is the bottleneck then.
const MOST_WRITES: usize = 100;
/// So many pods are scheduled before changes are looked at again.
const CYCLES_AT_ONCE: usize = 16;

/// The scheduler of pods that name none.
const DEFAULT_NAME: &str = "default-scheduler";

/// How the scheduler runs.
#[derive(Debug, Clone)]
pub struct Config {
    /// Pods that name one of them are its own.
    pub profiles: Vec<Profile>,
    /// `percentageOfNodesToScore`; 0: fewer the more nodes there are.
    pub percentage_of_nodes_to_score: usize,
    /// How long failed pods wait.
    pub delays: Delays,
    /// The Lease to hold; `None`: there is no other scheduler.
    pub election: Option<ElectionConfig>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            profiles: vec![Profile::new(DEFAULT_NAME)],
            percentage_of_nodes_to_score: 0,
            delays: Delays::default(),
            election: None,
        }
    }
}

/// Why the scheduler ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another one leads now.
    #[error(transparent)]
    Lost(#[from] client::Lost),
    /// A profile cannot be.
    #[error("profile {name:?}")]
    Profile {
        /// Its scheduler's name.
        name: String,
        /// What is wrong with it.
        #[source]
        source: ProfileError,
    },
}

/// The plugins of each profile, by its name.
type Frameworks = HashMap<String, Arc<Framework>>;

fn frameworks(profiles: &[Profile]) -> Result<Frameworks, Error> {
    let made = profiles.iter().map(|profile| {
        let name = profile.scheduler_name.clone();
        let framework =
            profile.framework().map_err(|source| Error::Profile { name: name.clone(), source })?;
        Ok((name, Arc::new(framework)))
    });
    made.collect()
}

/// Schedules until `stop` fires; returns once what was under way is written.
pub async fn run(config: Config, client: Client, stop: CancellationToken) -> Result<(), Error> {
    let frameworks = frameworks(&config.profiles)?;
    match config.election.clone() {
        None => schedule(config, frameworks, client, stop).await,
        Some(election) => {
            lead(client.clone(), election, stop, |stop| schedule(config, frameworks, client, stop)).await?;
        }
    }
    Ok(())
}

async fn schedule(config: Config, frameworks: Frameworks, client: Client, stop: CancellationToken) {
    let informers = Informers::new(client.clone());
    let pods = informers.cache::<Pod>();
    let nodes = informers.cache::<Node>();
    let namespaces = informers.cache::<Namespace>();
    let claims = informers.cache::<PersistentVolumeClaim>();
    let volumes = informers.cache::<PersistentVolume>();
    let classes = informers.cache::<StorageClass>();
    let synced = async {
        claims.synced().await;
        volumes.synced().await;
        classes.synced().await;
        nodes.synced().await;
        namespaces.synced().await;
        pods.synced().await;
    };
    tokio::select! {
        () = stop.cancelled() => return,
        () = synced => {}
    }
    let (mut pods, mut nodes, mut namespaces) = (pods.changes(), nodes.changes(), namespaces.changes());
    let recorder = Recorder::new(client.clone(), DEFAULT_NAME, "");
    let mut scheduler = Scheduler::new(&config, frameworks, Writer::new(client, recorder, claims.clone()));
    let (mut claims, mut volumes, mut classes) = (claims.changes(), volumes.changes(), classes.changes());
    let names: Vec<&str> = config.profiles.iter().map(|p| p.scheduler_name.as_str()).collect();
    tracing::info!(profiles = names.join(","), "scheduler started");
    loop {
        // Everything that is known by now comes before the next decision.
        while let Some(change) = namespaces.try_next() {
            scheduler.namespace_changed(&change);
        }
        while let Some(change) = nodes.try_next() {
            scheduler.node_changed(&change);
        }
        while let Some(change) = claims.try_next() {
            scheduler.claim_changed(change);
        }
        while let Some(change) = volumes.try_next() {
            scheduler.volume_changed(change);
        }
        while let Some(change) = classes.try_next() {
            scheduler.class_changed(change);
        }
        while let Some(change) = pods.try_next() {
            scheduler.pod_changed(&change);
        }
        while let Some(done) = scheduler.writes.try_join_next() {
            scheduler.written(done.ok());
        }
        let more = scheduler.cycles();
        if more && scheduler.writes.len() < MOST_WRITES {
            // Writes and watches share this thread in small setups.
            tokio::task::yield_now().await;
            if !stop.is_cancelled() {
                continue;
            }
        }
        let due = scheduler.queue.next_due();
        let timer = async {
            match due {
                Some(due) if !more => tokio::time::sleep_until(due).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            () = stop.cancelled() => break,
            change = namespaces.next() => scheduler.namespace_changed(&change),
            change = nodes.next() => scheduler.node_changed(&change),
            change = pods.next() => scheduler.pod_changed(&change),
            change = claims.next() => scheduler.claim_changed(change),
            change = volumes.next() => scheduler.volume_changed(change),
            change = classes.next() => scheduler.class_changed(change),
            Some(done) = scheduler.writes.join_next() => scheduler.written(done.ok()),
            Some(done) = scheduler.slow.join_next() => scheduler.written(done.ok()),
            () = timer => {}
        }
    }
    while scheduler.writes.join_next().await.is_some() {}
    tracing::info!("scheduler stopped");
}

/// What became of a write.
enum Written {
    Bound(String),
    NotBound {
        pod: Arc<PodInfo>,
        gone: bool,
        error: String,
    },
    /// A report or an eviction.
    Told,
}

struct Scheduler {
    frameworks: Frameworks,
    cycle: Cycle,
    snapshot: Snapshot,
    queue: SchedulingQueue,
    writer: Writer,
    writes: JoinSet<Written>,
    /// Bindings that wait for volumes to be made: they hold nobody up.
    slow: JoinSet<Written>,
}

impl Scheduler {
    fn new(config: &Config, frameworks: Frameworks, writer: Writer) -> Self {
        Self {
            frameworks,
            cycle: Cycle::new(config.percentage_of_nodes_to_score),
            snapshot: Snapshot::default(),
            queue: SchedulingQueue::new(config.delays),
            writes: JoinSet::new(),
            slow: JoinSet::new(),
            writer,
        }
    }

    fn namespace_changed(&mut self, change: &Change<Namespace>) {
        let labels = |n: &Arc<Namespace>| n.metadata.labels.clone().unwrap_or_default();
        let new = change.new.as_ref().map(labels);
        let changed = change.old.as_ref().map(labels) != new;
        self.snapshot.set_namespace(&change.key.name, new);
        if changed {
            self.queue.wake(Wakes::NAMESPACE, Instant::now());
        }
    }

    fn claim_changed(&mut self, change: Change<PersistentVolumeClaim>) {
        let claims = &mut self.snapshot.volumes_mut().claims;
        match change.new {
            Some(claim) => claims.insert(change.key, claim),
            None => claims.remove(&change.key),
        };
        self.queue.wake(Wakes::VOLUME, Instant::now());
    }

    fn volume_changed(&mut self, change: Change<PersistentVolume>) {
        let volumes = &mut self.snapshot.volumes_mut().volumes;
        match change.new {
            Some(volume) => volumes.insert(change.key.name, volume),
            None => volumes.remove(&change.key.name),
        };
        self.queue.wake(Wakes::VOLUME, Instant::now());
    }

    fn class_changed(&mut self, change: Change<StorageClass>) {
        let classes = &mut self.snapshot.volumes_mut().classes;
        match change.new {
            Some(class) => classes.insert(change.key.name, class),
            None => classes.remove(&change.key.name),
        };
        self.queue.wake(Wakes::VOLUME, Instant::now());
    }

    fn node_changed(&mut self, change: &Change<Node>) {
        match &change.new {
            None => self.snapshot.remove_node(&change.key.name),
            Some(node) => {
                let what = match &change.old {
                    None => Wakes::NODE_ADD,
                    Some(old) => node_wakes(old, node),
                };
                // Heartbeats change nothing that is decided here.
                if what != Wakes::NONE {
                    self.snapshot.set_node(node.clone());
                    self.queue.wake(what, Instant::now());
                }
            }
        }
    }

    fn pod_changed(&mut self, change: &Change<Pod>) {
        let uid = |p: &Arc<Pod>| p.metadata.uid.clone().unwrap_or_default();
        if let Some(old) = &change.old
            && change.new.as_ref().map(uid).as_deref() != Some(&uid(old))
        {
            self.forget(&uid(old));
        }
        let Some(pod) = &change.new else { return };
        if is_terminal(pod) {
            return self.forget(&uid(pod));
        }
        let node = node_of(pod);
        if !node.is_empty() {
            return self.pod_is_on(pod, node, change.old.as_deref());
        }
        if !self.frameworks.contains_key(scheduler_of(pod)) || pod.metadata.deletion_timestamp.is_some() {
            return self.forget(&uid(pod));
        }
        let info = Arc::new(PodInfo::new(pod.clone()));
        let nominated = pod.status.as_ref().and_then(|s| s.nominated_node_name.as_deref());
        if self.snapshot.place_of(&info.uid).is_some() {
            // Assumed on a node: the binding decides, and once it is bound this state is an old one.
            if self.queue.get(&info.uid).is_some() {
                self.queue.set(info, Instant::now());
            }
            return;
        }
        self.snapshot.nominate(&info, nominated.filter(|n| !n.is_empty()));
        self.queue.set(info, Instant::now());
    }

    fn pod_is_on(&mut self, pod: &Arc<Pod>, node: &str, old: Option<&Pod>) {
        let uid = pod.metadata.uid.as_deref().unwrap_or("");
        self.queue.remove(uid);
        if self.snapshot.place_of(uid) == Some(node) && old.is_some_and(|old| counts_alike(old, pod)) {
            return;
        }
        self.snapshot.place(Arc::new(PodInfo::new(pod.clone())), node);
        // A change of a placed pod may free something as well.
        let what = if old.is_some_and(|o| node_of(o) == node) { Wakes::POD_GONE } else { Wakes::NONE };
        self.queue.wake(what.or(Wakes::POD_PLACED), Instant::now());
    }

    fn forget(&mut self, uid: &str) {
        self.queue.remove(uid);
        self.snapshot.forget_nomination(uid);
        if self.snapshot.remove_pod(uid).is_some() {
            self.queue.wake(Wakes::POD_GONE, Instant::now());
        }
    }

    /// Schedules some pods. Whether there may be more to do.
    fn cycles(&mut self) -> bool {
        for _ in 0..CYCLES_AT_ONCE {
            if self.writes.len() >= MOST_WRITES {
                return true;
            }
            let Some(pod) = self.queue.pop(Instant::now()) else { return false };
            let _span = tracing::debug_span!("schedule", pod = %pod.key).entered();
            // It was ours when it was queued, and the field cannot be changed.
            let Some(framework) = self.frameworks.get(scheduler_of(&pod.pod)).cloned() else {
                self.queue.remove(&pod.uid);
                continue;
            };
            match self.cycle.schedule(&framework, &self.snapshot, &pod) {
                Ok(placement) => {
                    tracing::debug!(
                        node = placement.node,
                        evaluated = placement.evaluated,
                        feasible = placement.feasible,
                        "node found"
                    );
                    self.assume(pod, placement.node);
                }
                Err(unfit) => self.unfit(&framework, pod, *unfit),
            }
        }
        true
    }

    /// Counts the pod as placed while it is being bound.
    fn assume(&mut self, pod: Arc<PodInfo>, node: String) {
        let volumes = self.snapshot.volumes();
        let steps = volumes
            .claims_of(&pod)
            .ok()
            .zip(self.snapshot.node(&node))
            .and_then(|(claims, node)| volumes.plan(&claims, node).ok())
            .unwrap_or_default();
        self.snapshot.place(pod.clone(), &node);
        let writer = self.writer.clone();
        let tasks = if steps == Steps::default() { &mut self.writes } else { &mut self.slow };
        tasks.spawn(async move {
            match writer.bind(&pod, &node, &steps).await {
                Ok(()) => Written::Bound(pod.uid.clone()),
                Err(error) => {
                    let gone = matches!(&error, BindError::Api(kube::Error::Api(s)) if s.code == 404);
                    Written::NotBound { pod, gone, error: error.to_string() }
                }
            }
        });
    }

    fn unfit(&mut self, framework: &Framework, pod: Arc<PodInfo>, mut unfit: Unfit) {
        let mut eviction = None;
        let had = pod.pod.status.as_ref().and_then(|s| s.nominated_node_name.clone());
        let mut nominated = None;
        if unfit.nodes > 0 && framework.preempts {
            match preempt(framework, &self.snapshot, &pod, &unfit) {
                Ok(found) => {
                    self.snapshot.nominate(&pod, Some(&found.node));
                    nominated = Some(found.node.clone());
                    eviction = Some(found);
                }
                Err(why) => {
                    // Room that does not help any more is not kept.
                    let waits = why.contains("terminating pod");
                    if had.is_some() && !waits {
                        self.snapshot.nominate(&pod, None);
                        nominated = Some(String::new());
                    }
                    unfit.after = format!("no new claims to deallocate, preemption: {why}");
                }
            }
        }
        let wakes = if eviction.is_some() { unfit.wakes.or(Wakes::POD_GONE) } else { unfit.wakes };
        self.queue.reject(&pod.uid, wakes, Instant::now());
        let message = unfit.to_string();
        tracing::debug!(message, "pod fits nowhere");
        self.tell(pod, Failure { reason: "Unschedulable", message, nominated }, eviction);
    }

    fn tell(&mut self, pod: Arc<PodInfo>, failure: Failure, eviction: Option<Eviction>) {
        let writer = self.writer.clone();
        self.writes.spawn(async move {
            if let Err(error) = writer.report(&pod, &failure).await {
                tracing::debug!(pod = %pod.key, %error, "condition not written");
            }
            if let Some(eviction) = eviction
                && let Err(error) = writer.evict(&pod, &eviction).await
            {
                // The pod comes back with the next change or after its longest wait, and tries again.
                tracing::warn!(pod = %pod.key, node = eviction.node, %error, "preemption failed");
            }
            Written::Told
        });
    }

    fn written(&mut self, written: Option<Written>) {
        match written {
            Some(Written::Bound(uid)) => self.queue.remove(&uid),
            Some(Written::NotBound { pod, gone, error }) => {
                tracing::debug!(pod = %pod.key, error, "pod not bound");
                self.snapshot.remove_pod(&pod.uid);
                self.queue.wake(Wakes::POD_GONE, Instant::now());
                if gone {
                    return self.queue.remove(&pod.uid);
                }
                self.queue.fail(&pod.uid, Instant::now());
                let message = format!("binding rejected: {error}");
                self.tell(pod, Failure { reason: "SchedulerError", message, nominated: None }, None);
            }
            Some(Written::Told) | None => {}
        }
    }
}

/// The scheduler that a pod names.
pub(crate) fn scheduler_of(pod: &Pod) -> &str {
    pod.spec
        .as_ref()
        .and_then(|s| s.scheduler_name.as_deref())
        .filter(|n| !n.is_empty())
        .unwrap_or(DEFAULT_NAME)
}

fn node_wakes(old: &Node, new: &Node) -> Wakes {
    let mut what = Wakes::NONE;
    let allocatable = |n: &Node| n.status.as_ref().and_then(|s| s.allocatable.clone());
    let spec = |n: &Node| n.spec.as_ref().map(|s| (s.taints.clone(), s.unschedulable));
    if allocatable(old) != allocatable(new) {
        what = what.or(Wakes::NODE_ALLOCATABLE);
    }
    if old.metadata.labels != new.metadata.labels {
        what = what.or(Wakes::NODE_LABELS);
    }
    if spec(old) != spec(new) {
        what = what.or(Wakes::NODE_TAINTS);
    }
    what
}

/// Whether two states of an assigned pod are the same to the scheduler.
fn counts_alike(old: &Pod, new: &Pod) -> bool {
    let given = |p: &Pod| -> Vec<_> {
        let status = p.status.as_ref().and_then(|s| s.container_statuses.as_ref());
        status.into_iter().flatten().map(|c| (c.allocated_resources.clone(), c.resources.clone())).collect()
    };
    old.spec == new.spec
        && old.metadata.labels == new.metadata.labels
        && old.metadata.deletion_timestamp == new.metadata.deletion_timestamp
        && given(old) == given(new)
}
