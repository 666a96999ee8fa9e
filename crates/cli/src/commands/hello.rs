//! `cox hello`: what the image localhost/cox/hello runs.
use std::process::ExitCode;

use crate::output::Failure;

/// Serves until it is ended.
pub fn hello(port: u16) -> Result<ExitCode, Failure> {
    let config = images::HelloConfig {
        listen: std::net::SocketAddr::from(([0, 0, 0, 0], port)),
        identity: images::Identity::from_lookup(|name| std::env::var(name).ok()),
    };
    images::run_hello(config)
        .map_err(|e| Failure::new(format!("cannot serve on port {port}: {e}"), "is the port in use?"))?;
    Ok(ExitCode::SUCCESS)
}
