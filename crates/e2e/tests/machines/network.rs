//! What needs the network between machines: pods of one on another, Services, DNS, and the way to kubelets.
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use e2e::{Kubectl, at_once, eventually};

use crate::cluster::Cluster;
use crate::{HELLO, PATIENCE};

/// Name, node and address of each pod of the deployment.
fn pods(kubectl: &Kubectl) -> Result<Vec<[String; 3]>> {
    let path = "{range .items[*]}{.metadata.name} {.spec.nodeName} {.status.podIP}{\"\\n\"}{end}";
    let text = kubectl.args(&["get", "pods", "-l", "app=hello", "-o", &format!("jsonpath={path}")])?;
    text.lines()
        .map(|line| {
            let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            <[String; 3]>::try_from(words).ok().with_context(|| format!("not a running pod: {line}"))
        })
        .collect()
}

/// One pod of each node.
fn one_each(kubectl: &Kubectl) -> Result<BTreeMap<String, [String; 3]>> {
    Ok(pods(kubectl)?.into_iter().map(|pod| (pod[1].clone(), pod)).collect())
}

pub fn across(cluster: &mut Cluster) -> Result<()> {
    let kubectl = cluster.kubectl().within("across");
    if cluster.kubectl().run("get namespace across").is_err() {
        kubectl.run("create namespace across")?;
        kubectl.run(&format!("create deployment hello --image={HELLO} --replicas=6"))?;
        kubectl.run("expose deployment hello --port=80 --target-port=8080")?;
        kubectl.run(&format!("rollout status deployment hello --timeout={}s", PATIENCE.as_secs()))?;
    }
    let each = one_each(&kubectl)?;
    let nodes = cluster.kubectl().run("get nodes -o name")?.lines().count();
    ensure!(each.len() == nodes, "pods on {:?} of {nodes} nodes", each.keys());
    let of_pod: BTreeMap<String, String> =
        pods(&kubectl)?.into_iter().map(|[pod, node, _]| (pod, node)).collect();
    for (from, [pod, ..]) in &each {
        for (to, [other, _, address]) in &each {
            let url = format!("http://{address}:8080/");
            let answer = eventually("a pod on another node", PATIENCE, || {
                kubectl.args(&["exec", pod, "--", "timeout", "5", "wget", "-qO-", &url])
            })
            .with_context(|| {
                format!("from {from} to {to}\n{}", kubectl.run("get pods -o wide").unwrap_or_default())
            })?;
            ensure!(answer.contains(other.as_str()), "from {from} to {to}: {answer}");
        }
        // By the name of the service, which every node has to resolve.
        let seen = eventually("answers of several nodes by name", PATIENCE, || {
            let script =
                "for i in 1 2 3 4 5 6 7 8 9 10 11 12; do wget -qO- http://hello.across/ | head -1; done";
            let said = kubectl.args(&["exec", pod, "--", "sh", "-c", script])?;
            let seen: BTreeSet<&String> =
                of_pod.iter().filter(|(pod, _)| said.contains(pod.as_str())).map(|(_, node)| node).collect();
            ensure!(seen.len() > 1, "only {seen:?} answered: {said}");
            Ok(seen.len())
        })
        .with_context(|| format!("from {from}"))?;
        ensure!(seen > 1, "{seen}");
    }
    Ok(())
}

pub fn streams(cluster: &mut Cluster) -> Result<()> {
    let kubectl = cluster.kubectl().within("across");
    for (node, [pod, ..]) in one_each(&kubectl)? {
        at_once("logs", || {
            let logs = kubectl.run(&format!("logs {pod}"))?;
            ensure!(logs.contains("listening"), "logs of {pod} on {node}: {logs:?}");
            Ok(())
        })?;
        at_once("exec", || {
            let said = kubectl.args(&["exec", &pod, "--", "sh", "-c", "echo it is $HOSTNAME"])?;
            ensure!(said.trim() == format!("it is {pod}"), "exec in {pod} on {node}: {said:?}");
            Ok(())
        })?;
    }
    // Nodes speak to their own balancer, on their own loopback.
    let server = cluster.machine("b").sh("grep server: /etc/kubernetes/kubelet.conf")?;
    ensure!(server.contains("https://127.0.0.1:6444"), "{server}");
    Ok(())
}
