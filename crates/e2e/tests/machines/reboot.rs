//! A machine that is started anew: everything on it comes back by itself.
use anyhow::{Result, ensure};
use e2e::eventually;

use crate::PATIENCE;
use crate::cluster::Cluster;

pub fn reboot(cluster: &mut Cluster) -> Result<()> {
    let kubectl = cluster.kubectl();
    let lease = |kubectl: &e2e::Kubectl| kubectl.field("lease -n kube-node-lease b", ".spec.renewTime");
    let before = lease(&kubectl)?;
    let machine = cluster.machines.iter_mut().find(|m| m.name == "b").expect("b");
    machine.reboot()?;
    eventually("the node is back", PATIENCE, || {
        ensure!(lease(&kubectl)? != before, "its lease is {before}");
        let nodes = kubectl.run("get nodes --no-headers")?;
        ensure!(nodes.lines().all(|l| l.contains(" Ready ")), "{nodes}");
        Ok(())
    })?;
    eventually("its pods are back", PATIENCE, || {
        let pods = kubectl.run("get pods -A --no-headers --field-selector spec.nodeName=b")?;
        ensure!(pods.lines().count() > 0 && pods.lines().all(|l| l.contains("1/1")), "{pods}");
        Ok(())
    })?;
    cluster
        .machine("b")
        .until("its member of etcd", "curl -sf http://127.0.0.1:2381/health | grep -q true")?;
    let said = cluster.up()?;
    ensure!(said["changed"] == false, "{said}");
    // Its pods have other addresses now.
    crate::network::across(cluster)
}
