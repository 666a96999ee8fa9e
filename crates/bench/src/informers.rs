//! What it costs when a thousand informers start at once, as after a restart of the server.
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;

use crate::Plan;
use crate::host::Host;
use crate::objects::namespace;
use crate::process;
use crate::report::Report;
use crate::requests::fill;

const INFORMERS: usize = 1000;
const CONNECTIONS: usize = 10;
/// What each of them gets to know.
const OBJECTS: usize = 1000;
const PATH: &str = "/api/v1/namespaces/maps/configmaps?watch=true&sendInitialEvents=true\
                    &resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true&timeoutSeconds=300";
/// What ends the list in a watch.
const MARK: &[u8] = b"k8s.io/initial-events-end";

/// The time until all are in step.
pub async fn measure(_plan: &Plan, host: &Host, report: &mut Report) -> Result<()> {
    let server = host.serve("db-informers").await?;
    let target = &host.target;
    namespace(target, "maps").await?;
    fill(target, server.pid(), 0..OBJECTS, "maps").await?;
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(target.http2().await?);
    }
    let memory = process::resident(server.pid())?;
    let before = process::cpu(server.pid())?;
    let began = Instant::now();
    let starts = (0..INFORMERS).map(|n| {
        let mut sender = connections[n % CONNECTIONS].clone();
        async move {
            let response = sender.send_request(target.request(Method::GET, PATH, "")).await?;
            ensure!(response.status() == StatusCode::OK, "watch: {}", response.status());
            let mut body = response.into_body();
            // The mark may lie across two frames.
            let mut tail: Vec<u8> = Vec::new();
            while let Some(frame) = body.frame().await {
                let frame = frame?;
                tail.extend_from_slice(frame.data_ref().map_or(&[], |d| &d[d.len().saturating_sub(512)..]));
                if tail.windows(MARK.len()).any(|w| w == MARK) {
                    return Ok((body, began.elapsed()));
                }
                tail.drain(..tail.len().saturating_sub(512));
            }
            anyhow::bail!("a watch ended")
        }
    });
    let synced = tokio::time::timeout(Duration::from_secs(120), try_join_all(starts)).await??;
    let took = began.elapsed().as_secs_f64();
    let cpu = process::cpu(server.pid())?.saturating_sub(before).as_secs_f64();
    let mut times: Vec<f64> = synced.iter().map(|(_, t)| t.as_secs_f64()).collect();
    times.sort_by(f64::total_cmp);
    let detail = format!(
        "of {OBJECTS} objects each, half of them after {:.2} s; server CPU {cpu:.2} s, RSS {:.0} MB ({memory:.0} before)",
        times[times.len() / 2],
        process::resident(server.pid())?,
    );
    report.add(format!("{INFORMERS} informers in step"), took, "s", detail);
    Ok(())
}
