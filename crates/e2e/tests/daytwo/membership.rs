//! Hosts that come and go.
use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use e2e::{Cluster, Traffic};

use crate::{HELLO, PATIENCE, host, members, nodes, said};

/// Pods that have to be moved before a host goes, two of which have to work all the time.
pub fn prepare(cluster: &Cluster) -> Result<()> {
    Traffic::prepare(cluster)?;
    let kubectl = cluster.namespace("day")?;
    kubectl.run(&format!("create deployment hello --image={HELLO} --replicas=3"))?;
    kubectl.run("create poddisruptionbudget hello --selector=app=hello --min-available=2")?;
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
    let port = cluster.port();
    let up = ["up", "-o", "json", "--wait=240", "--secure-port", port, "--nodes=3", "--control-planes=3"];
    let grown = cluster.cox(&up).and_then(|answer| said(&answer));
    let after = grown.is_ok().then(|| traffic.wait_for(20, PATIENCE));
    let seen = traffic.stop()?;
    grown?;
    after.transpose()?;
    seen.judge(&cluster.kubectl(), "one control plane became three")?;
    ensure!(members(cluster)?.len() == 3, "{:?}", members(cluster)?);
    let again = said(&cluster.cox(&up)?)?;
    ensure!(again["changed"] == false, "{again}");
    // What can never change is told before anything is touched.
    let file = cluster.data_dir().join("other.yaml");
    let text = describe(cluster, &[(1, "control-plane, worker"), (2, "worker"), (3, "worker")])?;
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

/// The description of this cluster with other hosts.
pub fn describe(cluster: &Cluster, hosts: &[(usize, &str)]) -> Result<String> {
    let kept = std::fs::read_to_string(cluster.root().join("cluster.yaml"))?;
    let line = kept.lines().find_map(|l| l.trim().strip_prefix("hostCIDR:")).context("a network of hosts")?;
    let mut text = format!(
        "name: {}\nprovider: local\nnetwork: {{hostCIDR: {}}}\napiServer: {{localPort: {}, loadBalancer: ours}}\nhosts:\n",
        cluster.name(),
        line.trim(),
        cluster.port()
    );
    for (number, roles) in hosts {
        text += &format!("- {{name: {}, roles: [{roles}]}}\n", host(cluster, *number));
    }
    Ok(text)
}

/// A control plane is gone with its disk; another one takes its name.
pub fn replace(cluster: &Cluster) -> Result<()> {
    let traffic = Traffic::start(cluster, "replace");
    traffic.wait_for(20, PATIENCE)?;
    let victim = host(cluster, 2);
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
    let file = cluster.data_dir().join("exchange.yaml");
    let both = "control-plane, worker";
    std::fs::write(&file, describe(cluster, &[(1, both), (3, both), (4, both)])?)?;
    let traffic = Traffic::start(cluster, "exchange");
    traffic.wait_for(20, PATIENCE)?;
    let changed = cluster.cox_of_file(&file, &["up", "-o", "json", "--wait=240"]).and_then(|a| said(&a));
    let after = changed.is_ok().then(|| traffic.wait_for(20, PATIENCE));
    let seen = traffic.stop()?;
    changed?;
    after.transpose()?;
    seen.judge(&cluster.kubectl(), "a control plane added, another one removed")?;
    let wanted: Vec<String> = [1, 3, 4].map(|n| host(cluster, n)).to_vec();
    ensure!(members(cluster)? == wanted, "{:?}", members(cluster)?);
    ensure!(nodes(cluster)? == wanted, "{:?}", nodes(cluster)?);
    ensure!(!pods_on(cluster)?.contains(&host(cluster, 2)), "{:?}", pods_on(cluster)?);
    let gone = cluster.root().join("hosts").join(host(cluster, 2));
    ensure!(!gone.exists(), "{} is still there", gone.display());
    Ok(())
}
