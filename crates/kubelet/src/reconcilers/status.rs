//! The pod's status, from its spec, what runs and what is remembered: pure. Upstream's conditions, reasons and phases.

mod patch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{
    Container, ContainerState, ContainerStateRunning, ContainerStateTerminated, ContainerStateWaiting,
    ContainerStatus, HostIP, Pod, PodCondition, PodIP, PodStatus, VolumeMountStatus,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use crate::actual::{ContainerRecord, Phase, PodRuntime};
use crate::plan::{Memory, restarts_after};
use crate::pod::{PodExt, Role, as_container};

pub use patch::patch;

/// Why a pod was ended by the kubelet itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    /// `status.reason`: `DeadlineExceeded`, `Evicted` ...
    pub reason: String,
    /// `status.message`.
    pub message: String,
    /// Whether condition `DisruptionTarget` is to be set.
    pub disruption: bool,
}

/// All that the status depends on.
pub struct Seen<'a> {
    /// The pod, with the status that the API last had.
    pub pod: &'a Pod,
    /// What the runtime holds.
    pub actual: &'a PodRuntime,
    /// What is remembered of each container.
    pub memory: &'a BTreeMap<String, Memory>,
    /// Containers, by id, that are ready.
    pub ready: &'a BTreeSet<String>,
    /// Containers, by id, whose startup is complete.
    pub started: &'a BTreeSet<String>,
    /// Whether nothing will run again: the pod ended, or is being ended and all has stopped.
    pub terminal: bool,
    /// Set when the kubelet ended the pod.
    pub verdict: Option<&'a Verdict>,
    /// The node's addresses.
    pub host_ips: &'a [IpAddr],
    /// The time.
    pub now: Timestamp,
}

/// The status to report.
pub fn generate(seen: &Seen<'_>) -> PodStatus {
    let none = PodStatus::default();
    let before = seen.pod.status.as_ref().unwrap_or(&none);
    let spec = seen.pod.spec();
    let mut status = PodStatus {
        nominated_node_name: before.nominated_node_name.clone(),
        resource_claim_statuses: before.resource_claim_statuses.clone(),
        qos_class: Some(before.qos_class.clone().unwrap_or_else(|| seen.pod.qos_class().to_owned())),
        observed_generation: seen.pod.metadata.generation,
        start_time: Some(before.start_time.clone().unwrap_or(Time(seen.now))),
        reason: before.reason.clone().filter(|_| matches!(before.phase.as_deref(), Some("Failed"))),
        message: before.message.clone().filter(|_| matches!(before.phase.as_deref(), Some("Failed"))),
        ..Default::default()
    };
    let has_inits = spec.init_containers.as_ref().is_some_and(|inits| !inits.is_empty());
    let started_any = spec.containers.iter().any(|container| seen.actual.latest(&container.name).is_some());
    let waiting = if has_inits && !started_any { "PodInitializing" } else { "ContainerCreating" };
    let old = |list: &Option<Vec<ContainerStatus>>, name: &str| {
        list.as_ref().and_then(|list| list.iter().find(|status| status.name == name)).cloned()
    };
    let init = |(role, container): &(Role, &Container)| {
        let before = old(&before.init_container_statuses, &container.name);
        container_status(seen, *role, container, before, "PodInitializing")
    };
    let app = |container: &Container| {
        let before = old(&before.container_statuses, &container.name);
        container_status(seen, Role::App, container, before, waiting)
    };
    let inits: Vec<_> =
        seen.pod.containers().iter().filter(|(role, _)| *role != Role::App).map(init).collect();
    let apps: Vec<_> = spec.containers.iter().map(app).collect();
    let ephemeral: Vec<_> = spec
        .ephemeral_containers
        .iter()
        .flatten()
        .filter_map(as_container)
        .map(|container| {
            let before = old(&before.ephemeral_container_statuses, &container.name);
            container_status(seen, Role::Ephemeral, &container, before, "ContainerCreating")
        })
        .collect();

    status.phase = Some(phase(seen, &inits, &apps).to_owned());
    if let Some(verdict) = seen.verdict {
        status.phase = Some("Failed".into());
        status.reason = Some(verdict.reason.clone());
        status.message = Some(verdict.message.clone());
    }
    if matches!(before.phase.as_deref(), Some("Failed" | "Succeeded")) {
        status.phase.clone_from(&before.phase);
    }
    // A final phase is reported only once nothing runs any more.
    if seen.actual.running().next().is_some()
        && matches!(status.phase.as_deref(), Some("Failed" | "Succeeded"))
    {
        status.phase = Some(before.phase.clone().unwrap_or_else(|| "Running".into()));
    }
    addresses(seen, before, &mut status);
    status.conditions = Some(conditions(seen, before, &status, &inits, &apps));
    status.init_container_statuses = Some(inits).filter(|list| !list.is_empty());
    status.container_statuses = Some(apps).filter(|list| !list.is_empty());
    status.ephemeral_container_statuses = Some(ephemeral).filter(|list| !list.is_empty());
    status
}

