//! `/metrics` and health.
use anyhow::{Result, ensure};
use bytes::Bytes;
use http::Method;

use crate::harness::{Live, MAPS, Who, request};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_asked_and_answered_is_counted() -> Result<()> {
    let live = Live::start().await?;
    live.config_maps(3).await?;
    live.get(&format!("{MAPS}/map-001")).await?;
    live.get(&format!("{MAPS}/none")).await?;
    live.get(MAPS).await?;
    live.get(&format!("{MAPS}?watch=1&timeoutSeconds=1")).await?;
    live.get("/api/v1/namespaces/default/inventions").await?;
    let answer = live.get("/metrics").await?;
    ensure!(answer.header("content-type") == "text/plain; version=0.0.4; charset=utf-8");
    let page = answer.text();
    let maps = |code: &str, verb: &str, scope: &str, count: usize| {
        format!(
            "apiserver_request_total{{code=\"{code}\",component=\"apiserver\",dry_run=\"\",group=\"\",\
             resource=\"configmaps\",scope=\"{scope}\",subresource=\"\",verb=\"{verb}\",version=\"v1\"}} {count}\n"
        )
    };
    for line in [
        &maps("201", "POST", "resource", 3),
        &maps("200", "GET", "resource", 1),
        &maps("404", "GET", "resource", 1),
        &maps("200", "LIST", "namespace", 1),
        &maps("200", "WATCH", "namespace", 1),
        "apiserver_storage_objects{resource=\"configmaps\"} ",
        "apiserver_resource_objects{group=\"\",resource=\"configmaps\"} ",
        "apiserver_watch_events_total{group=\"\",version=\"v1\",resource=\"configmaps\"} 3\n",
        "etcd_request_duration_seconds_count{group=\"\",operation=\"create\",resource=\"configmaps\"} ",
        "kubernetes_build_info{",
        "process_resident_memory_bytes ",
        "process_start_time_seconds ",
        "# TYPE apiserver_request_duration_seconds histogram\n",
        "# TYPE apiserver_request_total counter\n",
    ] {
        ensure!(page.contains(line), "{line}\n{page}");
    }
    ensure!(!page.contains("inventions"), "made-up resources are not counted");
    // Every sample belongs to a family that was announced just before it.
    let mut family = "";
    for line in page.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().unwrap_or("");
        } else if !line.starts_with('#') {
            ensure!(line.starts_with(family), "{line} after {family}");
        }
    }
    let refused = live.send(Who::Anonymous, request(Method::GET, "/metrics", "*/*", Bytes::new())).await?;
    let (code, reason, message) = refused.error();
    ensure!((code, reason.as_str()) == (403, "Forbidden"), "{code}");
    ensure!(message == r#"forbidden: User "system:anonymous" cannot get path "/metrics""#, "{message}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn health_is_told_check_by_check() -> Result<()> {
    let live = Live::start().await?;
    let hooks =
        "[+]poststarthook/rbac/bootstrap-roles ok\n[+]poststarthook/start-system-namespaces-controller ok\n";
    let readyz = format!(
        "[+]ping ok\n[+]log ok\n[+]etcd ok\n[+]etcd-readiness ok\n[+]informer-sync ok\n{hooks}[+]shutdown ok\nreadyz check passed\n"
    );
    let livez = format!("[+]ping ok\n[+]log ok\n[+]etcd excluded: ok\n{hooks}livez check passed\n");
    for (path, status, text) in [
        ("/readyz", 200, "ok"),
        ("/healthz", 200, "ok"),
        ("/readyz/etcd", 200, "ok"),
        ("/livez/ping", 200, "ok"),
        ("/readyz?verbose", 200, readyz.as_str()),
        ("/livez?verbose&exclude=etcd", 200, livez.as_str()),
    ] {
        let answer = live.get_as(path, "*/*").await?;
        ensure!(
            answer.status == status && answer.text() == text,
            "{path}: {} {}",
            answer.status,
            answer.text()
        );
    }
    ensure!(live.get("/livez/shutdown").await?.status == 404);
    let paths = live.get("/").await?.json();
    for path in ["/apis/apps/v1", "/readyz/etcd", "/metrics", "/openapi/v3", "/version"] {
        ensure!(paths["paths"].as_array().is_some_and(|p| p.iter().any(|x| x == path)), "{path}: {paths}");
    }
    Ok(())
}
