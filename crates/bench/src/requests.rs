//! Requests of many clients on an API server with everything on: TLS, client certificates, RBAC, admission,
//! validation, durable writes.
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use http::{Method, StatusCode};

use crate::Plan;
use crate::connect::{Target, read};
use crate::host::Host;
use crate::load::{Outcome, Shape, run};
use crate::objects::{config_map, name, namespace, pod};
use crate::process;
use crate::report::{Report, median};

/// Bytes of a config map that is created.
const SIZE: usize = 1024;
/// Bytes of a config map that is read.
const SMALL: usize = 450;
/// How many objects one round creates at most.
const MOST: usize = 30_000;
/// How many clients fill a store that is then read.
const FILLERS: usize = 64;

/// All of them.
pub async fn measure(plan: &Plan, host: &Host, report: &mut Report) -> Result<()> {
    creates(plan, host, report).await?;
    let server = host.serve("db-read").await?;
    let target = &host.target;
    namespace(target, "maps").await?;
    fill(target, server.pid(), 0..plan.objects, "maps").await?;
    report.add(
        format!("RSS with {} config maps", plan.objects),
        process::resident(server.pid())?,
        "MB",
        "API server with its store, after it was filled",
    );
    gets(plan, target, server.pid(), report).await?;
    updates(plan, target, server.pid(), report).await?;
    list(plan, target, server.pid(), "maps", "configmaps", report).await?;
    namespace(target, "pods").await?;
    fill(target, server.pid(), 0..plan.objects, "pods").await?;
    list(plan, target, server.pid(), "pods", "pods", report).await
}

async fn creates(plan: &Plan, host: &Host, report: &mut Report) -> Result<()> {
    let server = host.serve("db-create").await?;
    let target = &host.target;
    for (clients, connections) in [(1, 1), (32, 1), (64, 4)] {
        let mut outcomes = Vec::new();
        // One more than asked for: the first warms up.
        for round in 0..=plan.rounds {
            let space = format!("create-{clients}-{round}");
            namespace(target, &space).await?;
            let path = format!("/api/v1/namespaces/{space}/configmaps");
            let made = target.clone();
            let time = if round == 0 { Duration::from_millis(500) } else { plan.round() };
            let shape = Shape { clients, connections, time, count: MOST };
            let outcome = run(target, server.pid(), shape, StatusCode::CREATED, move |i| {
                made.request(Method::POST, &path, config_map(&name("map", i), SIZE))
            })
            .await?;
            if round > 0 {
                outcomes.push(outcome);
            }
            // What earlier rounds made shall not slow down later ones.
            let path = format!("/api/v1/namespaces/{space}/configmaps");
            let mut sender = target.http1().await?;
            let response = sender.send_request(target.request(Method::DELETE, &path, "")).await?;
            ensure!(response.status() == StatusCode::OK, "deletecollection: {}", response.status());
            read(response).await?;
        }
        add(report, &format!("create, {}", said(clients, connections)), outcomes);
    }
    Ok(())
}

fn said(clients: usize, connections: usize) -> String {
    match (clients, connections) {
        (1, _) => "1 client".to_owned(),
        (clients, 1) => format!("{clients} clients, 1 connection"),
        (clients, connections) => format!("{clients} clients, {connections} connections"),
    }
}

/// Adds the round in the middle.
fn add(report: &mut Report, what: &str, mut outcomes: Vec<Outcome>) {
    outcomes.sort_by(|a, b| a.rate().total_cmp(&b.rate()));
    if let Some(outcome) = outcomes.get(outcomes.len() / 2) {
        report.add(what, outcome.rate(), "/s", outcome.detail());
    }
}

