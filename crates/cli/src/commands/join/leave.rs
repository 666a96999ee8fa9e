//! The way back for a machine that joined: what `cox down` does where no cluster was made.
use std::process::ExitCode;

use provision::plan::{ACCOUNTS, JoinSecrets, PlanOptions, Secret, Trust, plan_joining};
use provision::spec::{ClusterSpec, Host};
use provision::{Cleaning, Leaving, SshHost, leave_all};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::record;
use crate::output::{self, Failure};

/// Of what this machine is a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the node.
    pub node: String,
    /// What the cluster said of itself, as a `cluster.yaml` with this machine in it.
    pub config: String,
}

impl Joined {
    /// A node of a cluster.
    pub fn of(spec: &ClusterSpec, host: &Host) -> Result<Self, Failure> {
        let config = serde_saphyr::to_string(spec).map_err(|e| Failure::of(&e))?;
        Ok(Self { cluster: spec.name.clone(), node: host.name.clone(), config })
    }

    /// As it was noted; `None` where this machine never joined.
    pub fn read() -> Result<Option<Self>, Failure> {
        let path = record();
        let bad = |e: &dyn std::fmt::Display| {
            Failure::new(
                format!("cannot read {}: {e}", path.display()),
                "remove it if this machine is no node",
            )
        };
        match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(|e| bad(&e)),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(bad(&e)),
        }
    }

    /// Notes it.
    pub fn write(&self) -> Result<(), Failure> {
        let path = record();
        let bad =
            |e: &dyn std::fmt::Display| Failure::new(format!("cannot write {}: {e}", path.display()), "");
        let text = serde_json::to_vec_pretty(self).map_err(|e| bad(&e))?;
        pki::write_public(&path, &text).map_err(|e| bad(&base::Chain(&e)))
    }

    /// Stops the node, and takes away what joining put here.
    pub async fn leave(self, purge: bool, as_json: bool) -> Result<ExitCode, Failure> {
        let options = PlanOptions::system();
        let spec = ClusterSpec::read(&self.config, &|_| Ok(())).spec.ok_or_else(|| {
            let path = record();
            Failure::new(
                format!("{} does not describe a cluster any more", path.display()),
                "`cox join` writes it anew",
            )
        })?;
        // What stands in files does not matter to who removes them.
        let accounts = ACCOUNTS.iter().map(|a| ((*a).to_owned(), Secret::new(""))).collect();
        let trust = Trust::of_joining(&spec.name, "", JoinSecrets { bootstrap: Secret::new(""), accounts });
        let plan = plan_joining(&spec, &trust, &options, &self.node).map_err(|e| Failure::of(&e))?;
        let cox = options.paths.program("cox");
        let host = SshHost::here(&self.node, &cox);
        let mut cleaning = Cleaning::of(&plan, &spec, &options.paths, purge);
        if purge {
            // What the kubelet made, and this machine's note.
            cleaning.files.extend([record(), options.paths.kubeconfig("kubelet")]);
        }
        let (removed, failed) = leave_all(&[Leaving { host: &host, plan: &plan, cleaning }], &cox).await;
        let problems: Vec<String> =
            removed.problems.iter().cloned().chain(failed.iter().map(ToString::to_string)).collect();
        let purged = purge && problems.is_empty();
        if as_json {
            output::print_json(&json!({
                "name": self.cluster, "node": self.node, "found": true, "processes": removed.processes,
                "sandboxes": removed.sandboxes, "leftovers": removed.leftovers, "purged": purged, "problems": problems,
            }))?;
        } else {
            let data = if purged { "and all of it is gone from here" } else { "its data is kept" };
            output::print(&format!("Node {} of cluster {:?} is down; {data}.\n", self.node, self.cluster))?;
            for problem in &problems {
                output::note(&format!("  could not remove: {problem}"));
            }
            if purged {
                output::note(&format!("  Where the admin kubeconfig is: kubectl delete node {}", self.node));
            } else {
                output::note("  `cox join` brings it back, `cox down --purge` takes all of it away.");
            }
        }
        Ok(if problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}
