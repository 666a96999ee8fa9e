//! Decides what to do next for one pod: pure, from the pod's spec, what runs, and what was tried.
//!
//! The order of things follows upstream: a live sandbox first, then init containers one after the other, then the
//! regular ones; at the end sidecars in reverse order; at last the sandbox.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, Pod};

use crate::actual::{ContainerRecord, Phase, PodRuntime};
use crate::backoff::Backoff;
use crate::labels;
use crate::pod::{PodExt, Role};
use crate::text::go_duration;

/// Why a container has to go although the pod stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unhealthy {
    /// Its liveness probe failed.
    Liveness,
    /// Its startup probe failed.
    Startup,
}

/// What is remembered of a container between two looks.
#[derive(Debug, Clone, Default)]
pub struct Memory {
    /// Restart back-off.
    pub crash: Backoff,
    /// Image pull back-off, with the time and words of the last failure.
    pub pull: Backoff,
    /// The last failed pull: when, reason and message.
    pub pull_failed: Option<(Timestamp, String)>,
    /// Why the container is not running: reason and message for `state.waiting`.
    pub waiting: Option<(String, String)>,
    /// After a failure to create: not before then.
    pub retry_at: Option<Timestamp>,
}

/// All that the decision depends on.
pub struct Seen<'a> {
    /// The pod as desired.
    pub pod: &'a Pod,
    /// What the runtime holds.
    pub actual: &'a PodRuntime,
    /// What is remembered of each container.
    pub memory: &'a BTreeMap<String, Memory>,
    /// Containers, by id, that a probe found unhealthy.
    pub unhealthy: &'a BTreeMap<String, Unhealthy>,
    /// Containers, by id, whose startup is complete (probe passed, or none).
    pub started: &'a BTreeSet<String>,
    /// Names of containers that something is being done to.
    pub busy: &'a BTreeSet<String>,
    /// Whether the pod has to end: deleted, evicted, past its deadline.
    pub ending: bool,
    /// The time.
    pub now: Timestamp,
}

/// What to do about the sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SandboxStep {
    /// Nothing.
    Keep,
    /// Make one, with this attempt number; `replaces` tells that an earlier one was lost.
    Create {
        /// The attempt number.
        attempt: u32,
        /// Whether an earlier sandbox existed.
        replaces: bool,
    },
    /// Stop it: the pod has ended.
    Stop,
}

/// A container to end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kill {
    /// The runtime's id.
    pub id: String,
    /// The container's name.
    pub name: String,
    /// The words of the event.
    pub message: String,
    /// Which probe failed, if one did; it may shorten the grace period.
    pub cause: Option<Unhealthy>,
}

/// A container to start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Start {
    /// The container's name.
    pub name: String,
    /// How many of this name ran before, as far as the runtime knows.
    pub restart_count: i32,
    /// When the one before ended, for the back-off.
    pub failed_at: Option<Timestamp>,
}

/// A container that has to wait before it is started again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wait {
    /// The container's name.
    pub name: String,
    /// `state.waiting.reason`.
    pub reason: String,
    /// `state.waiting.message`.
    pub message: String,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// About the sandbox.
    pub sandbox: SandboxStep,
    /// Containers to end now.
    pub kill: Vec<Kill>,
    /// The one container to start now.
    pub start: Option<Start>,
    /// Containers in back-off.
    pub waits: Vec<Wait>,
    /// When to look again, whatever happens.
    pub wake_at: Option<Timestamp>,
    /// Whether all the pod's work is over (its phase will be Succeeded or Failed).
    pub finished: bool,
}

impl Plan {
    fn rest() -> Plan {
        Plan {
            sandbox: SandboxStep::Keep,
            kill: vec![],
            start: None,
            waits: vec![],
            wake_at: None,
            finished: false,
        }
    }

    fn wake(&mut self, at: Timestamp) {
        self.wake_at = Some(self.wake_at.map_or(at, |earlier| earlier.min(at)));
    }
}

/// Whether a container that ended like this is to be started again.
pub fn restarts_after(pod: &Pod, role: Role, container: &Container, exit_code: i32) -> bool {
    if role == Role::Sidecar {
        return true;
    }
    for rule in container.restart_policy_rules.iter().flatten() {
        let Some(on) = rule.exit_codes.as_ref().filter(|_| rule.action == "Restart") else { continue };
        let listed = on.values.iter().flatten().any(|code| *code == exit_code);
        if listed == (on.operator == "In") {
            return true;
        }
    }
    match container.restart_policy.as_deref().unwrap_or(pod.restart_policy()) {
        "Never" => false,
        "OnFailure" => exit_code != 0,
        // An init container that succeeded is done under any policy.
        _ => !(role == Role::Init && exit_code == 0),
    }
}