fn addresses(seen: &Seen<'_>, before: &PodStatus, status: &mut PodStatus) {
    status.host_ip = seen.host_ips.first().map(IpAddr::to_string);
    let host_ips: Vec<_> = seen.host_ips.iter().map(|ip| HostIP { ip: ip.to_string() }).collect();
    status.host_ips = Some(host_ips).filter(|ips| !ips.is_empty());
    let ips: Vec<String> = if seen.pod.host_network() {
        seen.host_ips.iter().map(IpAddr::to_string).collect()
    } else {
        seen.actual.ready_sandbox().map(|sandbox| sandbox.ips.clone()).unwrap_or_default()
    };
    if ips.is_empty() {
        // The sandbox of an ended pod is gone, its address stays on record.
        status.pod_ip.clone_from(&before.pod_ip);
        status.pod_ips.clone_from(&before.pod_ips);
    } else if seen.pod.host_network() && seen.actual.is_empty() {
        // Host-network pods get their address with their sandbox.
    } else {
        status.pod_ip = ips.first().cloned();
        status.pod_ips = Some(ips.into_iter().map(|ip| PodIP { ip }).collect());
    }
}

fn container_status(
    seen: &Seen<'_>,
    role: Role,
    container: &Container,
    before: Option<ContainerStatus>,
    waiting: &str,
) -> ContainerStatus {
    let mut history = seen.actual.history(&container.name);
    let spec_image = container.image.clone().unwrap_or_default();
    let mut status = match history.next() {
        Some(record) => {
            let mut status = from_record(seen, record, &spec_image);
            status.restart_count =
                status.restart_count.max(before.as_ref().map_or(0, |before| before.restart_count));
            status.last_state = history
                .find(|older| older.phase == Phase::Exited)
                .map(terminated)
                .map(|terminated| ContainerState { terminated: Some(terminated), ..Default::default() });
            if status.last_state.is_none() {
                let earlier = before.as_ref().and_then(|before| before.last_state.clone());
                let own_end = earlier
                    .as_ref()
                    .and_then(|state| state.terminated.as_ref())
                    .and_then(|t| t.container_id.clone());
                status.last_state = earlier.filter(|_| own_end != status.container_id);
            }
            status
        }
        None => vanished(seen, role, container, before, waiting, spec_image),
    };
    let again = match &status.state {
        Some(ContainerState { terminated: Some(end), .. }) => {
            role != Role::Ephemeral && restarts_after(seen.pod, role, container, end.exit_code)
        }
        Some(ContainerState { running: Some(_), .. }) => false,
        _ => true,
    };
    if let Some((reason, message)) = seen
        .memory
        .get(&container.name)
        .and_then(|memory| memory.waiting.clone())
        .filter(|_| again && !seen.terminal)
    {
        if let Some(state @ ContainerState { terminated: Some(_), .. }) = status.state.take() {
            status.last_state = Some(state);
        }
        status.state = Some(waiting_state(&reason, Some(message)));
    }
    status.ready = match (role, &status.state) {
        (Role::Init, Some(ContainerState { terminated: Some(end), .. })) => end.exit_code == 0,
        (Role::Init | Role::Ephemeral, _) => false,
        (_, Some(ContainerState { running: Some(_), .. })) => {
            seen.actual.latest(&container.name).is_some_and(|record| seen.ready.contains(&record.id))
        }
        _ => false,
    };
    let running = matches!(&status.state, Some(ContainerState { running: Some(_), .. }));
    let is_started = running
        && (role == Role::Init
            || seen.actual.latest(&container.name).is_some_and(|record| seen.started.contains(&record.id)));
    status.started = Some(is_started);
    if let Some(mounts) = container.volume_mounts.as_ref().filter(|mounts| !mounts.is_empty()) {
        let reported = mounts.iter().map(|mount| VolumeMountStatus {
            name: mount.name.clone(),
            mount_path: mount.mount_path.clone(),
            read_only: mount.read_only.filter(|read_only| *read_only),
            recursive_read_only: mount.read_only.filter(|read_only| *read_only).map(|_| {
                mount
                    .recursive_read_only
                    .clone()
                    .filter(|mode| mode == "Enabled")
                    .unwrap_or_else(|| "Disabled".into())
            }),
            ..Default::default()
        });
        status.volume_mounts = Some(reported.collect());
    }
    if running {
        status.resources.clone_from(&container.resources);
        status.allocated_resources =
            container.resources.as_ref().and_then(|resources| resources.requests.clone());
    }
    status
}

