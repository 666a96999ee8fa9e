//! Every limit, hit.
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use apiserver::Serving;
use bytes::Bytes;
use http::Method;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{Live, MAPS, PATIENCE, Who, request};

/// Begins a write whose body does not come.
async fn unfinished(live: &Live) -> Result<tokio_rustls::client::TlsStream<tokio::net::TcpStream>> {
    let mut stream = live.raw(Who::Tester, b"http/1.1").await?;
    let head = format!(
        "POST {MAPS} HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer secret-of-the-tester\r\n\
         Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{{"
    );
    stream.write_all(head.as_bytes()).await?;
    stream.flush().await?;
    Ok(stream)
}

/// Status line and body of what a bare connection is told.
async fn told(stream: &mut tokio_rustls::client::TlsStream<tokio::net::TcpStream>) -> Result<String> {
    let mut all = Vec::new();
    // The server may close the connection hard once it has said what is wrong.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut all)).await.context("no answer")?;
    Ok(String::from_utf8_lossy(&all).into_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_requests_are_told_to_come_back() -> Result<()> {
    let serving = Serving { max_mutating_requests_inflight: 1, ..Serving::default() };
    let live = Live::with(serving).await?;
    let _held = unfinished(&live).await?;
    let post = || request(Method::POST, MAPS, "application/json", r#"{"metadata":{"name":"a"}}"#);
    let began = Instant::now();
    let refused = loop {
        let answer = live.send(Who::Tester, post()).await?;
        if answer.status == 429 || began.elapsed() > PATIENCE {
            break answer;
        }
    };
    let (code, reason, message) = refused.error();
    ensure!((code, reason.as_str()) == (429, "TooManyRequests"), "{code} {reason}");
    ensure!(message == "Too many requests, please try again later.", "{message}");
    ensure!(refused.header("retry-after") == "1");
    // Reading goes on, and the masters may still write.
    ensure!(live.send(Who::Tester, request(Method::GET, MAPS, "*/*", Bytes::new())).await?.status == 200);
    let other = request(Method::POST, MAPS, "application/json", r#"{"metadata":{"name":"b"}}"#);
    ensure!(live.send(Who::Admin, other).await?.status == 201);
    let page = live.get("/metrics").await?.text();
    ensure!(page.contains(r#"apiserver_current_inflight_requests{request_kind="mutating"} 1"#));
    ensure!(page.contains(r#"apiserver_request_terminations_total{code="429""#));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_takes_too_long_is_ended() -> Result<()> {
    let serving = Serving { request_timeout: Duration::from_secs(5), ..Serving::default() };
    let live = Live::with(serving).await?;
    let mut stream = unfinished(&live).await?;
    let answer = told(&mut stream).await?;
    ensure!(answer.starts_with("HTTP/1.1 504 "), "{answer}");
    ensure!(answer.contains(r#""reason":"Timeout""#), "{answer}");
    ensure!(answer.contains("request did not complete within the allotted timeout"), "{answer}");
    // A watch is not held to it.
    let watch = format!("{MAPS}?watch=1&timeoutSeconds=6");
    let began = Instant::now();
    let answer =
        live.send(Who::Admin, request(Method::GET, &watch, "application/json", Bytes::new())).await?;
    ensure!(answer.status == 200 && began.elapsed() >= Duration::from_millis(5900));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn large_heads_and_bodies_are_refused() -> Result<()> {
    let live = Live::start().await?;
    let mut stream = live.raw(Who::Admin, b"http/1.1").await?;
    let head = format!("GET {MAPS} HTTP/1.1\r\nHost: a\r\nX-Large: {}\r\n\r\n", "x".repeat(2 << 20));
    let _ = stream.write_all(head.as_bytes()).await;
    let answer = told(&mut stream).await?;
    ensure!(answer.starts_with("HTTP/1.1 431 "), "{answer}");

    let body = format!(r#"{{"metadata":{{"name":"a"}},"data":{{"x":"{}"}}}}"#, "x".repeat(4 << 20));
    let answer = live.send(Who::Admin, request(Method::POST, MAPS, "application/json", body)).await?;
    let (code, reason, message) = answer.error();
    ensure!((code, reason.as_str()) == (413, "RequestEntityTooLarge"), "{code} {reason}");
    ensure!(message == "Request entity too large: limit is 3145728", "{message}");
    Ok(())
}

/// A config map of so many entries: with short values, the owners of the fields take more room than the rest.
fn map(name: &str, entries: usize, value: usize) -> serde_json::Value {
    let data: serde_json::Map<_, _> =
        (0..entries).map(|n| (format!("entry-with-a-long-name-{n:06}"), "x".repeat(value).into())).collect();
    serde_json::json!({ "metadata": { "name": name }, "data": data })
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_for_the_store_gives_up_its_owners_first() -> Result<()> {
    let live = Live::start().await?;
    // 0.9 MB of data, and as much again to say whose it is.
    let created = live.create(MAPS, &map("wide", 20_000, 10)).await?;
    ensure!(created["metadata"]["managedFields"].is_null(), "kept without owners");
    let path = format!("{MAPS}/wide");
    let label = r#"{"metadata":{"labels":{"a":"b"}}}"#;
    let typed = |media: &'static str, mut request: http::Request<_>| {
        request.headers_mut().insert("content-type", http::HeaderValue::from_static(media));
        request
    };
    let merge = request(Method::PATCH, &path, "application/json", label);
    let patched = live.send(Who::Admin, typed("application/merge-patch+json", merge)).await?;
    ensure!(patched.status == 200, "{}", patched.text());
    ensure!(live.get(&path).await?.json()["metadata"]["labels"]["a"] == "b");
    // Nothing can be left out of these.
    let huge =
        serde_json::json!({ "metadata": { "name": "huge" }, "revision": 1, "data": "x".repeat(1_800_000) });
    let revisions = "/apis/apps/v1/namespaces/default/controllerrevisions";
    let answer =
        live.send(Who::Admin, request(Method::POST, revisions, "application/json", huge.to_string())).await?;
    let told = answer.error();
    ensure!(told == (500, String::new(), "etcdserver: request is too large".into()), "{told:?}");
    let applied = map("applied", 20_000, 10);
    let applied =
        serde_json::json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": applied["metadata"],
        "data": applied["data"] })
        .to_string();
    let path = format!("{MAPS}/applied?fieldManager=me");
    let apply = request(Method::PATCH, &path, "application/json", applied);
    let answer = live.send(Who::Admin, typed("application/apply-patch+yaml", apply)).await?;
    ensure!(answer.error().0 == 500 && answer.error().2 == "etcdserver: request is too large");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_moved_to_other_servers() -> Result<()> {
    // Every request, so that one is enough.
    let live = Live::with(Serving { goaway_chance: 1.0, ..Serving::default() }).await?;
    let mut sender = live.http2(Who::Admin).await?;
    let uri = format!("https://{}/version", live.address);
    let response = sender.send_request(request(Method::GET, &uri, "*/*", Bytes::new())).await?;
    ensure!(response.status() == 200, "the request itself is answered");
    drop(response);
    let began = Instant::now();
    while !sender.is_closed() {
        ensure!(began.elapsed() < PATIENCE, "the connection goes on");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_resets_ends_the_connection_and_nothing_else() -> Result<()> {
    let live = Live::start().await?;
    let mut stream = live.raw(Who::Admin, b"h2").await?;
    // Preface, empty settings, then streams that are opened and reset at once: GET / with indexed headers only.
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
    let mut flood = Vec::new();
    for n in 0..20_000_u32 {
        let id = (2 * n + 1).to_be_bytes();
        flood.extend_from_slice(&[0, 0, 4, 1, 5]);
        flood.extend_from_slice(&id);
        // :method GET, :path /, :scheme https, :authority empty.
        flood.extend_from_slice(&[0x82, 0x84, 0x87, 0x01]);
        flood.extend_from_slice(&[0, 0, 4, 3, 0]);
        flood.extend_from_slice(&id);
        flood.extend_from_slice(&[0, 0, 0, 8]);
    }
    let (mut reading, mut writing) = tokio::io::split(stream);
    let sent = tokio::spawn(async move { writing.write_all(&flood).await });
    let mut all = Vec::new();
    let _ = tokio::time::timeout(PATIENCE, reading.read_to_end(&mut all)).await.context("it goes on")?;
    let _ = sent.await?;
    ensure!(live.get("/readyz").await?.status == 200, "others are served");
    Ok(())
}
