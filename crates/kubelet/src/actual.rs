//! What runs on this node, as the runtime tells it: rebuilt from the runtime at any time, never from memory.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use cri::Cri;
use cri::v1;
use jiff::Timestamp;
use tokio_util::sync::CancellationToken;

use crate::labels;

/// A sandbox of a pod.
#[derive(Debug, Clone, PartialEq)]
pub struct Sandbox {
    /// The runtime's id.
    pub id: String,
    /// Which sandbox of the pod this is.
    pub attempt: u32,
    /// Whether its processes and network exist.
    pub ready: bool,
    /// Its addresses, the primary one first; empty on the node's network.
    pub ips: Vec<String>,
    /// When it was made.
    pub created_at: Timestamp,
    /// Whether it shares the node's network.
    pub host_network: bool,
}

/// Where a container is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Made, not started.
    Created,
    /// Running.
    Running,
    /// Ended.
    Exited,
    /// The runtime lost track of it.
    Unknown,
}

/// One container as the runtime knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct ContainerRecord {
    /// The runtime's id.
    pub id: String,
    /// Its name in the pod's spec.
    pub name: String,
    /// The sandbox it lives in.
    pub sandbox: String,
    /// Where it is in its life.
    pub phase: Phase,
    /// How many containers of this name ran before it.
    pub restart_count: i32,
    /// Hash of its spec when it was made.
    pub hash: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// When it started.
    pub started_at: Option<Timestamp>,
    /// When it ended.
    pub finished_at: Option<Timestamp>,
    /// How it ended.
    pub exit_code: i32,
    /// Why it ended, in the runtime's word (`OOMKilled`, `Completed`, `Error`).
    pub reason: String,
    /// The termination message.
    pub message: String,
    /// The image by name.
    pub image: String,
    /// The image by digest.
    pub image_id: String,
    /// Its log file.
    pub log_path: String,
    /// Where it writes its termination message, on the node.
    pub termination_file: Option<String>,
    /// The annotations that it was made with.
    pub annotations: HashMap<String, String>,
}

/// All that the runtime holds of one pod; newest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PodRuntime {
    /// The pod's name and namespace, where anything is left of it.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Sandboxes, newest first.
    pub sandboxes: Vec<Sandbox>,
    /// Containers, newest first.
    pub containers: Vec<ContainerRecord>,
}

impl PodRuntime {
    /// The newest sandbox, if it is alive.
    pub fn ready_sandbox(&self) -> Option<&Sandbox> {
        self.sandboxes.first().filter(|sandbox| sandbox.ready)
    }

    /// The newest container of that name.
    pub fn latest(&self, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|record| record.name == name)
    }

    /// The newest container of that name in one sandbox.
    pub fn latest_in(&self, sandbox: &str, name: &str) -> Option<&ContainerRecord> {
        self.containers.iter().find(|record| record.name == name && record.sandbox == sandbox)
    }

    /// Containers of that name, newest first.
    pub fn history<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a ContainerRecord> {
        self.containers.iter().filter(move |record| record.name == name)
    }

    /// Containers that have processes.
    pub fn running(&self) -> impl Iterator<Item = &ContainerRecord> {
        self.containers.iter().filter(|record| matches!(record.phase, Phase::Running | Phase::Unknown))
    }

    /// Whether the runtime holds nothing of the pod.
    pub fn is_empty(&self) -> bool {
        self.sandboxes.is_empty() && self.containers.is_empty()
    }
}

fn time(nanos: i64) -> Option<Timestamp> {
    if nanos <= 0 { None } else { Timestamp::from_nanosecond(i128::from(nanos)).ok() }
}

fn phase_of(state: i32) -> Phase {
    match v1::ContainerState::try_from(state) {
        Ok(v1::ContainerState::ContainerCreated) => Phase::Created,
        Ok(v1::ContainerState::ContainerRunning) => Phase::Running,
        Ok(v1::ContainerState::ContainerExited) => Phase::Exited,
        _ => Phase::Unknown,
    }
}

fn uid_filter(uid: &str) -> HashMap<String, String> {
    HashMap::from([(labels::POD_UID.to_owned(), uid.to_owned())])
}