fn waiting_state(reason: &str, message: Option<String>) -> ContainerState {
    let waiting = ContainerStateWaiting {
        reason: Some(reason.to_owned()),
        message: message.filter(|text| !text.is_empty()),
    };
    ContainerState { waiting: Some(waiting), ..Default::default() }
}

/// The status of a container that the runtime does not know: not made yet, or lost.
fn vanished(
    seen: &Seen<'_>,
    role: Role,
    container: &Container,
    before: Option<ContainerStatus>,
    waiting: &str,
    image: String,
) -> ContainerStatus {
    let fresh = ContainerStatus {
        name: container.name.clone(),
        image,
        state: Some(waiting_state(waiting, None)),
        ..Default::default()
    };
    let Some(before) = before else { return fresh };
    match &before.state {
        Some(ContainerState { terminated: Some(_), .. }) => before,
        Some(ContainerState { running: Some(running), .. }) => {
            let lost = ContainerStateTerminated {
                exit_code: 137,
                reason: Some("ContainerStatusUnknown".into()),
                message: Some("The container could not be located when the pod was terminated".into()),
                started_at: running.started_at.clone(),
                container_id: before.container_id.clone(),
                ..Default::default()
            };
            let lost = ContainerState { terminated: Some(lost), ..Default::default() };
            let revived =
                !seen.terminal && role != Role::Ephemeral && restarts_after(seen.pod, role, container, 137);
            ContainerStatus {
                restart_count: before.restart_count + i32::from(revived),
                state: if revived { fresh.state } else { Some(lost.clone()) },
                last_state: if revived { Some(lost) } else { before.last_state.clone() },
                ..before
            }
        }
        _ if seen.terminal => before,
        _ => ContainerStatus { restart_count: before.restart_count, last_state: before.last_state, ..fresh },
    }
}

fn terminated(record: &ContainerRecord) -> ContainerStateTerminated {
    ContainerStateTerminated {
        exit_code: record.exit_code,
        reason: Some(record.reason.clone()).filter(|reason| !reason.is_empty()).or_else(|| {
            Some(if record.exit_code == 0 { "Completed".to_owned() } else { "Error".to_owned() })
        }),
        message: Some(record.message.clone()).filter(|message| !message.is_empty()),
        started_at: record.started_at.map(Time),
        finished_at: record.finished_at.map(Time),
        container_id: Some(container_id(record)),
        signal: None,
    }
}

/// The id with the runtime's scheme, as the API has it.
fn container_id(record: &ContainerRecord) -> String {
    format!("{}://{}", crate::RUNTIME_SCHEME, record.id)
}

