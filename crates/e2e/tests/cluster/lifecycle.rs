//! What controllers make and take away.
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Cluster, Leftovers, eventually};

use crate::HELLO;

pub fn jobs_and_daemon_sets(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("jobs")?;
    kubectl.feed(
        "apply",
        &format!(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {{name: three}}\nspec:\n  completions: 3\n  parallelism: 2\n  template:\n    spec:\n      \
             restartPolicy: Never\n      containers: [{{name: c, image: {HELLO}, command: [echo, worked]}}]\n---\n\
             apiVersion: batch/v1\nkind: Job\nmetadata: {{name: bad}}\nspec:\n  backoffLimit: 0\n  template:\n    spec:\n      \
             restartPolicy: Never\n      containers: [{{name: c, image: {HELLO}, command: ['false']}}]\n---\n\
             apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: everywhere}}\nspec:\n  selector: {{matchLabels: {{app: e}}}}\n  template:\n    \
             metadata: {{labels: {{app: e}}}}\n    spec: {{terminationGracePeriodSeconds: 1, containers: [{{name: c, image: {HELLO}}}]}}\n"
        ),
    )?;
    kubectl.run("wait job three --for=condition=Complete --timeout=120s")?;
    ensure!(kubectl.field("job three", ".status.succeeded")? == "3");
    kubectl.run("wait job bad --for=condition=Failed --timeout=60s")?;
    ensure!(
        kubectl.field("job bad", ".status.conditions[?(@.type==\"Failed\")].reason")?
            == "BackoffLimitExceeded"
    );
    kubectl.run("rollout status daemonset/everywhere --timeout=60s")?;
    ensure!(kubectl.run("get job three")?.contains("3/3"));
    kubectl.run("delete namespace jobs --wait --timeout=120s")?;
    Ok(())
}

pub fn collection(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("collection")?;
    let make = |name: &str| -> Result<()> {
        kubectl.run(&format!("create deployment {name} --image={HELLO} --replicas=2"))?;
        kubectl.run(&format!("rollout status deployment/{name} --timeout=90s")).map(drop)
    };
    make("background")?;
    kubectl.run("delete deployment background")?;
    eventually("dependents are gone", Duration::from_secs(90), || {
        let left = kubectl.run("get rs,pods -o name")?;
        ensure!(left.trim().is_empty(), "{left}");
        Ok(())
    })?;
    make("foreground")?;
    kubectl.run("delete deployment foreground --cascade=foreground --timeout=90s")?;
    let left = kubectl.run("get rs -o name")?;
    ensure!(left.trim().is_empty(), "{left}");
    make("orphan")?;
    kubectl.run("delete deployment orphan --cascade=orphan")?;
    let set = kubectl.run("get rs -o name")?;
    ensure!(set.lines().count() == 1, "{set}");
    ensure!(kubectl.field(set.trim(), ".metadata.ownerReferences")?.is_empty());
    kubectl.run("delete namespace collection --wait --timeout=120s")?;
    ensure!(kubectl.refused("get namespace collection")?.contains("not found"));
    Ok(())
}

pub fn nothing_left(cluster: &Cluster) -> Result<()> {
    let look = || Leftovers::look(&cluster.root(), cluster.name());
    let before = look()?;
    let kubectl = cluster.namespace("leftovers")?;
    kubectl.run(&format!("create deployment hello --image={HELLO} --replicas=3"))?;
    kubectl.run("expose deployment hello --type=NodePort --port=80 --target-port=8080")?;
    kubectl.run("create configmap c --from-literal=a=b")?;
    kubectl.feed(
        "apply",
        &format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: volumes}}\nspec:\n  volumes: [{{name: m, emptyDir: {{medium: Memory}}}}, \
             {{name: c, configMap: {{name: c}}}}]\n  containers: [{{name: c, image: {HELLO}, volumeMounts: [{{name: m, mountPath: /m}}, \
             {{name: c, mountPath: /c}}]}}]\n"
        ),
    )?;
    kubectl.run("rollout status deployment/hello --timeout=90s")?;
    kubectl.run("wait pod volumes --for=condition=Ready --timeout=60s")?;
    let during = look()?;
    ensure!(during.veths.len() >= before.veths.len() + 4, "{during:?}");
    ensure!(during.containers.len() > before.containers.len() && during.rules.len() > before.rules.len());
    kubectl.run("delete namespace leftovers --wait --timeout=120s")?;
    eventually("nothing is left", Duration::from_secs(60), || {
        let after = look()?;
        ensure!(after == before, "before: {before:#?}\nafter: {after:#?}");
        Ok(())
    })
}
