//! Startup, liveness and readiness probes: one task for each probe of a running container.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use client::EventType;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Container, ObjectReference, Pod, Probe};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::actual::{Phase, PodRuntime};
use crate::http_get;
use crate::plan::Unhealthy;
use crate::pod::{PodExt, Role};
use crate::shared::Shared;
use crate::text::clipped;

/// Which of a container's probes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Gates the other two.
    Startup,
    /// Restarts the container.
    Liveness,
    /// Lets traffic in.
    Readiness,
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Kind::Startup => "Startup",
            Kind::Liveness => "Liveness",
            Kind::Readiness => "Readiness",
        }
    }

    fn of(self, container: &Container) -> Option<&Probe> {
        match self {
            Kind::Startup => container.startup_probe.as_ref(),
            Kind::Liveness => container.liveness_probe.as_ref(),
            Kind::Readiness => container.readiness_probe.as_ref(),
        }
    }
}

/// One probe's outcome.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// It passed.
    Success,
    /// It failed, with these words.
    Failure(String),
    /// It could not be carried out; changes nothing.
    Unknown(String),
}

/// Counts outcomes up to the thresholds: pure.
#[derive(Debug, Clone, PartialEq)]
pub struct Tally {
    state: Option<bool>,
    last: Option<bool>,
    run: i32,
    success_threshold: i32,
    failure_threshold: i32,
}

impl Tally {
    /// Starts in `state`; `None` until a threshold is reached.
    pub fn new(probe: &Probe, state: Option<bool>) -> Tally {
        Tally {
            state,
            last: None,
            run: 0,
            success_threshold: probe.success_threshold.unwrap_or(1).max(1),
            failure_threshold: probe.failure_threshold.unwrap_or(3).max(1),
        }
    }

    /// Counts one outcome; answers the state when it changes.
    pub fn count(&mut self, success: bool) -> Option<bool> {
        self.run = if self.last == Some(success) { self.run.saturating_add(1) } else { 1 };
        self.last = Some(success);
        let threshold = if success { self.success_threshold } else { self.failure_threshold };
        if self.run < threshold || self.state == Some(success) {
            return None;
        }
        self.state = Some(success);
        Some(success)
    }
}

type Results = Arc<Mutex<HashMap<(String, Kind), bool>>>;

/// The probes of one pod.
pub struct Probes {
    results: Results,
    tasks: BTreeMap<(String, Kind), AbortHandle>,
    wake: Arc<Notify>,
}

/// What the probes say of the pod's containers, by container id.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Verdicts {
    /// Running and past their startup probe.
    pub started: BTreeSet<String>,
    /// Ready for traffic.
    pub ready: BTreeSet<String>,
    /// To be ended.
    pub unhealthy: BTreeMap<String, Unhealthy>,
}

impl Drop for Probes {
    fn drop(&mut self) {
        self.tasks.values().for_each(AbortHandle::abort);
    }
}

impl Probes {
    /// No probes yet; `wake` is told when a result changes.
    pub fn new(wake: Arc<Notify>) -> Probes {
        Probes { results: Results::default(), tasks: BTreeMap::new(), wake }
    }

