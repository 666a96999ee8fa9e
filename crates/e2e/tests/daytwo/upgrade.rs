//! Another build, host by host.
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{Answer, Cluster, Traffic, run};

use crate::{PATIENCE, host, said};

/// The same program under another name: hosts tell builds apart by where they come from, too.
struct Other(PathBuf);

impl Other {
    fn make(cluster: &Cluster) -> Result<Self> {
        let of = cluster.binary();
        let path = of.with_file_name(format!("cox-{}", cluster.name()));
        std::fs::hard_link(of, &path).with_context(|| format!("cannot link {}", path.display()))?;
        Ok(Self(path))
    }

    fn upgrade(&self, cluster: &Cluster, more: &[&str]) -> Result<Answer> {
        let mut command = Command::new(&self.0);
        command.args(["upgrade", "-o", "json", "--wait", "240", "--name", cluster.name()]).args(more);
        command.arg("--data-dir").arg(cluster.data_dir());
        run(command, None, Duration::from_secs(300))
    }
}

impl Drop for Other {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

pub fn upgrade(cluster: &Cluster) -> Result<()> {
    let other = Other::make(cluster)?;
    let wanted: Vec<String> = [1, 3, 4].map(|n| host(cluster, n)).to_vec();
    let order = said(&other.upgrade(cluster, &["--dry-run"])?)?;
    ensure!(order["order"] == serde_json::json!(wanted), "{order}");
    let traffic = Traffic::start(cluster, "upgrade");
    traffic.wait_for(20, PATIENCE)?;
    let upgraded = other.upgrade(cluster, &[]).and_then(|answer| said(&answer));
    let after = upgraded.is_ok().then(|| traffic.wait_for(20, PATIENCE));
    let seen = traffic.stop()?;
    let upgraded = upgraded?;
    after.transpose()?;
    seen.judge(&cluster.kubectl(), "upgraded")?;
    ensure!(upgraded["upgraded"] == serde_json::json!(wanted), "{upgraded}");
    let again = said(&other.upgrade(cluster, &[])?)?;
    ensure!(again["upgraded"] == serde_json::json!([]), "{again}");
    let cordoned =
        cluster.kubectl().args(&["get", "nodes", "-o", "jsonpath={.items[*].spec.unschedulable}"])?;
    ensure!(cordoned.is_empty(), "{cordoned}");
    Ok(())
}
