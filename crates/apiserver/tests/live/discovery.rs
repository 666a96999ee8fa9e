//! What clients learn of a server before they use it.
use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Method;

use crate::harness::{Live, Who, request};

#[tokio::test(flavor = "multi_thread")]
async fn documents_that_are_known_are_not_sent_again() -> Result<()> {
    let live = Live::start().await?;
    let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
    let v2beta1 = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
    for (path, accept, content_type) in [
        ("/api", v2, v2),
        ("/apis", v2, v2),
        ("/apis", v2beta1, v2beta1),
        ("/apis", "application/json", "application/json"),
        ("/openapi/v3", "application/json", "application/json"),
        ("/openapi/v2", "application/json", "application/json"),
    ] {
        let first = live.get_as(path, accept).await?;
        ensure!(
            first.status == 200 && first.header("content-type") == content_type,
            "{path}: {}",
            first.header("content-type")
        );
        let etag = first.header("etag").to_owned();
        if accept == "application/json" && path == "/apis" {
            ensure!(etag.is_empty());
            continue;
        }
        ensure!(etag.len() > 20 && first.header("vary") == "Accept", "{path}: {etag}");
        let mut again = request(Method::GET, path, accept, Bytes::new());
        again.headers_mut().insert("if-none-match", etag.parse()?);
        let again = live.send(Who::Admin, again).await?;
        ensure!(again.status == 304 && again.body.is_empty() && again.header("etag") == etag, "{path}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn openapi_documents_may_be_kept_by_their_hash() -> Result<()> {
    let live = Live::start().await?;
    let index = live.get("/openapi/v3").await?.json();
    let paths = index["paths"].as_object().cloned().unwrap_or_default();
    ensure!(paths.len() > 15, "{index}");
    for (name, entry) in &paths {
        let url = entry["serverRelativeURL"].as_str().unwrap_or("");
        let document = live.get(url).await?;
        ensure!(document.status == 200, "{name}: {}", document.status);
        ensure!(document.header("cache-control") == "public, immutable", "{name}");
        ensure!(document.header("expires").ends_with(" GMT"), "{name}");
        ensure!(document.json()["openapi"] == "3.0.0", "{name}");
    }
    let url = paths["apis/apps/v1"]["serverRelativeURL"].as_str().unwrap_or("");
    let binary = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf";
    let document = live.send(Who::Admin, request(Method::GET, url, binary, Bytes::new())).await?;
    ensure!(document.header("content-type") == "application/com.github.proto-openapi.spec.v3.v1.0+protobuf");
    ensure!(document.body.starts_with(b"\x0a\x053.0.0"), "the first field is the version of OpenAPI");
    let moved = live.get("/openapi/v3/apis/apps/v1?hash=OLD").await?;
    ensure!(moved.status == 301, "{}", moved.status);
    ensure!(live.get(moved.header("location")).await?.status == 200);
    Ok(())
}
