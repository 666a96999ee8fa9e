//! What one looks at first.
use anyhow::{Result, ensure};
use e2e::Cluster;

fn has(text: &str, wanted: &[&str]) -> Result<()> {
    for word in wanted {
        ensure!(text.contains(word), "no {word:?} in:\n{text}");
    }
    Ok(())
}

pub fn basics(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.kubectl();
    let parts = kubectl.run("get componentstatuses")?;
    has(&parts, &["scheduler", "controller-manager", "etcd-0", "Healthy"])?;
    ensure!(!parts.contains("Unhealthy"), "{parts}");
    has(&kubectl.run("get nodes -o wide")?, &["Ready", "INTERNAL-IP", "containerd://", "v1.36"])?;
    has(&kubectl.run("get pods -A")?, &[])?;
    has(&kubectl.run("version")?, &["Server Version: v1.36"])?;
    has(
        &kubectl.run("api-resources")?,
        &[
            "deployments",
            "deploy",
            "customresourcedefinitions",
            "networkpolicies",
            "leases",
            "events.k8s.io/v1",
        ],
    )?;
    has(&kubectl.run("api-versions")?, &["apps/v1", "batch/v1", "networking.k8s.io/v1"])?;
    has(&kubectl.run("cluster-info")?, &["Kubernetes control plane", "is running at"])?;
    has(&kubectl.run("auth can-i --list")?, &["*.*", "[*]"])?;
    has(&kubectl.run("auth can-i create pods")?, &["yes"])?;
    let no = kubectl.answer(&["auth", "can-i", "create", "pods", "--as", "nobody"], None)?;
    has(&no.out, &["no"])?;
    has(
        &kubectl.run("get namespaces")?,
        &["default", "kube-system", "kube-public", "kube-node-lease", "Active"],
    )?;
    has(&kubectl.run("get svc kubernetes")?, &["ClusterIP", "10.96.0.1", "443/TCP"])?;
    has(&kubectl.run("get --raw /readyz?verbose")?, &["[+]ping ok", "readyz check passed"])?;
    has(&kubectl.run("explain deployment.spec.replicas")?, &["replicas", "integer"])?;
    let status = cluster.cox(&["status"])?;
    ensure!(status.code == Some(0), "cox status: {}{}", status.out, status.err);
    Ok(())
}

pub fn empty(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("empty")?;
    let answer = kubectl.answer(&["get", "pods"], None)?;
    ensure!(answer.err.contains("No resources found in empty namespace."), "{}", answer.err);
    kubectl.run("delete namespace empty --wait --timeout=60s")?;
    Ok(())
}