fn from_record(seen: &Seen<'_>, record: &ContainerRecord, spec_image: &str) -> ContainerStatus {
    let _ = seen;
    let state = match record.phase {
        Phase::Running => ContainerState {
            running: Some(ContainerStateRunning { started_at: record.started_at.map(Time) }),
            ..Default::default()
        },
        Phase::Exited => ContainerState { terminated: Some(terminated(record)), ..Default::default() },
        Phase::Created => waiting_state("ContainerCreating", None),
        Phase::Unknown => ContainerState {
            terminated: Some(ContainerStateTerminated {
                exit_code: 137,
                reason: Some("ContainerStatusUnknown".into()),
                message: Some("The container could not be located when the pod was terminated".into()),
                container_id: Some(container_id(record)),
                ..Default::default()
            }),
            ..Default::default()
        },
    };
    let image = if record.image.is_empty() || record.image.starts_with("sha256:") {
        spec_image
    } else {
        &record.image
    };
    ContainerStatus {
        name: record.name.clone(),
        image: image.to_owned(),
        image_id: record.image_id.clone(),
        container_id: Some(container_id(record)),
        restart_count: record.restart_count,
        state: Some(state),
        ..Default::default()
    }
}

#[derive(Default)]
struct Count {
    running: usize,
    waiting: usize,
    stopped: usize,
    succeeded: usize,
    unknown: usize,
}

fn phase(seen: &Seen<'_>, inits: &[ContainerStatus], apps: &[ContainerStatus]) -> &'static str {
    let policy = seen.pod.restart_policy();
    let roles = seen.pod.containers();
    let mut pending_init = 0;
    let mut failed_init = false;
    let mut sidecars_running = false;
    for status in inits {
        let sidecar =
            roles.iter().any(|(role, container)| *role == Role::Sidecar && container.name == status.name);
        let state = status.state.clone().unwrap_or_default();
        let last_failed = status
            .last_state
            .as_ref()
            .and_then(|state| state.terminated.as_ref())
            .map(|end| end.exit_code != 0);
        if sidecar {
            sidecars_running |= state.running.is_some();
            pending_init += usize::from(status.started != Some(true) && state.terminated.is_none());
            continue;
        }
        match (&state.terminated, last_failed) {
            (Some(end), _) if end.exit_code != 0 => failed_init = true,
            (Some(_), _) => {}
            _ if state.running.is_some() => pending_init += 1,
            (None, Some(true)) => failed_init = true,
            _ => pending_init += 1,
        }
    }
    let mut count = Count::default();
    for status in apps {
        match &status.state {
            Some(ContainerState { running: Some(_), .. }) => count.running += 1,
            Some(ContainerState { terminated: Some(end), .. }) => {
                count.stopped += 1;
                count.succeeded += usize::from(end.exit_code == 0);
            }
            Some(ContainerState { waiting: Some(_), .. }) => {
                let ended = status.last_state.as_ref().is_some_and(|state| state.terminated.is_some());
                if ended { count.stopped += 1 } else { count.waiting += 1 }
            }
            _ => count.unknown += 1,
        }
    }
    if failed_init && (policy == "Never" || seen.terminal) {
        return "Failed";
    }
    let initialized = count.running + count.stopped > 0;
    if (pending_init > 0 || failed_init) && !initialized {
        return "Pending";
    }
    if count.waiting > 0 {
        return if count.stopped > 0 { "Running" } else { "Pending" };
    }
    if count.running > 0 && count.unknown == 0 {
        return "Running";
    }
    if count.stopped > 0 && count.unknown == 0 {
        let all_well = count.stopped == count.succeeded;
        if seen.terminal {
            if sidecars_running {
                return "Running";
            }
            return if all_well { "Succeeded" } else { "Failed" };
        }
        if policy == "Always" {
            return "Running";
        }
        if all_well {
            return "Succeeded";
        }
        return if policy == "Never" { "Failed" } else { "Running" };
    }
    "Pending"
}

struct Verdicts<'a> {
    before: &'a [PodCondition],
    generation: Option<i64>,
    now: Timestamp,
    list: Vec<PodCondition>,
}

impl Verdicts<'_> {
    fn set(&mut self, kind: &str, holds: bool, reason: Option<&str>, message: Option<String>) {
        let status = if holds { "True" } else { "False" };
        let old = self.before.iter().find(|old| old.type_ == kind);
        let since = old.filter(|old| old.status == status).and_then(|old| old.last_transition_time.clone());
        self.list.push(PodCondition {
            type_: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.map(str::to_owned),
            message: message.filter(|text| !text.is_empty()),
            last_transition_time: Some(since.unwrap_or(Time(self.now))),
            last_probe_time: None,
            observed_generation: self.generation,
        });
    }
}

