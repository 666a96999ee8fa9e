//! Large lists: each form, one client and many, and the memory that many at once take.
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use futures::future::try_join_all;
use http::header::{ACCEPT, HeaderValue};
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;

use crate::Plan;
use crate::connect::Target;
use crate::host::Host;
use crate::objects::namespace;
use crate::process;
use crate::report::{Report, median};
use crate::requests::{drain, fill};

const PATH: &str = "/api/v1/namespaces/maps/configmaps";
const FORMS: [(&str, &str); 3] = [
    ("JSON", "application/json"),
    ("protobuf", "application/vnd.kubernetes.protobuf"),
    ("Table", "application/json;as=Table;g=meta.k8s.io;v=v1"),
];
/// Clients that list at the same time.
const CLIENTS: usize = 32;
/// Lists that are under way at once while memory is looked at.
const HELD: usize = 64;

/// As many objects as asked for, then ten times as many.
pub async fn measure(plan: &Plan, host: &Host, report: &mut Report) -> Result<()> {
    let server = host.serve("db-lists").await?;
    let target = &host.target;
    namespace(target, "maps").await?;
    let mut from = 0;
    for count in [plan.objects, plan.objects * 10] {
        fill(target, server.pid(), from..count, "maps").await?;
        from = count;
        for (form, accept) in FORMS {
            let lists = Lists { plan, target, server: server.pid(), count, form, accept };
            lists.one(report).await?;
            // Ten times as many would only take ten times as long.
            if count == plan.objects {
                lists.many(report).await?;
            }
        }
        held(target, server.pid(), count, report).await?;
    }
    Ok(())
}

fn list(target: &Target, accept: &'static str) -> http::Request<crate::connect::Body> {
    let mut request = target.request(Method::GET, PATH, "");
    request.headers_mut().insert(ACCEPT, HeaderValue::from_static(accept));
    request
}

/// One form of list, of so many objects.
struct Lists<'a> {
    plan: &'a Plan,
    target: &'a Target,
    server: u32,
    count: usize,
    form: &'static str,
    accept: &'static str,
}

impl Lists<'_> {
    async fn one(&self, report: &mut Report) -> Result<()> {
        let Self { plan, target, server, count, form, accept } = *self;
        let mut sender = target.http1().await?;
        let (mut times, mut size, mut before) = (Vec::new(), 0, Duration::ZERO);
        for round in 0..=plan.rounds {
            if round == 1 {
                before = process::cpu(server)?;
            }
            let began = Instant::now();
            let response = sender.send_request(list(target, accept)).await?;
            ensure!(response.status() == StatusCode::OK, "{form}: {}", response.status());
            size = drain(response).await?;
            if round > 0 {
                times.push(began.elapsed().as_secs_f64() * 1000.0);
            }
            sender.ready().await?;
        }
        let cpu = process::cpu(server)?.saturating_sub(before).as_secs_f64() * 1000.0 / plan.rounds as f64;
        let detail = format!("1 client, {:.1} MB, server CPU {cpu:.1} ms", size as f64 / 1e6);
        report.add(format!("LIST {count} config maps, {form}"), median(times), "ms", detail);
        Ok(())
    }

    async fn many(&self, report: &mut Report) -> Result<()> {
        let Self { plan, target, server, count, form, accept } = *self;
        let mut senders = Vec::new();
        for _ in 0..CLIENTS {
            senders.push(target.http1().await?);
        }
        let before = process::cpu(server)?;
        let began = Instant::now();
        let deadline = began + plan.round();
        let clients = senders.into_iter().map(|mut sender| async move {
            let mut times = Vec::new();
            while Instant::now() < deadline {
                let began = Instant::now();
                let response = sender.send_request(list(target, accept)).await?;
                ensure!(response.status() == StatusCode::OK, "{form}: {}", response.status());
                drain(response).await?;
                times.push(began.elapsed().as_secs_f64() * 1000.0);
                sender.ready().await?;
            }
            Ok(times)
        });
        let times: Vec<f64> = try_join_all(clients).await?.into_iter().flatten().collect();
        let took = began.elapsed().as_secs_f64();
        let cpu = process::cpu(server)?.saturating_sub(before).as_secs_f64() * 1000.0 / times.len() as f64;
        let rate = times.len() as f64 / took;
        let detail = format!("{CLIENTS} clients, p50 {:.0} ms, server CPU {cpu:.1} ms each", median(times));
        report.add(format!("LIST {count} config maps, {form}, {CLIENTS} clients"), rate, "/s", detail);
        Ok(())
    }
}

/// Many lists at once whose clients do not read on: what the server holds for them.
async fn held(target: &Target, server: u32, count: usize, report: &mut Report) -> Result<()> {
    let before = process::resident(server)?;
    let mut bodies = Vec::new();
    let mut senders = Vec::new();
    for _ in 0..HELD {
        let mut sender = target.http1().await?;
        let mut body = sender.send_request(list(target, FORMS[0].1)).await?.into_body();
        ensure!(body.frame().await.is_some_and(|f| f.is_ok()), "no answer");
        bodies.push(body);
        // The connection lives as long as this.
        senders.push(sender);
    }
    let during = process::resident(server)?;
    let detail = format!("{HELD} lists begun and not read on; {before:.0} MB before");
    report.add(format!("RSS during {HELD} LISTs of {count} config maps"), during, "MB", detail);
    drop((bodies, senders));
    Ok(())
}
