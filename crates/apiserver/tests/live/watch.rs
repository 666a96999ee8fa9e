//! Watches of every kind.
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use http::Method;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::harness::{Live, MAPS, PATIENCE, Who, request};

/// Events of a watch in JSON.
pub struct Events {
    body: Incoming,
    buffer: Vec<u8>,
}

impl Events {
    pub async fn open(live: &Live, path: &str, accept: &str) -> Result<Self> {
        let response = live.open(Who::Admin, request(Method::GET, path, accept, Bytes::new())).await?;
        ensure!(response.status() == 200, "{path}: {}", response.status());
        Ok(Self { body: response.into_body(), buffer: Vec::new() })
    }

    /// The next event; `None` at a clean end.
    pub async fn next(&mut self) -> Result<Option<Value>> {
        loop {
            if let Some(end) = self.buffer.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.buffer.drain(..=end).collect();
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            match tokio::time::timeout(PATIENCE, self.body.frame()).await.context("no event came")? {
                Some(frame) => self.buffer.extend_from_slice(&frame?.into_data().unwrap_or_default()),
                None => return Ok(None),
            }
        }
    }

    /// Type and name of the next event.
    pub async fn brief(&mut self) -> Result<String> {
        let Some(event) = self.next().await? else { return Ok("end".into()) };
        let name = event["object"]["metadata"]["name"].as_str().unwrap_or("-");
        Ok(format!("{} {name}", event["type"].as_str().unwrap_or("?")))
    }
}