    fn result(&self, id: &str, kind: Kind) -> Option<bool> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner).get(&(id.to_owned(), kind)).copied()
    }

    /// Runs exactly the probes that the pod's running containers need now.
    pub fn reconcile(
        &mut self,
        shared: &Arc<Shared>,
        pod: &Arc<Pod>,
        actual: &PodRuntime,
        ending: bool,
        adopted: &BTreeSet<String>,
    ) {
        let mut wanted: BTreeSet<(String, Kind)> = BTreeSet::new();
        for (role, container) in pod.containers() {
            if role == Role::Init {
                continue;
            }
            let Some(record) = actual.latest(&container.name).filter(|record| record.phase == Phase::Running)
            else {
                continue;
            };
            let started =
                container.startup_probe.is_none() || self.result(&record.id, Kind::Startup) == Some(true);
            let kinds: &[Kind] = match (started, ending) {
                // An ending pod is still asked whether it can serve what is under way.
                (true, true) => &[Kind::Readiness],
                (_, true) => &[],
                (true, false) => &[Kind::Liveness, Kind::Readiness],
                (false, false) => &[Kind::Startup],
            };
            for kind in kinds {
                let Some(probe) = kind.of(container) else { continue };
                let key = (record.id.clone(), *kind);
                wanted.insert(key.clone());
                if self.tasks.contains_key(&key) {
                    continue;
                }
                let ip = super::container::pod_ips(shared, pod, actual.ready_sandbox())
                    .into_iter()
                    .next()
                    .unwrap_or_default();
                let job = Job {
                    shared: shared.clone(),
                    results: self.results.clone(),
                    wake: self.wake.clone(),
                    about: super::container::reference(pod, &container.name),
                    container: container.clone(),
                    probe: probe.clone(),
                    kind: *kind,
                    id: record.id.clone(),
                    ip,
                    started_at: record.started_at.unwrap_or(record.created_at),
                    adopted: adopted.contains(&record.id),
                };
                self.tasks.insert(key, tokio::spawn(job.run()).abort_handle());
            }
        }
        self.tasks.retain(|key, task| {
            let keep = wanted.contains(key);
            if !keep {
                task.abort();
            }
            keep
        });
        let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
        let alive: BTreeSet<&String> = actual.containers.iter().map(|record| &record.id).collect();
        results.retain(|(id, _), _| alive.contains(id));
    }

    /// What is known now. A container without a probe is started and ready as soon as it runs.
    pub fn verdicts(&self, pod: &Pod, actual: &PodRuntime) -> Verdicts {
        let mut out = Verdicts::default();
        for (_, container) in pod.containers() {
            let Some(record) = actual.latest(&container.name).filter(|record| record.phase == Phase::Running)
            else {
                continue;
            };
            let id = &record.id;
            let startup = container.startup_probe.as_ref().map(|_| self.result(id, Kind::Startup));
            let started = matches!(startup, None | Some(Some(true)));
            if started {
                out.started.insert(id.clone());
                if container.readiness_probe.is_none() || self.result(id, Kind::Readiness) == Some(true) {
                    out.ready.insert(id.clone());
                }
                if container.liveness_probe.is_some() && self.result(id, Kind::Liveness) == Some(false) {
                    out.unhealthy.insert(id.clone(), Unhealthy::Liveness);
                }
            } else if startup == Some(Some(false)) {
                out.unhealthy.insert(id.clone(), Unhealthy::Startup);
            }
        }
        out
    }

    /// Takes over what the API last said of a running container, so that a restarted kubelet does not take it out of
    /// service until its probes have run anew.
    pub fn adopt(&mut self, pod: &Pod, actual: &PodRuntime) -> BTreeSet<String> {
        let mut adopted = BTreeSet::new();
        let status = pod.status.as_ref();
        let lists = status.map(|status| [&status.init_container_statuses, &status.container_statuses]);
        for known in lists.into_iter().flatten().flat_map(|list| list.iter().flatten()) {
            let Some(record) = actual.latest(&known.name).filter(|record| record.phase == Phase::Running)
            else {
                continue;
            };
            let same = known.container_id.as_deref().is_some_and(|id| id.ends_with(&record.id));
            if !same {
                continue;
            }
            adopted.insert(record.id.clone());
            let mut results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
            if known.started == Some(true) {
                results.insert((record.id.clone(), Kind::Startup), true);
            }
            if known.ready {
                results.insert((record.id.clone(), Kind::Readiness), true);
            }
        }
        adopted
    }
}

struct Job {
    shared: Arc<Shared>,
    results: Results,
    wake: Arc<Notify>,
    about: ObjectReference,
    container: Container,
    probe: Probe,
    kind: Kind,
    id: String,
    ip: String,
    started_at: Timestamp,
    adopted: bool,
}

