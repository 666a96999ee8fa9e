//! Runs postStart and preStop hooks, and ends containers with what is left of their grace period.

use std::time::{Duration, Instant};

use client::EventType;
use k8s_openapi::api::core::v1::{ContainerPort, LifecycleHandler, ObjectReference};
use tokio::sync::watch;

use crate::actual::ContainerRecord;
use crate::http_get;
use crate::labels;
use crate::shared::Shared;

/// A stopped container gets at least this long after its preStop hook.
const MINIMUM: Duration = Duration::from_secs(2);
/// How long an HTTP hook may take.
const HTTP: Duration = Duration::from_secs(60);

/// Runs a hook to its end; the error is what upstream puts into the event.
pub async fn run(
    shared: &Shared,
    hook: &LifecycleHandler,
    id: &str,
    ip: Option<String>,
    ports: &[ContainerPort],
) -> Result<(), String> {
    if let Some(exec) = &hook.exec {
        let command = exec.command.clone().unwrap_or_default();
        return match shared.cri.exec_sync(id, command.clone(), Duration::ZERO).await {
            Ok(answer) if answer.exit_code == 0 => Ok(()),
            Ok(answer) => Err(format!(
                "Exec lifecycle hook ({command:?}) for Container failed - error: command exited with {}: {}, message: {:?}",
                answer.exit_code,
                String::from_utf8_lossy(&answer.stderr),
                String::from_utf8_lossy(&answer.stdout)
            )),
            Err(error) => Err(error.message()),
        };
    }
    if let Some(action) = &hook.http_get {
        let target = http_get::target(action, ip.as_deref().unwrap_or_default(), ports)?;
        let (status, body) = http_get::get(&target, "kube-lifecycle/1.36", HTTP).await?;
        return if status.as_u16() < 400 {
            Ok(())
        } else {
            Err(format!("HTTP hook answered {status}: {body}"))
        };
    }
    if let Some(sleep) = &hook.sleep {
        tokio::time::sleep(Duration::from_secs(u64::try_from(sleep.seconds).unwrap_or(0))).await;
        return Ok(());
    }
    if let Some(action) = &hook.tcp_socket {
        let port = http_get::port(&action.port, ports)?;
        let host = action.host.clone().filter(|host| !host.is_empty()).or(ip).unwrap_or_default();
        let address = http_get::address(&host, port);
        return match tokio::time::timeout(HTTP, tokio::net::TcpStream::connect(&address)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) => Err(http_get::dial_error(&address, &error)),
            Err(_) => Err(format!("dial tcp {address}: i/o timeout")),
        };
    }
    Err("invalid handler: no action".into())
}

/// All that ending a container takes; works from the container's annotations, so the pod object need not exist.
pub struct Ending {
    /// The container.
    pub record: ContainerRecord,
    /// What the event is about; `None` when the pod is unknown.
    pub about: Option<ObjectReference>,
    /// The words of the `Killing` event.
    pub message: String,
    /// The pod's address, for HTTP hooks.
    pub ip: Option<String>,
    /// How long it may take; may be shortened while it runs.
    pub grace: watch::Receiver<Duration>,
}

/// Runs preStop, then stops the container within its grace period.
pub async fn end(shared: &Shared, mut ending: Ending) -> Result<(), cri::Error> {
    if let Some(about) = &ending.about {
        shared.recorder.event(about, EventType::Normal, "Killing", ending.message.clone());
    }
    let began = Instant::now();
    let note = |key: &str| ending.record.annotations.get(key);
    let hook: Option<LifecycleHandler> =
        note(labels::PRE_STOP).and_then(|json| serde_json::from_str(json).ok());
    let ports: Vec<ContainerPort> =
        note(labels::CONTAINER_PORTS).and_then(|json| serde_json::from_str(json).ok()).unwrap_or_default();
    let full = *ending.grace.borrow();
    if let Some(hook) = hook.filter(|_| full > Duration::ZERO) {
        let mut grace = ending.grace.clone();
        let over = async {
            loop {
                let allowed = *grace.borrow_and_update();
                tokio::select! {
                    () = tokio::time::sleep(allowed.saturating_sub(began.elapsed())) => return,
                    changed = grace.changed() => if changed.is_err() {
                        return std::future::pending().await;
                    },
                }
            }
        };
        tokio::select! {
            outcome = run(shared, &hook, &ending.record.id, ending.ip.clone(), &ports) => {
                if let (Err(error), Some(about)) = (&outcome, &ending.about) {
                    tracing::debug!(container = ending.record.name, error, "preStop hook failed");
                    shared.recorder.event(about, EventType::Warning, "FailedPreStopHook", "PreStopHook failed".to_owned());
                }
            }
            () = over => tracing::debug!(container = ending.record.name, "preStop hook took the whole grace period"),
        }
    }
    loop {
        let left = ending.grace.borrow_and_update().saturating_sub(began.elapsed()).max(MINIMUM.min(full));
        tokio::select! {
            stopped = shared.cri.stop_container(&ending.record.id, left) => {
                tracing::info!(container = ending.record.name, id = ending.record.id, "container stopped");
                return stopped;
            }
            // A shorter period: ask again, the runtime keeps the shortest.
            Ok(()) = ending.grace.changed() => {}
        }
    }
}
