//! Each part by itself, with upstream's flag names for what it supports. One file each.
pub mod api_server;
mod api_server_identity;
pub mod controller_manager;
pub mod dns;
pub mod kubelet;
mod kubelet_identity;
pub mod proxy;
pub mod scheduler;
mod signing;

use std::path::Path;
use std::process::ExitCode;

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::output::Failure;

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

/// The client that `--kubeconfig` gives.
async fn client_of(kubeconfig: &Path) -> Result<kube::Client, Failure> {
    client::from_kubeconfig_file(kubeconfig).await.map_err(|e| Failure::of(&e))
}

/// Ends a part that ran until it was asked to stop.
fn ended<E: std::error::Error + 'static>(result: Result<(), E>) -> Result<ExitCode, Failure> {
    result.map(|()| ExitCode::SUCCESS).map_err(|e| Failure::of(&e))
}

/// Reads a flag that is a duration, as Go writes them.
fn go_duration(text: &str) -> Result<std::time::Duration, String> {
    let mut total = 0.0;
    let mut rest = text;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().map_err(|_| "it is no duration; one is 1m30s".to_owned())?;
        rest = &rest[digits..];
        let unit = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        total += number
            * match &rest[..unit] {
                "h" => 3600.0,
                "m" => 60.0,
                "s" => 1.0,
                "ms" => 1e-3,
                _ => return Err("it is no duration; one is 1m30s".to_owned()),
            };
        rest = &rest[unit..];
    }
    std::time::Duration::try_from_secs_f64(total).map_err(|e| e.to_string())
}

/// The host's name as a node's.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_lowercase()
}

/// Tells this process from others that may lead.
fn identity() -> String {
    format!("{}_{}", host_name(), std::process::id())
}

/// The address that this host would use to reach others.
async fn own_address() -> Result<std::net::IpAddr, Failure> {
    let addresses = net::host::addresses().await.map_err(|e| Failure::of(&e))?;
    net::host::primary_address(&addresses, &net::host::routes()).ok_or_else(|| {
        Failure::new("this host has no address that others can reach", "name one with --bind-address")
    })
}