fn conditions(
    seen: &Seen<'_>,
    before: &PodStatus,
    status: &PodStatus,
    inits: &[ContainerStatus],
    apps: &[ContainerStatus],
) -> Vec<PodCondition> {
    let none = Vec::new();
    let old = before.conditions.as_ref().unwrap_or(&none);
    let mut out =
        Verdicts { before: old, generation: seen.pod.metadata.generation, now: seen.now, list: Vec::new() };
    let phase = status.phase.as_deref().unwrap_or_default();
    let sandbox_ready = seen
        .actual
        .ready_sandbox()
        .is_some_and(|sandbox| seen.pod.host_network() || sandbox.host_network || !sandbox.ips.is_empty());
    out.set("PodReadyToStartContainers", sandbox_ready, None, None);

    let app_started = apps.iter().any(|status| {
        status.started == Some(true)
            || status.last_state.as_ref().is_some_and(|state| state.terminated.is_some())
            || status
                .state
                .as_ref()
                .is_some_and(|state| state.terminated.is_some() || state.running.is_some())
    });
    let roles = seen.pod.containers();
    let incomplete: Vec<_> = inits
        .iter()
        .filter(|status| {
            let sidecar =
                roles.iter().any(|(role, container)| *role == Role::Sidecar && container.name == status.name);
            if sidecar { status.started != Some(true) } else { !status.ready }
        })
        .map(|status| status.name.as_str())
        .collect();
    if phase == "Succeeded" {
        out.set("Initialized", true, Some("PodCompleted"), None);
    } else if !app_started && !incomplete.is_empty() {
        let message = format!("containers with incomplete status: [{}]", incomplete.join(" "));
        out.set("Initialized", false, Some("ContainersNotInitialized"), Some(message));
    } else {
        out.set("Initialized", true, None, None);
    }

    let sidecars = inits.iter().filter(|status| {
        roles.iter().any(|(role, container)| *role == Role::Sidecar && container.name == status.name)
    });
    let unready: Vec<_> =
        sidecars.chain(apps).filter(|status| !status.ready).map(|status| status.name.as_str()).collect();
    let (containers_ready, mut reason, mut message) = match phase {
        "Succeeded" => (false, Some("PodCompleted"), None),
        "Failed" => (false, Some("PodFailed"), None),
        _ if unready.is_empty() => (true, None, None),
        _ => (
            false,
            Some("ContainersNotReady"),
            Some(format!("containers with unready status: [{}]", unready.join(" "))),
        ),
    };
    let (base_reason, base_message) = (reason, message.clone());
    let mut ready = containers_ready;
    if ready {
        let failing: Vec<String> = seen
            .pod
            .spec()
            .readiness_gates
            .iter()
            .flatten()
            .filter_map(|gate| {
                let kind = &gate.condition_type;
                match old.iter().find(|condition| condition.type_ == *kind) {
                    None => Some(format!(
                        "corresponding condition of pod readiness gate \"{kind}\" does not exist."
                    )),
                    Some(condition) if condition.status != "True" => Some(format!(
                        "the status of pod readiness gate \"{kind}\" is not \"True\", but {}",
                        condition.status
                    )),
                    Some(_) => None,
                }
            })
            .collect();
        if !failing.is_empty() {
            (ready, reason, message) = (false, Some("ReadinessGatesNotReady"), Some(failing.join(", ")));
        }
    }
    out.set("Ready", ready, reason, message);
    out.set("ContainersReady", containers_ready, base_reason, base_message);
    let scheduled =
        old.iter().find(|condition| condition.type_ == "PodScheduled" && condition.status == "True");
    match scheduled {
        Some(scheduled) => {
            out.list.push(PodCondition {
                observed_generation: seen.pod.metadata.generation,
                ..scheduled.clone()
            });
        }
        None => out.set("PodScheduled", true, None, None),
    }
    if let Some(verdict) = seen.verdict.filter(|verdict| verdict.disruption) {
        out.set("DisruptionTarget", true, Some("TerminationByKubelet"), Some(verdict.message.clone()));
    }
    out.list
}

#[cfg(test)]
mod tests;
