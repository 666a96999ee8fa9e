//! From exec to `/readyz`.
use std::process::Command;

use anyhow::Result;

use crate::Plan;
use crate::host::Host;
use crate::report::{Report, median};

/// Starts the API server alone and the whole control plane, each over a store that has the bootstrap objects.
pub async fn measure(plan: &Plan, host: &Host, report: &mut Report) -> Result<()> {
    let api_server = median_start(plan, host, || host.api_server("db-start")).await?;
    report.add("exec to /readyz, API server", api_server, "ms", "warm: bootstrap objects are there");
    let all = median_start(plan, host, || host.all_in_one()).await?;
    report.add(
        "exec to /readyz, control plane",
        all,
        "ms",
        "API server, controllers and scheduler in one process",
    );
    Ok(())
}

async fn median_start(plan: &Plan, host: &Host, command: impl Fn() -> Command) -> Result<f64> {
    // The first start writes what the others find.
    drop(host.start(command(), "start").await?);
    let mut times = Vec::new();
    for _ in 0..plan.rounds {
        let (process, time) = host.start(command(), "start").await?;
        drop(process);
        times.push(time.as_secs_f64() * 1000.0);
    }
    Ok(median(times))
}
