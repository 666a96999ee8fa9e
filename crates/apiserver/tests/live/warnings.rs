//! What a client is warned of reaches it, whatever becomes of its request.
use anyhow::{Result, ensure};
use http::Method;
use serde_json::json;

use crate::harness::{Live, MAPS, Who, request};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn warnings_come_with_errors_too() -> Result<()> {
    let live = Live::start().await?;
    let unknown = r#"299 - "unknown field \"dat\"""#;
    for (name, status) in [("a", 201), ("A", 422), ("a", 409)] {
        let body = json!({"metadata": {"name": name}, "dat": {}}).to_string();
        let path = format!("{MAPS}?fieldValidation=Warn");
        let answer = live.send(Who::Admin, request(Method::POST, &path, "application/json", body)).await?;
        ensure!(answer.status == status, "{name}: {}", answer.text());
        ensure!(answer.header("warning") == unknown, "{name}: {:?}", answer.headers);
    }
    let old = r#"299 - "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice""#;
    for (name, status) in [("kubernetes", 200), ("none", 404)] {
        let answer = live.get(&format!("/api/v1/namespaces/default/endpoints/{name}")).await?;
        ensure!(answer.status == status, "{name}: {}", answer.text());
        ensure!(answer.header("warning") == old, "{name}: {:?}", answer.headers);
    }
    Ok(())
}
