//! `cox balancer`: one address in front of several API servers.
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;

use balancer::{Balancer, Check, Config, Following, Trust};
use clap::{Args, ValueEnum};

use crate::output::Failure;

/// Flags of the balancer.
#[derive(Args, Debug)]
pub struct Flags {
    /// Address and port that clients connect to.
    #[arg(long, default_value = "127.0.0.1:6443")]
    listen: SocketAddr,
    /// Address and port of an API server; again for each.
    #[arg(long, value_delimiter = ',', required = true)]
    backend: Vec<SocketAddr>,
    /// How an API server is asked whether it is well: at /readyz, or only by a connection.
    #[arg(long, value_enum, default_value_t = How::Readyz)]
    check: How,
    /// CA of the API servers, for /readyz; without it any certificate will do, as nothing secret is sent.
    #[arg(long)]
    certificate_authority: Option<PathBuf>,
    /// Time between two checks.
    #[arg(long, value_parser = super::go_duration, default_value = "400ms")]
    interval: std::time::Duration,
    /// How long an answer may take.
    #[arg(long, value_parser = super::go_duration, default_value = "500ms")]
    timeout: std::time::Duration,
    /// Most clients at a time; others wait.
    #[arg(long, default_value_t = 4096)]
    max_connections: usize,
}

/// How an API server is asked whether it is well.
#[derive(Debug, Clone, Copy, ValueEnum)]
enum How {
    Readyz,
    Connect,
}

/// Runs the balancer until it is asked to stop.
pub async fn run(flags: Box<Flags>) -> Result<ExitCode, Failure> {
    let check = match (flags.check, &flags.certificate_authority) {
        (How::Connect, _) => Check::Connect,
        (How::Readyz, None) => Check::Readyz(Trust::Anyone),
        (How::Readyz, Some(path)) => {
            let make = |all: &[Vec<u8>]| {
                let pem = all.first().cloned().unwrap_or_default();
                Trust::Authority(pem).client().map_err(|e| e.to_string())
            };
            let fresh = pki::Fresh::open(vec![path.clone()], make)
                .map_err(|e| Failure::new(e.to_string(), "see --certificate-authority"))?;
            Check::Readyz(Trust::Following(Following::new(move || fresh.get())))
        }
    };
    let config = Config {
        check,
        interval: flags.interval,
        patience: flags.timeout,
        max_connections: flags.max_connections.clamp(1, tokio::sync::Semaphore::MAX_PERMITS),
        ..Config::new(flags.listen, flags.backend)
    };
    let stop = super::stop_on_signal()?;
    let backends = config.backends.len();
    let balancer = Balancer::bind(config).await.map_err(|e| Failure::of(&e))?;
    tracing::info!(listen = %balancer.address(), backends, "the balancer listens");
    super::ended(balancer.run(stop).await)
}
