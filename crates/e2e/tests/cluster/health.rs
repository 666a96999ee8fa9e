//! Probes, restarts, init containers, hooks, limits.
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use e2e::{Cluster, Kubectl, eventually};

use crate::HELLO;

fn pod(kubectl: &Kubectl, name: &str, rest: &str) -> Result<()> {
    let yaml = format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n{rest}");
    kubectl.feed("apply", &yaml.replace("HELLO", HELLO)).map(drop)
}

fn until(kubectl: &Kubectl, object: &str, path: &str, want: &str) -> Result<()> {
    eventually(&format!("{object} {path} = {want}"), Duration::from_secs(90), || {
        let got = kubectl.field(object, path)?;
        ensure!(got == want, "{object} {path} is {got:?}");
        Ok(())
    })
}

pub fn health(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("health")?;
    // All three kinds of readiness.
    pod(
        &kubectl,
        "ready",
        "  terminationGracePeriodSeconds: 1\n  containers:\n  - name: http\n    image: HELLO\n    readinessProbe: {httpGet: {path: /healthz, port: 8080}, periodSeconds: 1}\n    \
         livenessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}\n  - name: exec\n    image: HELLO\n    command: [sh, -c, 'sleep 3600']\n    \
         readinessProbe: {exec: {command: [test, -e, /tmp/ready]}, periodSeconds: 1}\n",
    )?;
    until(&kubectl, "pod ready", ".status.containerStatuses[?(@.name==\"http\")].ready", "true")?;
    ensure!(kubectl.field("pod ready", ".status.conditions[?(@.type==\"Ready\")].status")? == "False");
    ensure!(
        kubectl.field("pod ready", ".status.conditions[?(@.type==\"Ready\")].reason")?
            == "ContainersNotReady"
    );
    kubectl.run("exec ready -c exec -- touch /tmp/ready")?;
    kubectl.run("wait pod ready --for=condition=Ready --timeout=30s")?;
    kubectl.run("exec ready -c exec -- rm /tmp/ready")?;
    until(&kubectl, "pod ready", ".status.conditions[?(@.type==\"Ready\")].status", "False")?;

    // Liveness restarts; --previous shows what the last one said.
    pod(
        &kubectl,
        "alive",
        "  terminationGracePeriodSeconds: 1\n  containers:\n  - name: c\n    image: HELLO\n    command: [sh, -c, 'echo first words; touch /tmp/alive; sleep 3; rm /tmp/alive; sleep 3600']\n    \
         livenessProbe: {exec: {command: [test, -e, /tmp/alive]}, periodSeconds: 1, failureThreshold: 1, initialDelaySeconds: 1}\n",
    )?;
    until(&kubectl, "pod alive", ".status.containerStatuses[0].restartCount", "1")?;
    ensure!(kubectl.run("logs alive --previous")?.contains("first words"));
    let events = kubectl.run("get events --field-selector involvedObject.name=alive")?;
    ensure!(events.contains("Unhealthy") && events.contains("Killing"), "{events}");
    kubectl.run("delete pod alive --wait=false")?;

    // Crash, back off, and say so.
    pod(&kubectl, "crash", "  containers: [{name: c, image: HELLO, command: [sh, -c, 'exit 3']}]\n")?;
    until(&kubectl, "pod crash", ".status.containerStatuses[0].state.waiting.reason", "CrashLoopBackOff")?;
    ensure!(kubectl.field("pod crash", ".status.containerStatuses[0].lastState.terminated.exitCode")? == "3");
    pod(
        &kubectl,
        "never",
        "  restartPolicy: Never\n  containers: [{name: c, image: HELLO, command: [sh, -c, 'exit 4']}]\n",
    )?;
    until(&kubectl, "pod never", ".status.phase", "Failed")?;
    ensure!(kubectl.field("pod never", ".status.containerStatuses[0].restartCount")? == "0");
    pod(
        &kubectl,
        "done",
        "  restartPolicy: OnFailure\n  containers: [{name: c, image: HELLO, command: ['true']}]\n",
    )?;
    until(&kubectl, "pod done", ".status.phase", "Succeeded")?;
    ensure!(
        kubectl.field("pod done", ".status.containerStatuses[0].state.terminated.reason")? == "Completed"
    );

    // Init containers run one after the other, before the rest.
    pod(
        &kubectl,
        "init",
        "  restartPolicy: Never\n  volumes: [{name: v, emptyDir: {}}]\n  initContainers:\n  \
         - {name: one, image: HELLO, command: [sh, -c, 'echo one >> /v/order'], volumeMounts: [{name: v, mountPath: /v}]}\n  \
         - {name: two, image: HELLO, command: [sh, -c, 'echo two >> /v/order'], volumeMounts: [{name: v, mountPath: /v}]}\n  containers:\n  \
         - {name: c, image: HELLO, command: [cat, /v/order], volumeMounts: [{name: v, mountPath: /v}]}\n",
    )?;
    until(&kubectl, "pod init", ".status.phase", "Succeeded")?;
    ensure!(kubectl.run("logs init")? == "one\ntwo\n");

    // preStop comes before SIGTERM, and the grace period ends what does not listen.
    pod(
        &kubectl,
        "hooks",
        "  terminationGracePeriodSeconds: 8\n  volumes: [{name: v, hostPath: {path: /tmp, type: Directory}}]\n  containers:\n  - name: c\n    image: HELLO\n    \
         command: [sh, -c, 'trap \"\" TERM; while true; do sleep 1; done']\n    volumeMounts: [{name: v, mountPath: /host}]\n    \
         lifecycle: {postStart: {exec: {command: [touch, /tmp/started]}}, preStop: {exec: {command: [touch, /host/cox-e2e-prestop]}}}\n",
    )?;
    kubectl.run("wait pod hooks --for=condition=Ready --timeout=60s")?;
    kubectl.run("exec hooks -- test -e /tmp/started")?;
    let marker = std::path::Path::new("/tmp/cox-e2e-prestop");
    let _ = std::fs::remove_file(marker);
    let began = Instant::now();
    kubectl.run("delete pod hooks --wait --timeout=60s")?;
    let took = began.elapsed().as_secs_f64();
    ensure!(marker.exists(), "preStop did not run");
    std::fs::remove_file(marker)?;
    ensure!((6.0..30.0).contains(&took), "a pod that ignores SIGTERM took {took} s with a grace of 8 s");
    kubectl.run("delete namespace health --wait --timeout=180s")?;
    Ok(())
}

