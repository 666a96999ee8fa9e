//! `cox down`: stops a cluster and removes what is not data.
use std::process::ExitCode;

use provision::local::LocalHosts;
use provision::plan::Stage;
use provision::{Cleaning, DownOptions, Layout, Leaving, Removed, leave_all};
use serde_json::json;

use crate::args::Down;
use crate::cluster;
use crate::commands::join::leave::Joined;
use crate::hosts::{Hosts, HostsCluster};
use crate::output::{self, Failure};
use crate::run::proxy_table;

/// `cox down`.
pub async fn down(options: Down, as_json: bool) -> Result<ExitCode, Failure> {
    let layout = cluster::layout(&options.which)?;
    if !layout.exists().map_err(|e| Failure::of(&e))? {
        let named = options.which.name.is_some() || options.which.file().is_some();
        if let Some(joined) = Joined::read()?.filter(|j| !named || j.cluster == layout.name()) {
            return joined.leave(options.purge, as_json).await;
        }
        if as_json {
            output::print_json(&json!({ "name": layout.name(), "found": false }))?;
        } else {
            let data = options.which.data_dir.display();
            output::print(&format!("There is no cluster {:?} in {data}.\n", layout.name()))?;
        }
        return Ok(ExitCode::SUCCESS);
    }
    let lock = layout.lock().map_err(|e| Failure::of(&e))?;
    let table = proxy_table(layout.name());
    let etcd = cluster::etcd_of(&layout).ok().flatten();
    let mut tables = ["ip", "ip6"].map(|family| (family.to_owned(), table.clone())).to_vec();
    let mut away = Away::default();
    if let Some(cluster) = HostsCluster::kept(&options.which)? {
        away = match cluster.hosts()? {
            Hosts::Local(all) => {
                tables.extend(all.nft_tables());
                let names: Vec<String> = cluster.spec.hosts.into_iter().map(|h| h.name).collect();
                switch_off(&all, &names).await
            }
            hosts @ Hosts::Ssh { .. } => clean(&cluster, &hosts, options.purge).await?,
        };
    }
    // What it takes to try again.
    let purge = options.purge && away.unreached.is_empty();
    let what = DownOptions { purge, nft_tables: tables, ..DownOptions::default() };
    let mut removed = provision::down(&layout, &what).await;
    removed.processes += away.removed.processes;
    removed.sandboxes += away.removed.sandboxes;
    removed.leftovers += away.removed.leftovers;
    removed.problems.extend(away.removed.problems);
    drop(lock);
    if as_json {
        let value = json!({
            "name": layout.name(),
            "found": true,
            "processes": removed.processes,
            "sandboxes": removed.sandboxes,
            "leftovers": removed.leftovers,
            "purged": removed.purged,
            "etcdServers": etcd.map(|etcd| etcd.servers),
            "problems": removed.problems,
            "unreached": away.unreached,
        });
        output::print_json(&value)?;
    } else {
        say(&layout, &removed, &away.unreached, etcd)?;
    }
    let well = removed.problems.is_empty() && away.unreached.is_empty();
    Ok(if well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// What became of the hosts.
#[derive(Default)]
struct Away {
    removed: Removed,
    /// Hosts where something is left because they were not reached, or refused.
    unreached: Vec<String>,
}

/// Turns off hosts that are namespaces of this machine.
async fn switch_off(all: &LocalHosts, names: &[String]) -> Away {
    let mut away = Away::default();
    // All hosts at the same time, and what others count on last: an API server without its etcd cannot say goodbye.
    for stage in Stage::ALL.into_iter().rev() {
        let stops = names.iter().map(|name| {
            let host = all.host(name);
            async move { host.stop_stage(stage).await }
        });
        for stopped in futures::future::join_all(stops).await {
            if let Err(error) = stopped {
                tracing::debug!(%error, "a host does not stop its services");
            }
        }
    }
    let offs = names.iter().map(|name| {
        let host = all.host(name);
        async move { host.power_off().await }
    });
    for (result, name) in futures::future::join_all(offs).await.into_iter().zip(names) {
        match result {
            Ok(ran) => away.removed.processes += usize::from(ran),
            Err(e) => away.removed.problems.push(format!("host {name}: {e}")),
        }
    }
    if let Err(e) = all.remove_switch().await {
        away.removed.problems.push(format!("the hosts' network: {e}"));
    }
    away
}

/// Stops the services of machines and takes away what `up` put there.
async fn clean(cluster: &HostsCluster, hosts: &Hosts, purge: bool) -> Result<Away, Failure> {
    if !cluster.layout.pki().join("ca.crt").exists() {
        // It was never begun.
        return Ok(Away::default());
    }
    let plans = cluster.plans(&cluster.known()?)?;
    let paths = cluster.plan_options().paths;
    let over: Vec<_> = cluster.spec.hosts.iter().map(|h| hosts.host(h)).collect();
    let leaving: Vec<Leaving<'_>> = plans
        .iter()
        .zip(&over)
        .map(|(plan, host)| Leaving {
            host: &**host,
            plan,
            cleaning: Cleaning::of(plan, &cluster.spec, &paths, purge),
        })
        .collect();
    let (removed, failed) = leave_all(&leaving, &paths.program("cox")).await;
    Ok(Away { removed, unreached: failed.iter().map(ToString::to_string).collect() })
}

fn say(
    layout: &Layout,
    removed: &Removed,
    unreached: &[String],
    etcd: Option<cluster::EtcdSettings>,
) -> Result<(), Failure> {
    let data = match (removed.purged, etcd) {
        (true, None) => "its data is gone".to_owned(),
        (true, Some(etcd)) => format!(
            "its directory is gone, its objects are still in {} below {}",
            etcd.servers.join(","),
            etcd.prefix
        ),
        (false, _) => "its data is kept".to_owned(),
    };
    let down = if unreached.is_empty() { "is down" } else { "is down as far as it was reached" };
    output::print(&format!("Cluster {:?} {down}; {data}.\n", layout.name()))?;
    for problem in &removed.problems {
        output::note(&format!("  could not remove: {problem}"));
    }
    for host in unreached {
        output::note(&format!("  left as it is: {host}"));
    }
    if !unreached.is_empty() {
        output::note("  Run the same again when it is reached; what is done is not done twice.");
    }
    Ok(())
}
