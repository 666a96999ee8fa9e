//! The parts die; the cluster does not notice.
use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{Cluster, Kubectl, eventually};
use serde_json::Value;

use crate::HELLO;

/// Container id and restarts of every pod, and uid and revision of objects that nothing should touch.
fn state(kubectl: &Kubectl) -> Result<BTreeMap<String, String>> {
    let pods: Value = serde_json::from_str(&kubectl.run("get pods -o json")?)?;
    let mut all = BTreeMap::new();
    for pod in pods["items"].as_array().context("items")? {
        let name = pod["metadata"]["name"].as_str().unwrap_or("").to_owned();
        let status = &pod["status"]["containerStatuses"][0];
        all.insert(
            name,
            format!("{} {} {}", pod["metadata"]["uid"], status["containerID"], status["restartCount"]),
        );
    }
    let objects: Value = serde_json::from_str(&kubectl.run("get configmaps,secrets,services -o json")?)?;
    for object in objects["items"].as_array().context("items")? {
        let metadata = &object["metadata"];
        all.insert(
            format!("{}/{}", object["kind"], metadata["name"]),
            format!("{} {}", metadata["uid"], metadata["resourceVersion"]),
        );
    }
    Ok(all)
}

pub fn restart(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("restart")?;
    kubectl.run(&format!("create deployment hello --image={HELLO} --replicas=3"))?;
    kubectl.run("expose deployment hello --port=80 --target-port=8080")?;
    for i in 0..20 {
        kubectl.run(&format!("create configmap c{i} --from-literal=n={i}"))?;
    }
    kubectl.run("create secret generic s --from-literal=a=b")?;
    kubectl.run("rollout status deployment/hello --timeout=90s")?;
    let before = state(&kubectl)?;
    for round in 0..2 {
        let record = std::fs::read_to_string(cluster.root().join("run/cox.process"))?;
        let record: Value = serde_json::from_str(&record)?;
        let pid = i32::try_from(record["pid"].as_i64().context("pid")?)?;
        let process = rustix::process::Pid::from_raw(pid).context("pid")?;
        rustix::process::kill_process(process, rustix::process::Signal::KILL)?;
        cluster.up_again()?;
        let after = eventually("all is as before", Duration::from_secs(60), || {
            let after = state(&kubectl)?;
            ensure!(after == before, "round {round}\nbefore: {before:#?}\nafter: {after:#?}");
            Ok(after)
        })?;
        ensure!(after.len() >= 25, "{after:?}");
    }
    // And it still works.
    kubectl.run("scale deployment hello --replicas=4")?;
    kubectl.run("rollout status deployment/hello --timeout=60s")?;
    kubectl.run("delete namespace restart --wait --timeout=120s")?;
    Ok(())
}

pub fn down_and_up(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("again")?;
    kubectl.run(&format!("create deployment hello --image={HELLO} --replicas=1"))?;
    kubectl.run("rollout status deployment/hello --timeout=90s")?;
    let down = cluster.cox(&["down", "-o", "json"])?;
    ensure!(down.code == Some(0), "{}{}", down.out, down.err);
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let root = cluster.root().display().to_string();
    ensure!(!mounts.contains(&root), "mounts are left below {root}");
    ensure!(cluster.cox(&["status"])?.code == Some(1), "a stopped cluster is not healthy");
    cluster.up_again()?;
    kubectl.run("rollout status deployment/hello --timeout=120s")?;
    let again = cluster.up_again()?;
    ensure!(again["seconds"].as_f64().unwrap_or(99.0) < 5.0, "a second up is not quick: {again}");
    kubectl.run("delete namespace again --wait --timeout=120s")?;
    Ok(())
}
