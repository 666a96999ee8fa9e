//! Cells of pods.
use std::collections::BTreeMap;

use jiff::Timestamp;
use machinery::Object;
use serde_json::Value;

use super::{age, holds, or, since, text};

/// How often containers restarted, and when the last one that did had ended.
#[derive(Default)]
struct Restarts<'v> {
    count: i64,
    last: &'v str,
}

impl<'v> Restarts<'v> {
    fn add(&mut self, status: &'v Value) {
        self.count += status.get("restartCount").and_then(Value::as_i64).unwrap_or(0);
        let ended = text(status, &["lastState", "terminated", "finishedAt"]);
        // Times in this form order as their texts do.
        if ended > self.last {
            self.last = ended;
        }
    }

    fn show(&self, now: Timestamp) -> String {
        if self.count != 0 && !self.last.is_empty() {
            format!("{} ({} ago)", self.count, since(self.last, now))
        } else {
            self.count.to_string()
        }
    }
}

fn state<'v>(status: &'v Value, state: &str) -> Option<&'v Value> {
    status.get("state")?.get(state).filter(|s| s.is_object())
}

/// Why a container ended: its reason, else the signal, else the exit code.
fn ended(terminated: &Value) -> String {
    let reason = text(terminated, &["reason"]);
    let number = |key: &str| terminated.get(key).and_then(Value::as_i64).unwrap_or(0);
    match (reason, number("signal")) {
        ("", 0) => format!("ExitCode:{}", number("exitCode")),
        ("", signal) => format!("Signal:{signal}"),
        (reason, _) => reason.to_owned(),
    }
}

fn is_ready(status: &Value) -> bool {
    status.get("ready") == Some(&Value::Bool(true))
}

/// What init containers say of a pod: `None` once all are done.
fn initializing<'v>(
    pod: &'v Object,
    sidecars: &BTreeMap<&str, bool>,
    all: &mut Restarts<'v>,
    of_sidecars: &mut Restarts<'v>,
    ready: &mut usize,
) -> Option<String> {
    for (i, status) in pod.list_at(&["status", "initContainerStatuses"]).iter().enumerate() {
        let sidecar = sidecars.get(text(status, &["name"])) == Some(&true);
        all.add(status);
        if sidecar {
            of_sidecars.add(status);
        }
        let terminated = state(status, "terminated");
        let waiting = state(status, "waiting").map_or("", |w| text(w, &["reason"]));
        if terminated.is_some_and(|t| t.get("exitCode").and_then(Value::as_i64).unwrap_or(0) == 0) {
            continue;
        }
        if sidecar && status.get("started") == Some(&Value::Bool(true)) {
            *ready += usize::from(is_ready(status));
            continue;
        }
        return Some(match (terminated, waiting) {
            (Some(terminated), _) => format!("Init:{}", ended(terminated)),
            (None, "" | "PodInitializing") => {
                format!("Init:{i}/{}", pod.list_at(&["spec", "initContainers"]).len())
            }
            (None, reason) => format!("Init:{reason}"),
        });
    }
    None
}

pub(super) fn pod(pod: &Object, now: Timestamp) -> Vec<Value> {
    let phase = pod.str_at(&["status", "phase"]);
    let status_reason = pod.str_at(&["status", "reason"]);
    let mut reason = if status_reason.is_empty() { phase } else { status_reason }.to_owned();
    let gated = pod
        .list_at(&["status", "conditions"])
        .iter()
        .any(|c| text(c, &["type"]) == "PodScheduled" && text(c, &["reason"]) == "SchedulingGated");
    if gated {
        reason = "SchedulingGated".into();
    }

    let sidecars: BTreeMap<&str, bool> = pod
        .list_at(&["spec", "initContainers"])
        .iter()
        .map(|c| (text(c, &["name"]), text(c, &["restartPolicy"]) == "Always"))
        .collect();
    let total = pod.list_at(&["spec", "containers"]).len() + sidecars.values().filter(|s| **s).count();
    let mut ready = 0;
    let (mut restarts, mut of_sidecars) = (Restarts::default(), Restarts::default());
    let init = initializing(pod, &sidecars, &mut restarts, &mut of_sidecars, &mut ready);
    let still_initializing = init.is_some();
    if let Some(init) = init {
        reason = init;
    }
    if !still_initializing || holds(pod, "Initialized") {
        restarts = of_sidecars;
        let (mut running, mut error) = (false, None);
        for status in pod.list_at(&["status", "containerStatuses"]).iter().rev() {
            restarts.add(status);
            let waiting = state(status, "waiting").map_or("", |w| text(w, &["reason"]));
            if !waiting.is_empty() {
                reason = waiting.to_owned();
            } else if let Some(terminated) = state(status, "terminated") {
                reason = ended(terminated);
                if terminated.get("exitCode").and_then(Value::as_i64).unwrap_or(0) != 0 {
                    error = Some(reason.clone());
                }
            } else if is_ready(status) && state(status, "running").is_some() {
                running = true;
                ready += 1;
            }
        }
        // Some containers have done their work, but others go on, or have failed.
        if reason == "Completed" {
            match error {
                _ if running && holds(pod, "Ready") => reason = "Running".into(),
                Some(error) => reason = error,
                None if running => reason = "NotReady".into(),
                None => {}
            }
        }
    }
    if pod.is_deleting() && status_reason == "NodeLost" {
        reason = "Unknown".into();
    } else if pod.is_deleting() && !matches!(phase, "Succeeded" | "Failed") {
        reason = "Terminating".into();
    }

    let ip = match pod.list_at(&["status", "podIPs"]).first() {
        Some(ip) => text(ip, &["ip"]),
        None => pod.str_at(&["status", "podIP"]),
    };
    vec![
        pod.name().into(),
        format!("{ready}/{total}").into(),
        reason.into(),
        restarts.show(now).into(),
        age(pod, now),
        or(ip, "<none>"),
        or(pod.str_at(&["spec", "nodeName"]), "<none>"),
        or(pod.str_at(&["status", "nominatedNodeName"]), "<none>"),
        gates(pod),
    ]
}

fn gates(pod: &Object) -> Value {
    let gates = pod.list_at(&["spec", "readinessGates"]);
    if gates.is_empty() {
        return "<none>".into();
    }
    let open = gates.iter().filter(|gate| holds(pod, text(gate, &["conditionType"]))).count();
    format!("{open}/{}", gates.len()).into()
}
