//! What parts cost when nothing happens.
use std::time::Duration;

use anyhow::Result;

use crate::Plan;
use crate::host::Host;
use crate::process;
use crate::report::Report;

/// After its start a part reads what there is; that is not idleness yet.
const SETTLE: Duration = Duration::from_secs(8);

/// Runs each part as a process of its own, then all in one.
pub async fn measure(plan: &Plan, host: &Host, report: &mut Report) -> Result<()> {
    let server = host.serve("db-idle").await?;
    let controllers = host.start_client("kube-controller-manager")?;
    let scheduler = host.start_client("kube-scheduler")?;
    let parts = [
        ("kube-apiserver, with its store", server.pid()),
        ("kube-controller-manager", controllers.pid()),
        ("kube-scheduler", scheduler.pid()),
    ];
    observe(plan, &parts, "idle, each part alone", report).await?;
    drop((scheduler, controllers, server));

    let (all, _) = host.start(host.all_in_one(), "control-plane").await?;
    observe(plan, &[("control plane in one process", all.pid())], "idle, control plane", report).await
}

/// Looks at processes for a while.
pub async fn observe(plan: &Plan, parts: &[(&str, u32)], what: &str, report: &mut Report) -> Result<()> {
    tokio::time::sleep(SETTLE).await;
    let before: Vec<Duration> = parts.iter().map(|(_, pid)| process::cpu(*pid)).collect::<Result<_>>()?;
    tokio::time::sleep(Duration::from_secs(plan.idle_seconds)).await;
    let mut total = 0.0;
    for ((name, pid), before) in parts.iter().zip(before) {
        let used = process::cpu(*pid)?.saturating_sub(before).as_secs_f64();
        let percent = used * 100.0 / plan.idle_seconds as f64;
        total += percent;
        report.add(
            format!("RSS idle, {name}"),
            process::resident(*pid)?,
            "MB",
            format!("CPU {percent:.2} % of a core"),
        );
    }
    report.add(format!("CPU {what}"), total, "%", format!("of one core, over {} s", plan.idle_seconds));
    Ok(())
}