impl Job {
    async fn run(self) {
        let period =
            Duration::from_secs(u64::try_from(self.probe.period_seconds.unwrap_or(10)).unwrap_or(10).max(1));
        let delay =
            Duration::from_secs(u64::try_from(self.probe.initial_delay_seconds.unwrap_or(0)).unwrap_or(0));
        let running =
            Duration::try_from(Timestamp::now().duration_since(self.started_at)).unwrap_or_default();
        let mut initial = match self.kind {
            Kind::Startup => None,
            Kind::Liveness => Some(true),
            Kind::Readiness => Some(false),
        };
        if self.adopted {
            let results = self.results.lock().unwrap_or_else(PoisonError::into_inner);
            initial = results.get(&(self.id.clone(), self.kind)).copied().or(initial);
        }
        tokio::time::sleep(delay.saturating_sub(running)).await;
        let mut tally = Tally::new(&self.probe, initial);
        // Probes of many pods that start together spread over the period after a restart of the kubelet.
        let mut ticks = tokio::time::interval(period);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let outcome = self.once().await;
            let success = match &outcome {
                Outcome::Success => true,
                Outcome::Failure(words) => {
                    let message = format!("{} probe failed: {}", self.kind.word(), clipped(words, 1000));
                    self.shared.recorder.event(&self.about, EventType::Warning, "Unhealthy", message);
                    false
                }
                Outcome::Unknown(words) => {
                    let message =
                        format!("{} probe errored and resulted in unknown state: {words}", self.kind.word());
                    self.shared.recorder.event(&self.about, EventType::Warning, "ProbeError", message);
                    continue;
                }
            };
            if let Some(state) = tally.count(success) {
                tracing::debug!(
                    container = self.container.name,
                    id = self.id,
                    probe = self.kind.word(),
                    state,
                    "probe result"
                );
                self.results
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert((self.id.clone(), self.kind), state);
                self.wake.notify_one();
                // Startup is asked until it is decided; a failed liveness probe has done its work.
                if self.kind == Kind::Startup || (self.kind == Kind::Liveness && !state) {
                    return;
                }
            }
        }
    }

    async fn once(&self) -> Outcome {
        let limit =
            Duration::from_secs(u64::try_from(self.probe.timeout_seconds.unwrap_or(1)).unwrap_or(1).max(1));
        let ports = self.container.ports.as_deref().unwrap_or_default();
        if let Some(exec) = &self.probe.exec {
            let command = exec.command.clone().unwrap_or_default();
            return match self.shared.cri.exec_sync(&self.id, command, limit).await {
                Ok(answer) if answer.exit_code == 0 => Outcome::Success,
                Ok(answer) => {
                    let mut words = String::from_utf8_lossy(&answer.stdout).into_owned();
                    words.push_str(&String::from_utf8_lossy(&answer.stderr));
                    Outcome::Failure(words)
                }
                Err(error)
                    if error.message().contains("timed out")
                        || error.message().contains("deadline exceeded") =>
                {
                    Outcome::Failure(format!("command timed out: {}", error.message()))
                }
                Err(error) => Outcome::Unknown(error.to_string()),
            };
        }
        if let Some(action) = &self.probe.http_get {
            let target = match http_get::target(action, &self.ip, ports) {
                Ok(target) => target,
                Err(error) => return Outcome::Unknown(error),
            };
            return match http_get::get(&target, "kube-probe/1.36", limit).await {
                Ok((status, _)) if (200..400).contains(&status.as_u16()) => Outcome::Success,
                Ok((status, _)) => {
                    Outcome::Failure(format!("HTTP probe failed with statuscode: {}", status.as_u16()))
                }
                Err(error) => Outcome::Failure(error),
            };
        }
        if let Some(action) = &self.probe.tcp_socket {
            let port = match http_get::port(&action.port, ports) {
                Ok(port) => port,
                Err(error) => return Outcome::Unknown(error),
            };
            let host = action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| self.ip.clone());
            let address = http_get::address(&host, port);
            return match tokio::time::timeout(limit, tokio::net::TcpStream::connect(&address)).await {
                Ok(Ok(_)) => Outcome::Success,
                Ok(Err(error)) => Outcome::Failure(http_get::dial_error(&address, &error)),
                Err(_) => Outcome::Failure(format!("dial tcp {address}: i/o timeout")),
            };
        }
        if let Some(action) = &self.probe.grpc {
            let port = match u16::try_from(action.port) {
                Ok(port) => port,
                Err(_) => return Outcome::Unknown(format!("invalid port number: {}", action.port)),
            };
            return crate::grpc_health::check(
                &self.ip,
                port,
                action.service.as_deref().unwrap_or_default(),
                limit,
            )
            .await;
        }
        Outcome::Unknown("no probe action".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(success: i32, failure: i32, initial: Option<bool>, outcomes: &str, expect: &str) {
        let probe = Probe {
            success_threshold: Some(success),
            failure_threshold: Some(failure),
            ..Default::default()
        };
        let mut tally = Tally::new(&probe, initial);
        let seen: String = outcomes
            .chars()
            .map(|outcome| match tally.count(outcome == '+') {
                None => '.',
                Some(true) => '+',
                Some(false) => '-',
            })
            .collect();
        assert_eq!(seen, expect, "{outcomes}");
    }

    #[test]
    fn thresholds_count_outcomes_in_a_row() {
        check(1, 3, Some(true), "--+---+", ".....-+");
        check(2, 1, Some(false), "+-++-", "...+-");
        check(1, 3, None, "---", "..-");
        check(1, 3, None, "+", "+");
    }
}
