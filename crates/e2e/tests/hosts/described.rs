//! Hosts of this machine as a `cluster.yaml` describes them.
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{Answer, Cluster, Kubectl, binary, eventually, free_port, run};
use serde_json::Value;

use crate::PATIENCE;

struct Described {
    dir: tempfile::TempDir,
    name: String,
}

impl Described {
    fn cox(&self, arguments: &[&str]) -> Result<Answer> {
        let mut command = Command::new(binary());
        command.args(arguments).arg("-f").arg(self.dir.path().join("cluster.yaml"));
        command.arg("--data-dir").arg(self.dir.path().join("data"));
        run(command, None, Duration::from_secs(300)).with_context(|| format!("cox {}", arguments.join(" ")))
    }

    fn up(&self) -> Result<Value> {
        let answer = self.cox(&["up", "--wait", "240", "-o", "json"])?;
        ensure!(answer.code == Some(0), "{}{}", answer.out, answer.err);
        serde_json::from_str(answer.out.lines().last().unwrap_or("")).context("cox up -o json")
    }

    fn write(&self, network: &str, hosts: &[&str], port: u16) -> Result<()> {
        let mut text = format!(
            "name: {}\nprovider: local\nnetwork:\n  hostCIDR: 10.214.{}.0/24\n  podNetwork: vxlan\n{network}apiServer: {{localPort: {port}}}\nhosts:\n",
            self.name,
            std::process::id() % 250,
        );
        for (i, host) in hosts.iter().enumerate() {
            let roles = if i == 0 { "[control-plane]" } else { "[worker]" };
            text += &format!("- {{name: {host}, roles: {roles}}}\n");
        }
        Ok(std::fs::write(self.dir.path().join("cluster.yaml"), text)?)
    }
}

impl Drop for Described {
    fn drop(&mut self) {
        if let Err(e) = self.cox(&["down", "--purge"]) {
            eprintln!("the described cluster is still there: {e:#}");
        }
    }
}

pub fn described(_: &Cluster) -> Result<()> {
    let dir = tempfile::Builder::new().prefix("cox-e2e-").tempdir_in(e2e::roomy_directory())?;
    let it = Described { dir, name: format!("file{}", std::process::id()) };
    let port = free_port()?;
    it.write("", &["lead", "one"], port)?;
    let said = it.up()?;
    ensure!(said["changed"] == true, "{said}");
    println!("     two hosts Ready after {} s", said["seconds"]);
    let kubectl =
        Kubectl::new(&it.dir.path().join("data").join(&it.name).join("kubeconfig/admin.kubeconfig"));
    // A control plane alone runs no pods.
    let nodes = kubectl.run("get nodes -o name")?;
    ensure!(nodes.trim() == "node/one", "{nodes}");
    let said = it.up()?;
    ensure!(said["changed"] == false, "{said}");
    let status = it.cox(&["status"])?;
    ensure!(status.code == Some(0) && status.out.contains("kube-apiserver"), "{}{}", status.out, status.err);
    let other = it.cox(&["kubeconfig", "--server", "https://k8s.example.org:443"])?;
    ensure!(other.out.contains("server: https://k8s.example.org:443"), "{}{}", other.out, other.err);

    // What is laid down stays, and nothing is done.
    it.write("  serviceCIDR: 10.32.0.0/24\n  podCIDR: 10.200.0.0/16\n", &["lead", "one"], port)?;
    let refused = it.cox(&["up"])?;
    ensure!(refused.code == Some(1), "{}", refused.out);
    for words in [
        "network.serviceCIDR is 10.96.0.0/12 and cannot become 10.32.0.0/24",
        "network.podCIDR is",
        "put it back",
    ] {
        ensure!(refused.err.contains(words), "{words:?} in {}", refused.err);
    }
    it.write("", &["lead", "one", "two"], port)?;
    it.up()?;
    eventually("the host that was added", PATIENCE, || {
        let ready = kubectl.run("get node two --no-headers")?;
        ensure!(ready.contains(" Ready "), "{ready}");
        Ok(())
    })?;
    let down = it.cox(&["down", "--purge"])?;
    ensure!(down.code == Some(0) && down.out.contains("its data is gone"), "{}{}", down.out, down.err);
    Ok(())
}
