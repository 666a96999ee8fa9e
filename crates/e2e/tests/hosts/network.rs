//! What needs the network between hosts: pods of one on another, services, DNS, and the API server's way to kubelets.
use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use e2e::{Cluster, Kubectl, at_once, eventually};

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

pub fn spread(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.kubectl();
    let ready = kubectl.args(&[
        "get",
        "nodes",
        "-o",
        "jsonpath={range .items[*]}{.status.conditions[?(@.type==\"Ready\")].status} {.spec.podCIDR} {.status.addresses[?(@.type==\"InternalIP\")].address}{\"\\n\"}{end}",
    ])?;
    let nodes: Vec<Vec<&str>> = ready.lines().map(|l| l.split_whitespace().collect()).collect();
    ensure!(nodes.len() == 3 && nodes.iter().all(|n| n.len() == 3 && n[0] == "True"), "{ready}");
    for column in [1, 2] {
        let different: BTreeSet<&str> = nodes.iter().map(|n| n[column]).collect();
        ensure!(different.len() == 3, "{ready}");
    }
    let kubectl = cluster.namespace("across")?;
    kubectl.run(&format!("create deployment hello --image={HELLO} --replicas=6"))?;
    kubectl.run("expose deployment hello --port=80 --target-port=8080")?;
    kubectl.run(&format!("rollout status deployment hello --timeout={}s", PATIENCE.as_secs()))?;
    let nodes: BTreeSet<String> = pods(&kubectl)?.into_iter().map(|[_, node, _]| node).collect();
    ensure!(nodes.len() == 3, "all pods are on {nodes:?}");
    Ok(())
}

pub fn across(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.kubectl().within("across");
    let each = one_each(&kubectl)?;
    let of_pod: BTreeMap<String, String> =
        pods(&kubectl)?.into_iter().map(|[pod, node, _]| (pod, node)).collect();
    for (from, [pod, ..]) in &each {
        for (to, [other, _, address]) in &each {
            let url = format!("http://{address}:8080/");
            let answer = eventually("a pod on another node", PATIENCE, || {
                kubectl.args(&["exec", pod, "--", "wget", "-qO-", &url])
            })?;
            ensure!(answer.contains(other.as_str()), "from {from} to {to}: {answer}");
        }
        // By the name of the service, which every node has to resolve; backends of all nodes answer.
        let mut seen = BTreeSet::new();
        eventually("answers of all nodes by name", PATIENCE, || {
            let answer = kubectl.args(&["exec", pod, "--", "wget", "-qO-", "http://hello.across/"])?;
            seen.extend(
                of_pod.iter().filter(|(pod, _)| answer.contains(pod.as_str())).map(|(_, node)| node.clone()),
            );
            ensure!(seen.len() == each.len(), "only {seen:?} answered, the last one: {answer}");
            Ok(())
        })
        .with_context(|| format!("from {from}"))?;
    }
    Ok(())
}

pub fn streams(cluster: &Cluster) -> Result<()> {
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
    Ok(())
}
