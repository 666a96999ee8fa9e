//! `cox kube-scheduler` by itself, with a KubeSchedulerConfiguration.
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{ApiServer, binary, eventually};

const PATIENCE: Duration = Duration::from_secs(60);

const NODE: &str = r#"{"apiVersion":"v1","kind":"Node","metadata":{"name":"n1"},"spec":{"taints":[{"key":"k","effect":"NoSchedule"}]},
    "status":{"capacity":{"cpu":"4","memory":"4Gi","pods":"10"},"allocatable":{"cpu":"4","memory":"4Gi","pods":"10"}}}"#;

fn pod(name: &str, scheduler: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Pod\nmetadata: {{name: {name}}}\nspec:\n  schedulerName: {scheduler}\n  \
         automountServiceAccountToken: false\n  containers: [{{name: c, image: none}}]\n"
    )
}

#[test]
fn profiles_choose_their_plugins() -> Result<()> {
    let server = ApiServer::start(&binary(), None)?;
    let kubectl = server.kubectl();
    kubectl.feed("create", NODE)?;
    kubectl.run("create serviceaccount default")?;
    let file = server.dir().join("scheduler.yaml");
    std::fs::write(
        &file,
        format!(
            "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\n\
             clientConnection: {{kubeconfig: {}}}\nleaderElection: {{leaderElect: true, leaseDuration: 20s}}\n\
             parallelism: 4\nprofiles:\n- schedulerName: default-scheduler\n- schedulerName: tolerant\n  plugins:\n    \
             filter: {{disabled: [{{name: TaintToleration}}]}}\n",
            server.kubeconfig("kube-scheduler").display()
        ),
    )?;
    let scheduler = e2e::Part::start(
        &binary(),
        server.dir(),
        "kube-scheduler",
        &[format!("--config={}", file.display()), "--secure-port=0".to_owned()],
    )?;
    for (name, scheduler) in [("a", "default-scheduler"), ("b", "tolerant"), ("c", "nobody")] {
        kubectl.feed("create", &pod(name, scheduler))?;
    }
    eventually("the pods are judged", PATIENCE, || {
        let placed = kubectl.field("pod b", ".spec.nodeName")?;
        let why = kubectl.field("pod a", ".status.conditions[?(@.type==\"PodScheduled\")].message")?;
        ensure!(
            placed == "n1" && why.contains("untolerated taint"),
            "{placed:?} {why:?}\n{}",
            scheduler.said()
        );
        Ok(())
    })?;
    ensure!(kubectl.field("pod c", ".spec.nodeName")?.is_empty(), "a pod of another scheduler was taken");
    eventually("the event", PATIENCE, || {
        let from = kubectl
            .run("get events --field-selector reason=Scheduled -o jsonpath={.items[*].source.component}")?;
        ensure!(from == "tolerant", "{from:?}");
        Ok(())
    })?;
    ensure!(
        kubectl.field("lease -n kube-system kube-scheduler", ".spec.leaseDurationSeconds")? == "20",
        "the lease"
    );
    let said = scheduler.said();
    ensure!(said.contains("parallelism has no effect"), "{said}");
    Ok(())
}