/// Makes the objects of these numbers.
pub async fn fill(target: &Target, server: u32, numbers: Range<usize>, what: &'static str) -> Result<()> {
    let (from, count) = (numbers.start, numbers.len());
    let plural = if what == "pods" { "pods" } else { "configmaps" };
    let path = format!("/api/v1/namespaces/{what}/{plural}");
    let made = target.clone();
    let shape = Shape { clients: FILLERS, connections: 1, time: Duration::from_secs(60), count };
    let outcome = run(target, server, shape, StatusCode::CREATED, move |i| {
        let i = from + i;
        let body = if what == "pods" { pod(&name("pod", i), i) } else { config_map(&name("map", i), SMALL) };
        made.request(Method::POST, &path, body)
    })
    .await?;
    ensure!(outcome.count == count, "only {} of {count} objects could be made in a minute", outcome.count);
    Ok(())
}

async fn gets(plan: &Plan, target: &Target, server: u32, report: &mut Report) -> Result<()> {
    for connections in [1, 4] {
        let mut outcomes = Vec::new();
        for _ in 0..plan.rounds {
            let made = target.clone();
            let count = plan.objects;
            let shape = Shape { clients: 32, connections, time: plan.round(), count: usize::MAX };
            outcomes.push(
                run(target, server, shape, StatusCode::OK, move |i| {
                    // Coprime with any round number of objects, so that neighbours are not asked in turn.
                    let name = name("map", i * 7919 % count);
                    made.request(Method::GET, &format!("/api/v1/namespaces/maps/configmaps/{name}"), "")
                })
                .await?,
            );
        }
        add(report, &format!("get, {}", said(32, connections)), outcomes);
    }
    Ok(())
}

async fn updates(plan: &Plan, target: &Target, server: u32, report: &mut Report) -> Result<()> {
    let mut outcomes = Vec::new();
    for round in 0..plan.rounds {
        let made = target.clone();
        let count = plan.objects;
        let shape = Shape { clients: 32, connections: 1, time: plan.round(), count: MOST };
        outcomes.push(
            run(target, server, shape, StatusCode::OK, move |i| {
                let name = name("map", i * 7919 % count);
                let body = config_map(&name, SMALL + 1 + round + i / count);
                made.request(Method::PUT, &format!("/api/v1/namespaces/maps/configmaps/{name}"), body)
            })
            .await?,
        );
    }
    add(report, &format!("update, {}", said(32, 1)), outcomes);
    Ok(())
}

async fn list(
    plan: &Plan,
    target: &Target,
    server: u32,
    space: &str,
    plural: &str,
    report: &mut Report,
) -> Result<()> {
    for (limit, what) in
        [("", format!("LIST {} {plural}", plan.objects)), ("?limit=500", format!("first 500 {plural}"))]
    {
        let path = format!("/api/v1/namespaces/{space}/{plural}{limit}");
        let mut sender = target.http1().await?;
        let (mut times, mut size) = (Vec::new(), 0);
        let rounds = plan.rounds * 6;
        let mut before = Duration::ZERO;
        for round in 0..=rounds {
            if round == 1 {
                before = process::cpu(server)?;
            }
            let began = Instant::now();
            let response = sender.send_request(target.request(Method::GET, &path, "")).await?;
            ensure!(response.status() == StatusCode::OK, "{path}: {}", response.status());
            size = drain(response).await?;
            if round > 0 {
                times.push(began.elapsed().as_secs_f64() * 1000.0);
            }
            sender.ready().await?;
        }
        let cpu = process::cpu(server)?.saturating_sub(before).as_secs_f64() * 1000.0 / rounds as f64;
        let detail = format!("{:.1} MB, HTTP/1.1, server CPU {cpu:.2} ms", size as f64 / 1e6);
        report.add(what, median(times), "ms", detail);
    }
    Ok(())
}

/// Reads an answer as it comes and keeps none of it.
pub async fn drain(response: http::Response<hyper::body::Incoming>) -> Result<usize> {
    use http_body_util::BodyExt as _;
    let mut body = response.into_body();
    let mut size = 0;
    while let Some(frame) = body.frame().await {
        size += frame?.data_ref().map_or(0, bytes::Bytes::len);
    }
    Ok(size)
}
