//! `cox down`: stops a cluster and removes what is not data.
use std::process::ExitCode;

use provision::DownOptions;
use serde_json::json;

use crate::args::Down;
use crate::cluster;
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
    let tables = ["ip", "ip6"].map(|family| (family.to_owned(), table.clone()));
    let etcd = cluster::etcd_of(&layout).ok().flatten();
    let what = DownOptions { purge: options.purge, nft_tables: tables.to_vec(), ..DownOptions::default() };
    let removed = provision::down(&layout, &what).await;
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
