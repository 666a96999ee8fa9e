//! What is refused, how, and that nothing changed.
use std::process::Command;

use anyhow::{Result, ensure};
use e2e::{Cluster, Credentials, Request};

use crate::HELLO;

/// Sends a body as the administrator and gives status and answer.
fn send(cluster: &Cluster, method: &str, path: &str, kind: &str, body: &[u8]) -> Result<(String, String)> {
    let pki = cluster.root().join("pki");
    Request::new(&pki.join("ca.crt"), cluster.port(), path)
        .method(method)
        .body(kind, body)
        .send(&Credentials::certificate(&pki.join("admin.crt"), &pki.join("admin.key")))
}

pub fn bad_input(cluster: &Cluster) -> Result<()> {
    let kubectl = cluster.namespace("bad")?;
    let path = "/api/v1/namespaces/bad/configmaps";
    let json = "application/json";
    let refused = |path: &str, kind: &str, body: &[u8], code: &str, words: &str| -> Result<()> {
        let (got, answer) = send(cluster, "POST", path, kind, body)?;
        let shown: String = answer.chars().take(400).collect();
        ensure!(got == code && answer.contains(words), "wanted {code} {words:?}, got {got}: {shown}");
        ensure!(answer.contains("\"kind\":\"Status\""), "not a Status: {shown}");
        Ok(())
    };
    refused(path, json, b"{", "400", "BadRequest")?;
    refused(path, "application/yaml", b"a: [", "400", "BadRequest")?;
    refused(path, "text/plain", b"x", "415", "UnsupportedMediaType")?;
    let large = vec![b' '; 4 * 1024 * 1024];
    refused(path, json, &large, "413", "RequestEntityTooLarge")?;
    let deep = "[".repeat(100_000);
    refused(path, json, deep.as_bytes(), "400", "BadRequest")?;
    refused(
        path,
        json,
        br#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"a"}}"#,
        "400",
        "BadRequest",
    )?;
    refused(
        path,
        json,
        br#"{"apiVersion":"v9","kind":"ConfigMap","metadata":{"name":"a"}}"#,
        "400",
        "BadRequest",
    )?;
    refused(
        path,
        json,
        br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"A_b"}}"#,
        "422",
        "metadata.name",
    )?;
    refused(
        path,
        json,
        br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a","labels":{"x y":"z"}}}"#,
        "422",
        "metadata.labels",
    )?;
    refused(
        path,
        json,
        br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{}}"#,
        "422",
        "name or generateName is required",
    )?;
    refused(
        path,
        json,
        br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"},"data":{"k":1}}"#,
        "400",
        "cannot unmarshal number",
    )?;
    refused(
        "/api/v1/namespaces/none/configmaps",
        json,
        br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"a"}}"#,
        "404",
        "namespaces \\\"none\\\" not found",
    )?;
    ensure!(
        kubectl.run("get configmaps -o name")?.trim() == "configmap/kube-root-ca.crt",
        "something was stored"
    );
    // In kubectl's own words.
    let said = kubectl.refused("get widgets")?;
    ensure!(said.contains("the server doesn't have a resource type \"widgets\""), "{said}");
    let answer = kubectl.answer(
        &["apply", "-f", "-"],
        Some(&format!("apiVersion: v1\nkind: Pod\nmetadata: {{name: p}}\nspec: {{containers: [{{name: c, image: {HELLO}, comand: [x]}}]}}\n")),
    )?;
    ensure!(
        answer.code != Some(0) && answer.err.contains("unknown field \"spec.containers[0].comand\""),
        "{}",
        answer.err
    );
    host(cluster)?;
    kubectl.run("delete namespace bad --wait --timeout=60s")?;
    Ok(())
}

/// What `cox` itself refuses.
fn host(cluster: &Cluster) -> Result<()> {
    let taken = cluster.cox(&["kube-controller-manager", "--no-such-flag"])?;
    ensure!(taken.code != Some(0) && taken.err.contains("--no-such-flag"), "{}", taken.err);
    // The port of the API server is in use.
    let other = tempfile::tempdir()?;
    let output = Command::new(cluster.binary())
        .args(["up", "--no-node", "--name", "second", "--secure-port", cluster.port(), "--data-dir"])
        .arg(other.path())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains(cluster.port()), "{said}");
    // A data directory of another version.
    let format = other.path().join("third");
    std::fs::create_dir_all(&format)?;
    std::fs::write(format.join("format"), "999\n")?;
    let output = Command::new(cluster.binary())
        .args(["up", "--no-node", "--name", "third", "--secure-port", "0", "--data-dir"])
        .arg(other.path())
        .output()?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(!output.status.success() && said.contains("999"), "{said}");
    Ok(())
}
