//! Server-side apply as `kubectl` does it, and what it shows of the owners of fields.
use anyhow::{Context as _, Result, ensure};
use e2e::{Cluster, Kubectl};
use serde_json::Value;

fn web(spec: &str) -> String {
    format!("apiVersion: apps/v1\nkind: Deployment\nmetadata:\n  name: web\nspec:\n{spec}")
}

/// A deployment whose pods nobody starts.
const WHOLE: &str = "  replicas: 0\n  selector: {matchLabels: {app: web}}\n  template:\n    metadata: {labels: {app: web}}\n    spec:\n      containers:\n      - name: c\n        image: localhost/none:1\n        ports: [{containerPort: 80}]\n";

fn apply(kubectl: &Kubectl, arguments: &str, config: &str) -> Result<String> {
    let arguments: Vec<&str> = ["apply", "-f", "-"].into_iter().chain(arguments.split_whitespace()).collect();
    let answer = kubectl.answer(&arguments, Some(config))?;
    ensure!(answer.code == Some(0), "kubectl apply {arguments:?}: {}{}", answer.out, answer.err);
    Ok(answer.out)
}

fn shown(kubectl: &Kubectl) -> Result<Value> {
    serde_json::from_str(&kubectl.run("get deployment web -o json --show-managed-fields")?).context("JSON")
}

fn entry<'a>(object: &'a Value, manager: &str) -> Option<&'a Value> {
    object["metadata"]["managedFields"].as_array()?.iter().find(|e| e["manager"] == manager)
}

pub fn apply_and_owners(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("apply")?;
    let out = apply(&kubectl, "--server-side", &web(WHOLE))?;
    ensure!(out.contains("deployment.apps/web serverside-applied"), "{out}");
    let first = shown(&kubectl)?;
    let mine = entry(&first, "kubectl").context("no owner kubectl")?;
    ensure!(mine["operation"] == "Apply" && mine["apiVersion"] == "apps/v1", "{mine}");
    let ports =
        &mine["fieldsV1"]["f:spec"]["f:template"]["f:spec"]["f:containers"]["k:{\"name\":\"c\"}"]["f:ports"];
    ensure!(!ports["k:{\"containerPort\":80,\"protocol\":\"TCP\"}"].is_null(), "{mine}");
    let controller = entry(&first, "kube-controller-manager");
    ensure!(controller.is_none_or(|c| c["subresource"] == "status"), "{controller:?}");
    let hidden = kubectl.run("get deployment web -o yaml")?;
    ensure!(!hidden.contains("managedFields"), "{hidden}");

    apply(&kubectl, "--server-side", &web(WHOLE))?;
    let again = shown(&kubectl)?;
    ensure!(entry(&again, "kubectl") == Some(mine), "applying again changed the owner: {again}");

    kubectl.run("scale deployment web --replicas=1")?;
    let refused = kubectl.answer(&["apply", "--server-side", "-f", "-"], Some(&web(WHOLE)))?;
    ensure!(refused.code != Some(0), "no conflict: {}", refused.out);
    for text in [
        "Apply failed with 1 conflict: conflict with \"kubectl\" with subresource \"scale\" using apps/v1: .spec.replicas",
        "--force-conflicts",
    ] {
        ensure!(refused.err.contains(text), "no {text:?} in {}", refused.err);
    }
    apply(&kubectl, "--server-side --force-conflicts", &web(WHOLE))?;
    ensure!(shown(&kubectl)?["spec"]["replicas"] == 0, "force did not win");

    apply(&kubectl, "--server-side --field-manager=other", &web("  minReadySeconds: 3\n"))?;
    let both = shown(&kubectl)?;
    ensure!(both["spec"]["minReadySeconds"] == 3 && both["spec"]["replicas"] == 0, "{both}");
    let other = entry(&both, "other").context("no owner other")?;
    ensure!(other["fieldsV1"] == serde_json::json!({"f:spec": {"f:minReadySeconds": {}}}), "{other}");
    let dry = apply(
        &kubectl,
        "--server-side --dry-run=server --field-manager=other -o yaml",
        &web("  minReadySeconds: 4\n"),
    )?;
    ensure!(dry.contains("minReadySeconds: 4"), "{dry}");
    ensure!(shown(&kubectl)?["spec"]["minReadySeconds"] == 3, "a dry run was stored");
    let refused = kubectl
        .answer(&["apply", "--server-side", "--validate=false", "-f", "-"], Some(&web("  replicos: 3\n")))?;
    ensure!(refused.err.contains(".spec.replicos: field not declared in schema"), "{}", refused.err);
    kubectl.run("delete namespace apply --wait --timeout=60s")?;
    Ok(())
}

pub fn migration(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("migrate")?;
    apply(&kubectl, "", &web(WHOLE))?;
    let before = shown(&kubectl)?;
    ensure!(entry(&before, "kubectl-client-side-apply").is_some(), "{before}");
    let changed = WHOLE.replace("containerPort: 80", "containerPort: 81");
    apply(&kubectl, "--server-side", &web(&changed))?;
    let after = shown(&kubectl)?;
    let ports = &after["spec"]["template"]["spec"]["containers"][0]["ports"];
    ensure!(ports.as_array().is_some_and(|p| p.len() == 1 && p[0]["containerPort"] == 81), "{ports}");
    let last = after["metadata"]["annotations"]["kubectl.kubernetes.io/last-applied-configuration"].as_str();
    ensure!(last.is_some_and(|l| l.contains("81")), "{last:?}");
    // And back again.
    let answer = apply(&kubectl, "", &web(WHOLE))?;
    ensure!(answer.contains("configured"), "{answer}");
    kubectl.run("delete namespace migrate --wait --timeout=60s")?;
    Ok(())
}
