//! Deployments and the services in front of them.
use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use e2e::{Cluster, Kubectl, eventually};

use crate::HELLO;

pub fn rollout(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("rollout")?;
    kubectl.run(&format!("create deployment hello --image={HELLO} --replicas=3"))?;
    kubectl.run("rollout status deployment/hello --timeout=90s")?;
    ensure!(kubectl.field("deployment hello", ".status.readyReplicas")? == "3");
    kubectl.run("scale deployment hello --replicas=5")?;
    kubectl.run("rollout status deployment/hello --timeout=60s")?;
    kubectl.run("scale deployment hello --replicas=3")?;
    eventually("three pods", Duration::from_secs(60), || {
        let pods = kubectl.run("get pods -l app=hello -o name")?;
        ensure!(pods.lines().count() == 3, "{pods}");
        Ok(())
    })?;
    let before: BTreeSet<String> = kubectl.run("get pods -o name")?.lines().map(str::to_owned).collect();
    kubectl.run("set image deployment/hello hello=localhost/cox/hello:v2")?;
    kubectl.run("rollout status deployment/hello --timeout=90s")?;
    eventually("only new pods", Duration::from_secs(60), || {
        let now: BTreeSet<String> = kubectl.run("get pods -o name")?.lines().map(str::to_owned).collect();
        ensure!(now.is_disjoint(&before) && now.len() == 3, "{now:?}");
        Ok(())
    })?;
    ensure!(kubectl.field("pods -l app=hello", ".items[0].spec.containers[0].image")?.ends_with(":v2"));
    ensure!(kubectl.run("rollout history deployment/hello")?.contains('2'));
    kubectl.run("rollout undo deployment/hello")?;
    kubectl.run("rollout status deployment/hello --timeout=90s")?;
    ensure!(kubectl.field("deployment hello", ".spec.template.spec.containers[0].image")? == HELLO);
    let described = kubectl.run("describe deployment hello")?;
    ensure!(
        described.contains("ScalingReplicaSet") && described.contains("RollingUpdateStrategy"),
        "{described}"
    );
    kubectl.run("delete deployment hello")?;
    Ok(())
}

fn curl(url: &str) -> Result<String> {
    let output = Command::new("curl").args(["-sS", "--max-time", "5", url]).output().context("curl")?;
    ensure!(output.status.success(), "curl {url}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn fetch(kubectl: &Kubectl, url: &str) -> Result<String> {
    kubectl.args(&["exec", "client", "--", "wget", "-q", "-O", "-", url])
}

pub fn services(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("services")?;
    kubectl.run(&format!("create deployment hello --image={HELLO} --replicas=3"))?;
    kubectl.run(&format!("run client --image={HELLO} --command -- sleep 3600"))?;
    kubectl.run("expose deployment hello --port=80 --target-port=8080")?;
    kubectl.run("expose deployment hello --name=hello-node --type=NodePort --port=80 --target-port=8080")?;
    kubectl.run("rollout status deployment/hello --timeout=90s")?;
    kubectl.run("wait pod client --for=condition=Ready --timeout=60s")?;
    let ip = kubectl.field("svc hello", ".spec.clusterIP")?;
    let port = kubectl.field("svc hello-node", ".spec.ports[0].nodePort")?;
    let node = kubectl.field("nodes", ".items[0].status.addresses[?(@.type==\"InternalIP\")].address")?;
    let patience = Duration::from_secs(20);
    eventually("the cluster IP from the host", patience, || curl(&format!("http://{ip}/")))?;
    eventually("the node port from the host", patience, || curl(&format!("http://{node}:{port}/")))?;
    for name in [ip.as_str(), "hello", "hello.services", "hello.services.svc.cluster.local"] {
        eventually(&format!("{name} from a pod"), patience, || fetch(&kubectl, &format!("http://{name}/")))?;
    }
    eventually("the node port from a pod", patience, || fetch(&kubectl, &format!("http://{node}:{port}/")))?;
    // Chance alone leaves one of three out once in 10^10 times.
    let mut seen = BTreeSet::new();
    for _ in 0..60 {
        let answer = curl(&format!("http://{ip}/"))?;
        let pods = kubectl_names(&answer);
        seen.extend(pods);
    }
    ensure!(seen.len() == 3, "the traffic did not spread over three pods: {seen:?}");
    // A pod reaches itself through its own service.
    let pod = kubectl.field("pods -l app=hello", ".items[0].metadata.name")?;
    for _ in 0..6 {
        kubectl.args(&["exec", &pod, "--", "wget", "-q", "-O", "-", "http://hello/"])?;
    }
    // Without endpoints the answer is a refusal, not silence.
    kubectl.run("scale deployment hello --replicas=0")?;
    eventually("a refusal", Duration::from_secs(30), || {
        let output =
            Command::new("curl").args(["-sS", "--max-time", "5", &format!("http://{ip}/")]).output()?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(said.contains("refused") || said.contains("Couldn't connect"), "{said}");
        Ok(())
    })?;
    kubectl.run("delete pod client --grace-period=1")?;
    kubectl.run("delete namespace services --wait --timeout=120s")?;
    Ok(())
}

/// The pods that an answer of the hello server names.
fn kubectl_names(answer: &str) -> Vec<String> {
    answer
        .split(|c: char| !c.is_ascii_alphanumeric() && c != '-')
        .filter(|word| word.starts_with("hello-") && word.matches('-').count() == 2)
        .map(str::to_owned)
        .collect()
}