async fn label(live: &Live, name: &str, value: &str) -> Result<Value> {
    let patch = json!({ "metadata": { "labels": { "colour": value } } }).to_string();
    let mut patch = request(Method::PATCH, &format!("{MAPS}/{name}"), "application/json", patch);
    patch.headers_mut().insert("content-type", "application/merge-patch+json".parse()?);
    let answer = live.send(Who::Admin, patch).await?;
    ensure!(answer.status == 200, "{}", answer.text());
    Ok(answer.json())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_expired_revision_is_an_error_event() -> Result<()> {
    let live = Live::start().await?;
    live.config_maps(2).await?;
    let live = live.forgetful().await?;
    let mut events =
        Events::open(&live, &format!("{MAPS}?watch=1&resourceVersion=1"), "application/json").await?;
    let event = events.next().await?.context("an event")?;
    ensure!(event["type"] == "ERROR" && event["object"]["code"] == 410, "{event}");
    ensure!(event["object"]["reason"] == "Expired" && event["object"]["kind"] == "Status", "{event}");
    let message = event["object"]["message"].as_str().unwrap_or("");
    ensure!(message.starts_with("too old resource version: 1 ("), "{message}");
    ensure!(events.next().await?.is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revision_that_is_still_to_come_is_waited_for() -> Result<()> {
    let live = Live::start().await?;
    live.config_maps(1).await?;
    let list = live.get(MAPS).await?.json();
    let now: u64 = list["metadata"]["resourceVersion"].as_str().unwrap_or("").parse()?;
    let path = format!("{MAPS}?watch=1&resourceVersion={}", now + 2);
    let mut events = Events::open(&live, &path, "application/json").await?;
    // Other parts of the server may write too, but revisions only grow.
    let mut last = Value::Null;
    for n in 0..4 {
        last = label(&live, "map-000", &n.to_string()).await?;
    }
    let first = events.next().await?.context("an event")?;
    let seen: u64 = first["object"]["metadata"]["resourceVersion"].as_str().unwrap_or("").parse()?;
    ensure!(first["type"] == "MODIFIED" && seen > now + 2, "{first}");
    let mut event = first;
    while event["object"]["metadata"]["resourceVersion"] != last["metadata"]["resourceVersion"] {
        event = events.next().await?.context("an event")?;
    }
    // Who wants all of it first cannot wait.
    let all = "sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let path = format!("{MAPS}?watch=1&{all}&resourceVersion=99999999");
    let mut events = Events::open(&live, &path, "application/json").await?;
    let event = events.next().await?.context("an event")?;
    ensure!(event["type"] == "ERROR" && event["object"]["code"] == 504, "{event}");
    let details = &event["object"]["details"];
    ensure!(details["causes"][0]["reason"] == "ResourceVersionTooLarge", "{event}");
    ensure!(details["retryAfterSeconds"] == 1, "{event}");
    ensure!(events.next().await?.is_none());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_begins_where_it_is_told_to() -> Result<()> {
    let live = Live::start().await?;
    live.config_maps(2).await?;
    let list = live.get(MAPS).await?.json();
    let revision = list["metadata"]["resourceVersion"].as_str().unwrap_or("").to_owned();
    live.create(MAPS, &json!({ "metadata": { "name": "new" } })).await?;
    for (query, expected) in [
        (String::new(), vec!["ADDED map-000", "ADDED map-001", "ADDED new"]),
        ("&resourceVersion=0".into(), vec!["ADDED map-000", "ADDED map-001", "ADDED new"]),
        (format!("&resourceVersion={revision}"), vec!["ADDED new", "end"]),
        (
            "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true".into(),
            vec!["ADDED map-000", "ADDED map-001", "ADDED new", "BOOKMARK -"],
        ),
        (
            format!("&sendInitialEvents=false&resourceVersionMatch=NotOlderThan&resourceVersion={revision}"),
            vec!["ADDED new"],
        ),
        ("&fieldSelector=metadata.name%3Dmap-001".into(), vec!["ADDED map-001", "end"]),
    ] {
        let path = format!("{MAPS}?watch=1&timeoutSeconds=1{query}");
        let mut events = Events::open(&live, &path, "application/json").await?;
        for wanted in expected {
            let got = events.brief().await?;
            ensure!(got == wanted, "{query}: {got}, want {wanted}");
        }
    }
    let path = format!(
        "{MAPS}?watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true"
    );
    let mut events = Events::open(&live, &path, "application/json").await?;
    for _ in 0..3 {
        events.next().await?;
    }
    let bookmark = events.next().await?.context("a bookmark")?;
    ensure!(
        bookmark["object"]["metadata"]["annotations"]["k8s.io/initial-events-end"] == "true",
        "{bookmark}"
    );
    ensure!(
        bookmark["object"]["kind"] == "ConfigMap" && bookmark["object"]["apiVersion"] == "v1",
        "{bookmark}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_come_and_go_as_they_match() -> Result<()> {
    let live = Live::start().await?;
    live.config_maps(1).await?;
    let path = format!("{MAPS}?watch=1&labelSelector=colour%3Dred");
    let mut events = Events::open(&live, &path, "application/json").await?;
    label(&live, "map-000", "red").await?;
    ensure!(events.brief().await? == "ADDED map-000");
    live.create(MAPS, &json!({ "metadata": { "name": "other" } })).await?;
    let changed = label(&live, "map-000", "blue").await?;
    let gone = events.next().await?.context("an event")?;
    ensure!(gone["type"] == "DELETED" && gone["object"]["metadata"]["labels"]["colour"] == "red", "{gone}");
    ensure!(
        gone["object"]["metadata"]["resourceVersion"] == changed["metadata"]["resourceVersion"],
        "{gone}"
    );
    label(&live, "map-000", "red").await?;
    ensure!(events.brief().await? == "ADDED map-000");
    live.send(Who::Admin, request(Method::DELETE, &format!("{MAPS}/map-000"), "application/json", ""))
        .await?;
    ensure!(events.brief().await? == "DELETED map-000");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_metadata_and_protobuf_can_be_watched() -> Result<()> {
    let live = Live::start().await?;
    live.config_maps(2).await?;
    let path = format!("{MAPS}?watch=1");
    let mut events = Events::open(&live, &path, "application/json;as=Table;g=meta.k8s.io;v=v1").await?;
    let first = events.next().await?.context("an event")?;
    ensure!(first["object"]["kind"] == "Table", "{first}");
    ensure!(first["object"]["columnDefinitions"].as_array().is_some_and(|c| c.len() == 3), "{first}");
    ensure!(first["object"]["rows"][0]["cells"][0] == "map-000", "{first}");
    let second = events.next().await?.context("an event")?;
    ensure!(second["object"]["columnDefinitions"].as_array().is_none_or(Vec::is_empty), "{second}");
    let accept = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1";
    let mut events = Events::open(&live, &path, accept).await?;
    let first = events.next().await?.context("an event")?;
    ensure!(
        first["object"]["kind"] == "PartialObjectMetadata" && first["object"].get("data").is_none(),
        "{first}"
    );

    let get = request(Method::GET, &path, "application/vnd.kubernetes.protobuf;stream=watch", Bytes::new());
    let response = live.open(Who::Admin, get).await?;
    ensure!(response.headers()["content-type"] == "application/vnd.kubernetes.protobuf;stream=watch");
    let mut body = response.into_body();
    let mut bytes = Vec::new();
    let length = |b: &[u8]| b.get(..4).map(|l| u32::from_be_bytes([l[0], l[1], l[2], l[3]]) as usize);
    while length(&bytes).is_none_or(|l| bytes.len() < 4 + l) {
        let frame = tokio::time::timeout(PATIENCE, body.frame()).await?.context("a frame")??;
        bytes.extend_from_slice(&frame.into_data().unwrap_or_default());
    }
    // Field 1 is the type; the object has the magic, its wrapping has not.
    ensure!(bytes[4..].starts_with(b"\x0a\x05ADDED\x12"), "{:?}", &bytes[..20.min(bytes.len())]);
    ensure!(bytes.windows(4).any(|w| w == b"k8s\0"));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_websocket_gets_a_message_for_each_event() -> Result<()> {
    let live = Live::start().await?;
    live.config_maps(2).await?;
    let mut stream = live.raw(Who::Admin, b"http/1.1").await?;
    let request = format!(
        "GET {MAPS}?watch=1 HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Protocol: base64.binary.k8s.io\r\nOrigin: https://127.0.0.1\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let work = async {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        let head = String::from_utf8(head)?.to_ascii_lowercase();
        ensure!(head.starts_with("http/1.1 101 ") && head.contains("s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
        ensure!(head.contains("sec-websocket-protocol: base64.binary.k8s.io"), "{head}");
        for name in ["map-000", "map-001"] {
            // A final text message, not masked.
            ensure!(stream.read_u8().await? == 0x81);
            let length = match stream.read_u8().await? {
                126 => usize::from(stream.read_u16().await?),
                length @ 0..126 => usize::from(length),
                length => bail!("length {length}"),
            };
            let mut message = vec![0; length];
            stream.read_exact(&mut message).await?;
            let event: Value = serde_json::from_slice(&message)?;
            ensure!(event["type"] == "ADDED" && event["object"]["metadata"]["name"] == name, "{event}");
        }
        // A masked close of the client is answered with a close, or with the end.
        stream.write_all(&[0x88, 0x80, 0, 0, 0, 0]).await?;
        let mut rest = Vec::new();
        let _ = stream.read_to_end(&mut rest).await;
        ensure!(rest.is_empty() || rest[0] == 0x88, "{rest:?}");
        Ok(())
    };
    tokio::time::timeout(PATIENCE, work).await?
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_loses_its_watch_and_nobody_else_waits() -> Result<()> {
    let live = Live::start().await?;
    live.config_maps(1).await?;
    // Never read: what fits into the connection's buffers is sent, the rest waits in the ring.
    let path = format!("{MAPS}?watch=1");
    let slow = live.open(Who::Admin, request(Method::GET, &path, "application/json", Bytes::new())).await?;
    let mut quick = Events::open(&live, &path, "application/json").await?;
    ensure!(quick.brief().await? == "ADDED map-000");
    let filler = "x".repeat(900_000);
    for n in 0..60 {
        let body = json!({ "metadata": { "name": "map-000" }, "data": { "n": n.to_string(), "x": filler } });
        let put = request(Method::PUT, &format!("{MAPS}/map-000"), "application/json", body.to_string());
        let answer = live.send(Who::Admin, put).await?;
        ensure!(answer.status == 200, "{}", answer.text());
        let event = quick.next().await.with_context(|| format!("after update {n}"))?.context("an event")?;
        ensure!(event["object"]["data"]["n"] == n.to_string());
    }
    let mut slow = Events { body: slow.into_body(), buffer: Vec::new() };
    let (mut seen, mut expired) = (0, false);
    let all = async {
        while let Some(event) = slow.next().await? {
            seen += 1;
            expired = event["type"] == "ERROR" && event["object"]["code"] == 410;
        }
        Ok::<_, anyhow::Error>(())
    };
    tokio::time::timeout(Duration::from_secs(60), all).await??;
    ensure!(expired && seen < 60, "{seen} events, expired: {expired}");
    Ok(())
}
