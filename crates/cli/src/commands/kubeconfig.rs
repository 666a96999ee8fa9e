//! `cox kubeconfig`: the admin kubeconfig.
use std::process::ExitCode;

use serde_json::json;

use crate::args::Kubeconfig;
use crate::cluster::Cluster;
use crate::hosts::HostsCluster;
use crate::output::{self, Failure};

/// Prints the kubeconfig or its path.
pub fn kubeconfig(options: &Kubeconfig, as_json: bool) -> Result<ExitCode, Failure> {
    let path = match HostsCluster::kept(&options.which)? {
        Some(cluster) => cluster.admin_kubeconfig(),
        None => Cluster::kept(&options.which)?.admin_kubeconfig(),
    };
    let text = std::fs::read_to_string(&path).map_err(|e| {
        Failure::new(format!("cannot read {}: {e}", path.display()), "run `cox up` to write it again")
    })?;
    match (as_json, options.path) {
        (true, true) => output::print_json(&json!({ "path": path }))?,
        (true, false) => output::print_json(&json!({ "path": path, "kubeconfig": text }))?,
        (false, true) => output::print(&format!("{}\n", path.display()))?,
        (false, false) => output::print(&text)?,
    }
    Ok(ExitCode::SUCCESS)
}
