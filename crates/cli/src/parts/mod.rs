//! Each part by itself, with upstream's flag names for what it supports. One file each.
mod admission;
pub mod api_server;
mod api_server_identity;
mod audit;
mod authorization;
pub mod balancer;
pub mod controller_manager;
pub mod dns;
pub mod files;
mod health;
pub mod kubelet;
mod kubelet_identity;
pub mod opened;
pub mod proxy;
pub mod removed_flags;
mod runtime_config;
pub mod scheduler;
mod signing;

use std::path::Path;
use std::process::ExitCode;

use client::Remote;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::output::Failure;

/// The version of Kubernetes that the parts speak.
pub const VERSION: &str = "v1.36.0";

/// A token that fires on SIGTERM and SIGINT.
fn stop_on_signal() -> Result<CancellationToken, Failure> {
    let stop = CancellationToken::new();
    let on_signal = stop.clone();
    let mut terminate = signal(SignalKind::terminate()).map_err(|e| Failure::of(&e))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(|e| Failure::of(&e))?;
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {}, _ = interrupt.recv() => {} }
        on_signal.cancel();
    });
    Ok(stop)
}

/// The API server that `--kubeconfig` or `--master` names, for a part of this name.
async fn remote(kubeconfig: Option<&Path>, master: Option<&str>, part: &str) -> Result<Remote, Failure> {
    let agent = format!("{part}/{VERSION}");
    let remote = match kubeconfig {
        Some(path) => Remote::from_kubeconfig_file(path, &agent).await.map_err(|e| Failure::of(&e))?,
        None => Remote::without_credentials(&agent),
    };
    let Some(master) = master else { return Ok(remote) };
    let url = if master.contains("://") { master.to_owned() } else { format!("http://{master}") };
    let url = url.parse().map_err(|e| Failure::new(format!("{master}: {e}"), "see --master"))?;
    Ok(remote.at(url))
}

/// The client that `--kubeconfig` gives.
pub async fn client_of(kubeconfig: &Path, part: &str) -> Result<kube::Client, Failure> {
    remote(Some(kubeconfig), None, part).await?.client().map_err(|e| Failure::of(&e))
}

/// Ends a part that ran until it was asked to stop.
fn ended<E: std::error::Error + 'static>(result: Result<(), E>) -> Result<ExitCode, Failure> {
    result.map(|()| ExitCode::SUCCESS).map_err(|e| Failure::of(&e))
}

/// Reads a flag that is a duration, as Go writes them.
pub fn go_duration(text: &str) -> Result<std::time::Duration, String> {
    machinery::go_duration(text).ok_or_else(|| format!("time: invalid duration {text:?}"))
}

/// The host's name as a node's.
pub fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_lowercase()
}

/// Tells this process from others that may lead.
pub fn identity() -> String {
    format!("{}_{}", host_name(), std::process::id())
}

/// The address that this host would use to reach others; `flag` names one where there is none.
async fn own_address(flag: &str) -> Result<std::net::IpAddr, Failure> {
    let addresses = net::host::addresses().await.map_err(|e| Failure::of(&e))?;
    net::host::primary_address(&addresses, &net::host::routes()).ok_or_else(|| {
        Failure::new("this host has no address that others can reach", format!("name one with {flag}"))
    })
}
