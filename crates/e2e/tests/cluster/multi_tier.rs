//! An application of several tiers, as people bring them.
use std::time::Duration;

use anyhow::{Result, ensure};
use e2e::{Cluster, eventually};

use crate::HELLO;

const MANIFEST: &str = include_str!("multi-tier.yaml");

pub fn multi_tier(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("shop")?;
    let manifest = MANIFEST.replace("IMAGE", HELLO);
    let first = kubectl.feed("apply", &manifest)?;
    ensure!(first.lines().all(|l| l.ends_with("created")), "{first}");
    for name in ["frontend", "catalog", "cache"] {
        kubectl.run(&format!("rollout status deployment/{name} --timeout=120s"))?;
    }
    kubectl.run("wait job/seed --for=condition=Complete --timeout=120s")?;
    ensure!(kubectl.feed("apply", &manifest)?.lines().all(|l| l.ends_with("unchanged")));
    eventually("the front end reaches the catalog by name", Duration::from_secs(30), || {
        kubectl.run("exec deploy/frontend -- wget -q -O - http://catalog/")
    })?;
    // Edited, it differs where it was edited, and only what was edited is configured.
    let edited = manifest.replace("replicas: 2", "replicas: 3").replace("color: blue", "color: green");
    let diff = kubectl.answer(&["diff", "-f", "-"], Some(&edited))?;
    ensure!(diff.code == Some(1), "{diff:?}");
    ensure!(diff.out.contains("-  replicas: 2") && diff.out.contains("+  replicas: 3"), "{}", diff.out);
    ensure!(diff.out.contains("-  color: blue") && diff.out.contains("+  color: green"), "{}", diff.out);
    let second = kubectl.feed("apply", &edited)?;
    ensure!(second.contains("deployment.apps/frontend configured"), "{second}");
    ensure!(second.contains("service/frontend unchanged"), "{second}");
    kubectl.run("rollout status deployment/frontend --timeout=90s")?;
    ensure!(kubectl.field("deployment frontend", ".status.readyReplicas")? == "3");
    ensure!(kubectl.answer(&["diff", "-f", "-"], Some(&edited))?.code == Some(0));
    // What a manifest no longer says is taken back.
    let without = edited.replace("    example.org/owner: shop-team\n", "");
    kubectl.feed("apply", &without)?;
    ensure!(kubectl.field("service frontend", ".metadata.annotations.example\\.org/owner")?.is_empty());
    kubectl.feed("delete --wait --timeout=120s", &without)?;
    eventually("all of it is gone", Duration::from_secs(90), || {
        let left = kubectl.run("get deploy,rs,pods,svc,job,cm,role,rolebinding -o name")?;
        ensure!(left.trim() == "configmap/kube-root-ca.crt", "{left}");
        Ok(())
    })?;
    kubectl.run("delete namespace shop --wait --timeout=120s")?;
    Ok(())
}