fn wants_start(seen: &Seen<'_>, role: Role, container: &Container, record: Option<&ContainerRecord>) -> bool {
    match record {
        None => true,
        Some(record) => match record.phase {
            Phase::Running => false,
            Phase::Created => true,
            Phase::Unknown => restarts_after(seen.pod, role, container, 137),
            Phase::Exited => restarts_after(seen.pod, role, container, record.exit_code),
        },
    }
}

/// The decision.
pub fn plan(seen: &Seen<'_>) -> Plan {
    if seen.ending || seen.pod.is_terminal() {
        return end(seen, false);
    }
    let Some(sandbox) = seen.actual.ready_sandbox() else {
        return without_sandbox(seen);
    };
    if !sandbox.host_network && !seen.pod.host_network() && sandbox.ips.is_empty() {
        return replace_sandbox(seen, sandbox.attempt + 1);
    }
    let mut plan = Plan::rest();
    let in_sandbox = |name: &str| seen.actual.latest_in(&sandbox.id, name);
    let containers = seen.pod.containers();
    let initialized = containers
        .iter()
        .any(|(role, container)| *role == Role::App && in_sandbox(&container.name).is_some());

    for (role, container) in containers.iter().filter(|(role, _)| matches!(role, Role::Init | Role::Sidecar))
    {
        let record = in_sandbox(&container.name);
        if *role == Role::Init {
            if initialized
                || record.is_some_and(|record| record.phase == Phase::Exited && record.exit_code == 0)
            {
                continue;
            }
            match record {
                Some(record) if record.phase == Phase::Running => {
                    probe_kill(seen, &mut plan, container, record);
                    return plan;
                }
                Some(record) if !wants_start(seen, *role, container, Some(record)) => return end(seen, true),
                _ => {}
            }
            consider_start(seen, &mut plan, container, record);
            return plan;
        }
        let running = record.filter(|record| record.phase == Phase::Running);
        if let Some(record) = running {
            probe_kill(seen, &mut plan, container, record);
        } else {
            consider_start(seen, &mut plan, container, record);
        }
        let started = running.is_some_and(|record| seen.started.contains(&record.id));
        if !initialized && !started {
            return plan;
        }
    }

    let mut alive = 0;
    for (role, container) in containers.iter().filter(|(role, _)| *role == Role::App) {
        // A container of an earlier sandbox counts as long as it has ended for good.
        let record = in_sandbox(&container.name).or_else(|| ended_for_good(seen, *role, container));
        match record {
            Some(record) if record.phase == Phase::Running => {
                alive += 1;
                let image = container.image.as_deref().unwrap_or_default();
                if !record.hash.is_empty() && record.hash != labels::container_hash(&container.name, image) {
                    kill(
                        seen,
                        &mut plan,
                        record,
                        format!("Container {} definition changed, will be restarted", record.name),
                        None,
                    );
                } else {
                    probe_kill(seen, &mut plan, container, record);
                }
            }
            _ if wants_start(seen, *role, container, record) => {
                alive += 1;
                consider_start(seen, &mut plan, container, record);
            }
            _ => {}
        }
    }
    if alive == 0 && containers.iter().any(|(role, _)| *role == Role::App) {
        return end(seen, true);
    }
    plan
}

fn ended_for_good<'a>(seen: &'a Seen<'_>, role: Role, container: &Container) -> Option<&'a ContainerRecord> {
    let record = seen.actual.latest(&container.name)?;
    (record.phase == Phase::Exited && !wants_start(seen, role, container, Some(record))).then_some(record)
}

fn without_sandbox(seen: &Seen<'_>) -> Plan {
    let attempt = seen.actual.sandboxes.first().map_or(0, |last| last.attempt + 1);
    let unfinished = seen.pod.containers().iter().any(|(role, container)| {
        let record = seen.actual.latest(&container.name);
        *role == Role::App && wants_start(seen, *role, container, record)
    });
    let ran = !seen.actual.containers.is_empty();
    // A pod that must not restart ends with its sandbox; so does one that has nothing left to run.
    if attempt > 0 && ran && (!unfinished || seen.pod.restart_policy() == "Never") {
        return end(seen, true);
    }
    replace_sandbox(seen, attempt)
}