pub fn limits(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("limits")?;
    pod(
        &kubectl,
        "eater",
        "  restartPolicy: Never\n  containers:\n  - name: c\n    image: HELLO\n    resources: {limits: {memory: 32Mi}}\n    \
         command: [sh, -c, 'x=a; while true; do x=$x$x; done']\n",
    )?;
    until(&kubectl, "pod eater", ".status.containerStatuses[0].state.terminated.reason", "OOMKilled")?;
    ensure!(kubectl.field("pod eater", ".status.containerStatuses[0].state.terminated.exitCode")? == "137");
    ensure!(kubectl.run("get pod eater")?.contains("OOMKilled"));
    // What does not fit is not placed, and the reason is told.
    pod(&kubectl, "huge", "  containers: [{name: c, image: HELLO, resources: {requests: {cpu: '1000'}}}]\n")?;
    eventually("FailedScheduling", Duration::from_secs(30), || {
        let events =
            kubectl.run("get events --field-selector involvedObject.name=huge,reason=FailedScheduling")?;
        ensure!(events.contains("0/1 nodes are available: 1 Insufficient cpu."), "{events}");
        Ok(())
    })?;
    ensure!(kubectl.field("pod huge", ".status.conditions[0].reason")? == "Unschedulable");
    kubectl.run("delete namespace limits --wait --timeout=120s")?;
    Ok(())
}