/// Reads one pod from the runtime. `known` saves asking again about containers that ended and so cannot change.
pub async fn observe(cri: &Cri, uid: &str, known: &PodRuntime) -> Result<PodRuntime, cri::Error> {
    let sandbox_filter = v1::PodSandboxFilter { label_selector: uid_filter(uid), ..Default::default() };
    let container_filter = v1::ContainerFilter { label_selector: uid_filter(uid), ..Default::default() };
    let (sandboxes, containers) = tokio::try_join!(
        cri.list_pod_sandbox(Some(sandbox_filter)),
        cri.list_containers(Some(container_filter))
    )?;
    let mut seen = PodRuntime::default();
    for sandbox in sandboxes {
        if let Some(metadata) = &sandbox.metadata {
            seen.name.clone_from(&metadata.name);
            seen.namespace.clone_from(&metadata.namespace);
        }
        let ready = sandbox.state == v1::PodSandboxState::SandboxReady as i32;
        if let Some(old) = known.sandboxes.iter().find(|old| old.id == sandbox.id && old.ready == ready) {
            seen.sandboxes.push(old.clone());
            continue;
        }
        match cri.pod_sandbox_status(&sandbox.id).await {
            Ok(status) => seen.sandboxes.push(sandbox_record(&status)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
    }
    for container in containers {
        let same = |old: &&ContainerRecord| old.id == container.id && old.phase == phase_of(container.state);
        if let Some(old) = known.containers.iter().find(same).filter(|old| is_settled(old)) {
            seen.containers.push(old.clone());
            continue;
        }
        match cri.container_status(&container.id).await {
            Ok(status) => seen.containers.push(container_record(&container.pod_sandbox_id, status)),
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error),
        }
        if let (true, Some(labels)) = (seen.name.is_empty(), Some(&container.labels)) {
            seen.name = labels.get(labels::POD_NAME).cloned().unwrap_or_default();
            seen.namespace = labels.get(labels::POD_NAMESPACE).cloned().unwrap_or_default();
        }
    }
    seen.sandboxes.sort_by(|a, b| b.created_at.cmp(&a.created_at).then(b.attempt.cmp(&a.attempt)));
    seen.containers
        .sort_by(|a, b| b.restart_count.cmp(&a.restart_count).then(b.created_at.cmp(&a.created_at)));
    Ok(seen)
}

/// Whether what is known of a container can no longer change while its state does not. A killed container may yet turn
/// out to have been out of memory.
fn is_settled(record: &ContainerRecord) -> bool {
    match record.phase {
        Phase::Running => true,
        Phase::Exited => {
            let recent =
                record.finished_at.is_some_and(|end| Timestamp::now().duration_since(end).as_secs() < 5);
            record.exit_code != 137 || record.reason == "OOMKilled" || !recent
        }
        Phase::Created | Phase::Unknown => false,
    }
}

fn sandbox_record(status: &v1::PodSandboxStatus) -> Sandbox {
    let options =
        status.linux.as_ref().and_then(|linux| linux.namespaces.as_ref()).and_then(|ns| ns.options.as_ref());
    let network = status.network.as_ref();
    let first = network.map(|network| network.ip.clone()).filter(|ip| !ip.is_empty());
    let more =
        network.map(|network| network.additional_ips.iter().map(|ip| ip.ip.clone()).collect::<Vec<_>>());
    Sandbox {
        id: status.id.clone(),
        attempt: status.metadata.as_ref().map_or(0, |metadata| metadata.attempt),
        ready: status.state == v1::PodSandboxState::SandboxReady as i32,
        ips: first.into_iter().chain(more.into_iter().flatten()).collect(),
        created_at: time(status.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
        host_network: options.is_some_and(|options| options.network == v1::NamespaceMode::Node as i32),
    }
}

fn container_record(sandbox: &str, status: v1::ContainerStatus) -> ContainerRecord {
    let phase = phase_of(status.state);
    let note = |key: &str| status.annotations.get(key).cloned();
    let termination_path = note(labels::TERMINATION_PATH);
    let termination_file = termination_path
        .and_then(|path| status.mounts.iter().find(|mount| mount.container_path == path))
        .map(|mount| mount.host_path.clone());
    let mut record = ContainerRecord {
        name: status.labels.get(labels::CONTAINER_NAME).cloned().unwrap_or_default(),
        sandbox: sandbox.to_owned(),
        phase,
        restart_count: note(labels::RESTART_COUNT)
            .and_then(|count| count.parse().ok())
            .or_else(|| status.metadata.as_ref().and_then(|metadata| i32::try_from(metadata.attempt).ok()))
            .unwrap_or(0),
        hash: note(labels::CONTAINER_HASH).unwrap_or_default(),
        created_at: time(status.created_at).unwrap_or(Timestamp::UNIX_EPOCH),
        started_at: time(status.started_at),
        finished_at: time(status.finished_at),
        exit_code: status.exit_code,
        reason: status.reason,
        message: status.message,
        image: status.image.map(|image| image.image).unwrap_or_default(),
        image_id: status.image_ref,
        log_path: status.log_path,
        termination_file,
        annotations: status.annotations.clone(),
        id: status.id,
    };
    if phase == Phase::Exited {
        read_termination_message(&mut record);
    }
    record
}

/// The most that one container's termination message may say.
const MESSAGE_LIMIT: u64 = 4096;
/// The most of a log that stands in for a message.
const LOG_LIMIT: usize = 2048;
const LOG_LINES: usize = 80;

fn read_termination_message(record: &mut ContainerRecord) {
    use std::io::Read;
    let written = record.termination_file.as_ref().and_then(|path| {
        let file = std::fs::File::open(path).ok()?;
        let mut bytes = Vec::new();
        file.take(MESSAGE_LIMIT).read_to_end(&mut bytes).ok()?;
        Some(String::from_utf8_lossy(&bytes).into_owned()).filter(|text| !text.is_empty())
    });
    let falls_back = record
        .annotations
        .get(labels::TERMINATION_POLICY)
        .is_some_and(|policy| policy == "FallbackToLogsOnError");
    if let Some(text) = written {
        record.message = text;
    } else if falls_back && (record.exit_code != 0 || record.reason == "OOMKilled") {
        record.message = crate::server::logs::tail_text(record.log_path.as_ref(), LOG_LINES, LOG_LIMIT);
    }
}

/// One line of the runtime's listing, enough to see that something changed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Fingerprint(BTreeMap<String, i32>);

/// Wakes pods when the runtime's view of them changes.
///
/// Runtimes with CRI container events tell by themselves. Others (containerd before 1.7) are asked once a second while
/// there is anything to ask about: two short calls.
pub struct Relister {
    cri: Cri,
    seen: HashMap<String, Fingerprint>,
}

/// What a listing found.
pub struct Relisted {
    /// Every pod UID that the runtime holds anything of.
    pub all: Vec<String>,
    /// Those that differ from the listing before.
    pub changed: Vec<String>,
}

impl Relister {
    /// A relister that has seen nothing yet.
    pub fn new(cri: Cri) -> Relister {
        Relister { cri, seen: HashMap::new() }
    }

    /// Lists once.
    pub async fn relist(&mut self) -> Result<Relisted, cri::Error> {
        let (sandboxes, containers) =
            tokio::try_join!(self.cri.list_pod_sandbox(None), self.cri.list_containers(None))?;
        let mut now: HashMap<String, Fingerprint> = HashMap::new();
        for sandbox in sandboxes {
            if let Some(uid) = sandbox.labels.get(labels::POD_UID) {
                now.entry(uid.clone()).or_default().0.insert(sandbox.id, sandbox.state);
            }
        }
        for container in containers {
            if let Some(uid) = container.labels.get(labels::POD_UID) {
                now.entry(uid.clone()).or_default().0.insert(container.id, container.state);
            }
        }
        let gone = self.seen.keys().filter(|uid| !now.contains_key(*uid)).cloned();
        let changed =
            now.iter().filter(|(uid, print)| self.seen.get(*uid) != Some(print)).map(|(uid, _)| uid.clone());
        let changed = changed.chain(gone).collect();
        let all = now.keys().cloned().collect();
        self.seen = now;
        Ok(Relisted { all, changed })
    }
}

/// How long to wait between two listings.
const RELIST: Duration = Duration::from_secs(1);

/// Keeps asking or listening until stopped, and calls `wake` with each pod that changed and `healthy` with the outcome.
pub async fn follow(
    cri: Cri,
    wake: Arc<dyn Fn(Relisted) + Send + Sync>,
    healthy: Arc<dyn Fn(bool) + Send + Sync>,
    anything: Arc<dyn Fn() -> bool + Send + Sync>,
    stop: CancellationToken,
) {
    let mut relister = Relister::new(cri.clone());
    let mut events: Option<cri::Events> = None;
    let mut has_events = true;
    loop {
        match relister.relist().await {
            Ok(found) => {
                healthy(true);
                if !found.changed.is_empty() {
                    wake(found);
                }
            }
            Err(error) => {
                tracing::debug!(error = %error, "relist failed");
                healthy(false);
            }
        }
        if events.is_none() && has_events {
            match cri.container_events().await {
                Ok(stream) => events = Some(stream),
                Err(error) => has_events = error.is_unavailable(),
            }
        }
        // With events a listing now and then catches what an event stream may lose across a restart of the runtime.
        let pause = match (&events, anything()) {
            (Some(_), _) => RELIST * 60,
            (None, true) => RELIST,
            (None, false) => RELIST * 10,
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
            event = next_event(&mut events) => if event.is_none() { events = None },
        }
    }
}

async fn next_event(events: &mut Option<cri::Events>) -> Option<()> {
    match events {
        Some(stream) => stream.next().await.map(|_| ()),
        None => std::future::pending().await,
    }
}
