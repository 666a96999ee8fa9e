//! The objects that are written.
use std::fmt::Write as _;

use anyhow::Result;
use http::{Method, StatusCode};
use serde_json::{Value, json};

use crate::connect::Target;

/// Makes a namespace with the service account that its pods need.
pub async fn namespace(target: &Target, name: &str) -> Result<()> {
    let body = json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": name } });
    target.must(Method::POST, "/api/v1/namespaces", &body, StatusCode::CREATED).await?;
    let body = json!({ "apiVersion": "v1", "kind": "ServiceAccount", "metadata": { "name": "default" } });
    let path = format!("/api/v1/namespaces/{name}/serviceaccounts");
    target.must(Method::POST, &path, &body, StatusCode::CREATED).await?;
    Ok(())
}

/// A config map whose JSON has about `size` bytes.
pub fn config_map(name: &str, size: usize) -> String {
    let mut out = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","labels":{{"app":"bench"}}}},"data":{{"text":""#
    );
    let rest = size.saturating_sub(out.len() + 3);
    out.extend((0..rest).map(|i| char::from(b'a' + (i % 26) as u8)));
    out.push_str("\"}}");
    out
}

/// A pod as deployments make them: labels, environment, limits, a probe, a volume.
pub fn pod(name: &str, number: usize) -> String {
    let body: Value = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "labels": { "app": format!("app-{}", number % 100), "pod-template-hash": "5d4f8c7b9" },
            "annotations": { "example.com/revision": number.to_string() },
        },
        "spec": {
            "automountServiceAccountToken": false,
            "containers": [{
                "name": "main",
                "image": "registry.example.com/team/application:1.2.3",
                "env": [
                    { "name": "LOG_LEVEL", "value": "info" },
                    { "name": "POD_NAME", "valueFrom": { "fieldRef": { "fieldPath": "metadata.name" } } },
                ],
                "ports": [{ "name": "http", "containerPort": 8080 }],
                "resources": {
                    "requests": { "cpu": "100m", "memory": "64Mi" },
                    "limits": { "memory": "128Mi" },
                },
                "readinessProbe": { "httpGet": { "path": "/ready", "port": "http" }, "periodSeconds": 5 },
                "volumeMounts": [{ "name": "scratch", "mountPath": "/scratch" }],
            }],
            "volumes": [{ "name": "scratch", "emptyDir": {} }],
        },
    });
    body.to_string()
}

/// A name with a number in it.
pub fn name(prefix: &str, number: usize) -> String {
    let mut out = String::with_capacity(prefix.len() + 8);
    let _ = write!(out, "{prefix}-{number:06}");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_maps_have_the_size_that_was_asked_for() {
        for size in [550, 1024] {
            let text = config_map(&name("a", 7), size);
            assert_eq!(text.len(), size);
            let value: Value = serde_json::from_str(&text).unwrap();
            assert_eq!(value["metadata"]["name"], "a-000007");
        }
    }
}
