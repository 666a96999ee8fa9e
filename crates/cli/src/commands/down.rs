//! `cox down`: stops a cluster and removes what is not data.
use std::process::ExitCode;

use provision::DownOptions;
use provision::plan::Stage;
use serde_json::json;

use crate::args::Down;
use crate::cluster;
use crate::hosts::{Hosts, HostsCluster};
use crate::output::{self, Failure};
use crate::run::proxy_table;

/// `cox down`.
pub async fn down(options: Down, as_json: bool) -> Result<ExitCode, Failure> {
    let layout = cluster::layout(&options.which)?;
    if !layout.exists().map_err(|e| Failure::of(&e))? {
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
    let (mut hosts, mut problems) = (0, Vec::new());
    if let Some(cluster) = HostsCluster::kept(&options.which)?
        && let Hosts::Local(all) = cluster.hosts()?
    {
        tables.extend(all.nft_tables());
        let names: Vec<String> = cluster.spec.hosts.into_iter().map(|h| h.name).collect();
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
        for (result, name) in futures::future::join_all(offs).await.into_iter().zip(&names) {
            match result {
                Ok(ran) => hosts += usize::from(ran),
                Err(e) => problems.push(format!("host {name}: {e}")),
            }
        }
        if let Err(e) = all.remove_switch().await {
            problems.push(format!("the hosts' network: {e}"));
        }
    }
    let what = DownOptions { purge: options.purge, nft_tables: tables, ..DownOptions::default() };
    let mut removed = provision::down(&layout, &what).await;
    removed.processes += hosts;
    removed.problems.extend(problems);
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
        });
        output::print_json(&value)?;
    } else {
        let data = match (removed.purged, etcd) {
            (true, None) => "its data is gone".to_owned(),
            (true, Some(etcd)) => format!(
                "its directory is gone, its objects are still in {} below {}",
                etcd.servers.join(","),
                etcd.prefix
            ),
            (false, _) => "its data is kept".to_owned(),
        };
        output::print(&format!("Cluster {:?} is down; {data}.\n", layout.name()))?;
        for problem in &removed.problems {
            output::note(&format!("  could not remove: {problem}"));
        }
    }
    Ok(if removed.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
