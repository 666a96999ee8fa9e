//! Hosts that come and go.
use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use e2e::{Cluster, Traffic};
use serde_json::Value;

use crate::{HELLO, PATIENCE, host, members, nodes, said};

/// Hosts by their number, with their roles. Few run pods: what those need makes a new host slow.
pub type Hosts<'a> = &'a [(usize, &'a str)];
const BOTH: &str = "control-plane, worker";
/// What the cluster begins as.
pub const FIRST: Hosts<'_> = &[(1, BOTH), (2, "worker")];
const GROWN: Hosts<'_> = &[(1, BOTH), (2, BOTH), (3, "control-plane")];
const EXCHANGED: Hosts<'_> = &[(1, BOTH), (3, "control-plane"), (4, BOTH)];

/// Brings the cluster up as another description.
fn become_like(cluster: &Cluster, hosts: Hosts<'_>) -> Result<Value> {
    let file = cluster.data_dir().join("next.yaml");
    let port = cluster.port().parse()?;
    std::fs::write(&file, describe(cluster.name(), port, hosts))?;
    said(&cluster.cox_of_file(&file, &["up", "-o", "json", "--wait=240"])?)
}

/// Pods that have to be moved before a host goes.
pub fn prepare(cluster: &Cluster) -> Result<()> {
    Traffic::prepare(cluster)?;
    let kubectl = cluster.namespace("day")?;
    kubectl.run(&format!("create deployment hello --image={HELLO} --replicas=3"))?;
    kubectl.run(&format!("rollout status deployment hello --timeout={}s", PATIENCE.as_secs()))?;
    Ok(())
}

/// The nodes that pods of the deployment run on.
fn pods_on(cluster: &Cluster) -> Result<BTreeSet<String>> {
    let kubectl = cluster.kubectl().within("day");
    kubectl.run(&format!("rollout status deployment hello --timeout={}s", PATIENCE.as_secs()))?;
    let running = ["get", "pods", "-l", "app=hello", "--field-selector=status.phase=Running"];
    let text = kubectl.args(&[&running[..], &["-o", "jsonpath={.items[*].spec.nodeName}"]].concat())?;
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// Its objects move from the server's own store to an etcd of three members.
pub fn grow(cluster: &Cluster) -> Result<()> {
    let traffic = Traffic::start(cluster, "grow");
    traffic.wait_for(20, PATIENCE)?;
    let grown = become_like(cluster, GROWN);
    let after = grown.is_ok().then(|| traffic.wait_for(20, PATIENCE));
    let seen = traffic.stop()?;
    grown?;
    after.transpose()?;
    seen.judge(&cluster.kubectl(), "one control plane became three")?;
    ensure!(members(cluster)?.len() == 3, "{:?}", members(cluster)?);
    let again = become_like(cluster, GROWN)?;
    ensure!(again["changed"] == false, "{again}");
    // What can never change is told before anything is touched.
    let file = cluster.data_dir().join("other.yaml");
    let text = describe(cluster.name(), cluster.port().parse()?, FIRST);
    std::fs::write(&file, text + "etcd: {topology: embedded}\n")?;
    let refused = cluster.cox_of_file(&file, &["up"])?;
    ensure!(
        refused.code == Some(1) && refused.err.contains("etcd.topology is stacked"),
        "{}{}",
        refused.out,
        refused.err
    );
    Ok(())
}

/// The description of a cluster.
pub fn describe(name: &str, port: u16, hosts: Hosts<'_>) -> String {
    // Beside those of other tests that run on this machine.
    let third = std::process::id() % 250;
    let mut text = format!(
        "name: {name}\nprovider: local\nnetwork: {{hostCIDR: 10.201.{third}.0/24}}\n\
         apiServer: {{localPort: {port}, loadBalancer: ours}}\nhosts:\n"
    );
    for (number, roles) in hosts {
        text += &format!("- {{name: {name}-{number}, roles: [{roles}]}}\n");
    }
    text
}

/// A control plane is gone with its disk; another one takes its name.
pub fn replace(cluster: &Cluster) -> Result<()> {
    let traffic = Traffic::start(cluster, "replace");
    traffic.wait_for(20, PATIENCE)?;
    let victim = host(cluster, 3);
    let replaced = cluster
        .lose_host(&victim)
        .and_then(|()| traffic.wait_for(20, PATIENCE))
        .and_then(|()| cluster.cox(&["up", "-o", "json", "--wait=240"]))
        .and_then(|answer| said(&answer));
    let seen = traffic.stop()?;
    replaced?;
    seen.judge(&cluster.kubectl(), "a control plane lost and replaced")?;
    ensure!(members(cluster)?.contains(&victim), "{:?}", members(cluster)?);
    Ok(())
}

/// One description with a new control plane and without an old one.
pub fn exchange(cluster: &Cluster) -> Result<()> {
    let traffic = Traffic::start(cluster, "exchange");
    traffic.wait_for(20, PATIENCE)?;
    let changed = become_like(cluster, EXCHANGED);
    let after = changed.is_ok().then(|| traffic.wait_for(20, PATIENCE));
    let seen = traffic.stop()?;
    changed?;
    after.transpose()?;
    seen.judge(&cluster.kubectl(), "a control plane added, another one removed")?;
    let wanted: Vec<String> = [1, 3, 4].map(|n| host(cluster, n)).to_vec();
    ensure!(members(cluster)? == wanted, "{:?}", members(cluster)?);
    ensure!(nodes(cluster)? == [wanted[0].clone(), wanted[2].clone()], "{:?}", nodes(cluster)?);
    ensure!(!pods_on(cluster)?.contains(&host(cluster, 2)), "{:?}", pods_on(cluster)?);
    let gone = cluster.root().join("hosts").join(host(cluster, 2));
    ensure!(!gone.exists(), "{} is still there", gone.display());
    Ok(())
}
