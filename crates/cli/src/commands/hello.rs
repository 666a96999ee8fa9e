//! `cox hello`: what the image localhost/cox/hello runs.
use std::process::ExitCode;

use crate::output::Failure;

/// Serves until it is ended.
pub async fn hello(port: u16) -> Result<ExitCode, Failure> {
    let config = images::HelloConfig {
        listen: std::net::SocketAddr::from(([0, 0, 0, 0], port)),
        identity: images::Identity::from_lookup(|name| std::env::var(name).ok()),
    };
    tokio::task::spawn_blocking(move || images::run_hello(config))
        .await
        .map_err(|e| Failure::of(&e))?
        .map_err(|e| Failure::new(format!("cannot serve on port {port}: {e}"), "is the port in use?"))?;
    Ok(ExitCode::SUCCESS)
}