fn replace_sandbox(seen: &Seen<'_>, attempt: u32) -> Plan {
    let mut plan = Plan::rest();
    for record in seen.actual.running() {
        kill(seen, &mut plan, record, format!("Stopping container {}", record.name), None);
    }
    if plan.kill.is_empty() && seen.busy.is_empty() {
        plan.sandbox = SandboxStep::Create { attempt, replaces: attempt > 0 };
    }
    plan
}

/// Ends everything: regular containers first, then sidecars from the last to the first, then the sandbox.
fn end(seen: &Seen<'_>, finished: bool) -> Plan {
    let mut plan = Plan { finished, ..Plan::rest() };
    let containers = seen.pod.containers();
    let order = |name: &str| {
        containers.iter().position(|(role, container)| *role == Role::Sidecar && container.name == name)
    };
    let alive: Vec<_> = seen.actual.running().collect();
    let others = alive.iter().any(|record| order(&record.name).is_none());
    let last_sidecar = alive.iter().filter_map(|record| order(&record.name)).max();
    for record in &alive {
        let due = match order(&record.name) {
            None => true,
            place => !others && place == last_sidecar,
        };
        if due {
            kill(seen, &mut plan, record, format!("Stopping container {}", record.name), None);
        }
    }
    if alive.is_empty() && seen.busy.is_empty() && seen.actual.sandboxes.iter().any(|sandbox| sandbox.ready) {
        plan.sandbox = SandboxStep::Stop;
    }
    plan
}

fn kill(
    seen: &Seen<'_>,
    plan: &mut Plan,
    record: &ContainerRecord,
    message: String,
    cause: Option<Unhealthy>,
) {
    if !seen.busy.contains(&record.name) {
        plan.kill.push(Kill { id: record.id.clone(), name: record.name.clone(), message, cause });
    }
}

fn probe_kill(seen: &Seen<'_>, plan: &mut Plan, container: &Container, record: &ContainerRecord) {
    let Some(cause) = seen.unhealthy.get(&record.id) else { return };
    let probe = match cause {
        Unhealthy::Liveness => "liveness",
        Unhealthy::Startup => "startup",
    };
    let role = seen.pod.container(&container.name).map_or(Role::App, |(role, _)| role);
    let again = if restarts_after(seen.pod, role, container, 137) { ", will be restarted" } else { "" };
    let word = if role == Role::App { "Container" } else { "Init container" };
    let message = format!("{word} {} failed {probe} probe{again}", record.name);
    kill(seen, plan, record, message, Some(cause.clone()));
}

/// Plans a start unless the container is busy or in back-off; containers of one pod start one after the other.
fn consider_start(seen: &Seen<'_>, plan: &mut Plan, container: &Container, record: Option<&ContainerRecord>) {
    if seen.busy.contains(&container.name) {
        return;
    }
    let none = Memory::default();
    let memory = seen.memory.get(&container.name).unwrap_or(&none);
    let history = record.or_else(|| seen.actual.latest(&container.name));
    let failed_at =
        history.filter(|record| record.phase == Phase::Exited).and_then(|record| record.finished_at);
    if let Some((wait, until)) = failed_at.and_then(|failed| memory.crash.waiting(failed, seen.now)) {
        plan.waits.push(Wait {
            name: container.name.clone(),
            reason: "CrashLoopBackOff".into(),
            message: format!(
                "back-off {} restarting failed container={} pod={}",
                go_duration(wait),
                container.name,
                seen.pod.printed()
            ),
        });
        plan.wake(until);
        return;
    }
    if let Some((failed, words)) = &memory.pull_failed {
        if let Some((_, until)) = memory.pull.waiting(*failed, seen.now) {
            let image = container.image.as_deref().unwrap_or_default();
            plan.waits.push(Wait {
                name: container.name.clone(),
                reason: "ImagePullBackOff".into(),
                message: format!("Back-off pulling image \"{image}\": {words}"),
            });
            plan.wake(until);
            return;
        }
    }
    if let Some(until) = memory.retry_at.filter(|until| *until > seen.now) {
        plan.wake(until);
        return;
    }
    if plan.start.is_none() && seen.busy.is_empty() {
        let restart_count = history.map_or(0, |record| record.restart_count + 1);
        plan.start = Some(Start { name: container.name.clone(), restart_count, failed_at });
    }
}

/// When a pod with `activeDeadlineSeconds` is over, counted from its start.
pub fn deadline(pod: &Pod, started: Option<Timestamp>) -> Option<Timestamp> {
    let seconds = u64::try_from(pod.spec().active_deadline_seconds?).ok()?;
    started?.checked_add(Duration::from_secs(seconds)).ok()
}

#[cfg(test)]
mod tests;
