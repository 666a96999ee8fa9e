//! Many watchers of one object that changes often.
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tokio::task::LocalSet;

use crate::Plan;
use crate::connect::{Target, read};
use crate::host::Host;
use crate::objects::namespace;
use crate::process;
use crate::report::Report;

/// How many watchers there are, in turn.
const WATCHERS: [usize; 2] = [200, 1000];
/// Watchers of one connection share it.
const CONNECTIONS: usize = 10;
const UPDATES: u32 = 200;
/// What the watchers look for in what they are sent.
const MARK: &[u8] = b"\"sent\":\"";
/// How long the last events may take to come.
const TAIL: Duration = Duration::from_secs(2);

#[derive(Default)]
struct Seen {
    events: Cell<usize>,
    delays: RefCell<Vec<u64>>,
}

/// One object, 200 updates a second, many watchers.
pub async fn measure(plan: &Plan, host: &Host, report: &mut Report) -> Result<()> {
    let server = host.serve("db-watch").await?;
    for watchers in WATCHERS {
        fan_out(plan, &host.target, server.pid(), watchers, report).await?;
    }
    Ok(())
}

async fn fan_out(
    plan: &Plan,
    target: &Target,
    server: u32,
    watchers: usize,
    report: &mut Report,
) -> Result<()> {
    let space = format!("watched-{watchers}");
    namespace(target, &space).await?;
    let path = &format!("/api/v1/namespaces/{space}/configmaps");
    let zero = Instant::now();
    let text = |at: Duration| {
        let sent = at.as_micros();
        format!(
            r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"one"}},"data":{{"sent":"{sent}"}}}}"#
        )
    };
    let mut writer = target.http2().await?;
    read(writer.send_request(target.request(Method::POST, path, text(Duration::ZERO))).await?).await?;

    let seen = Rc::new(Seen::default());
    let tasks = LocalSet::new();
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        connections.push(target.http2().await?);
    }
    for n in 0..watchers {
        let watch = format!("{path}?watch=true&timeoutSeconds=300");
        let sender = &mut connections[n % CONNECTIONS];
        let response = sender.send_request(target.request(Method::GET, &watch, "")).await?;
        ensure!(response.status() == StatusCode::OK, "watch: {}", response.status());
        tasks.spawn_local(follow(response.into_body(), seen.clone(), zero));
    }
    let time = plan.round();
    let measured = async {
        // Everybody is told of the object once; what is measured comes after.
        let deadline = Instant::now() + TAIL;
        while seen.events.get() < watchers && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        seen.events.set(0);
        seen.delays.borrow_mut().clear();
        let before = process::cpu(server)?;
        let began = Instant::now();
        let mut ticks = tokio::time::interval(Duration::from_secs(1) / UPDATES);
        let mut sent = 0;
        while began.elapsed() < time {
            ticks.tick().await;
            let put = target.request(Method::PUT, &format!("{path}/one"), text(zero.elapsed()));
            let response = writer.send_request(put).await?;
            ensure!(response.status() == StatusCode::OK, "update: {}", response.status());
            read(response).await?;
            sent += 1;
        }
        let took = began.elapsed();
        let deadline = Instant::now() + TAIL;
        while seen.events.get() < sent * watchers && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        let cpu = process::cpu(server)?.saturating_sub(before);
        Ok::<_, anyhow::Error>((sent, took, cpu))
    };
    let (sent, took, cpu) = tasks.run_until(measured).await?;
    let events = seen.events.get();
    ensure!(events == sent * watchers, "{events} of {} events came", sent * watchers);
    let mut delays = seen.delays.take();
    delays.sort_unstable();
    let quantile =
        |q: f64| delays[((delays.len() as f64 * q) as usize).min(delays.len() - 1)] as f64 / 1000.0;
    let detail = format!(
        "{watchers} watchers on {CONNECTIONS} connections, delay p50 {:.1} ms, p99 {:.1} ms, server {:.2} cores, {:.1} us an event",
        quantile(0.5),
        quantile(0.99),
        cpu.as_secs_f64() / took.as_secs_f64(),
        cpu.as_secs_f64() * 1e6 / events as f64,
    );
    report.add(
        format!("watch events, {watchers} watchers"),
        events as f64 / took.as_secs_f64(),
        "/s",
        detail,
    );
    Ok(())
}

async fn follow(mut body: Incoming, seen: Rc<Seen>, zero: Instant) {
    while let Some(Ok(frame)) = body.frame().await {
        let Some(mut data) = frame.data_ref().map(|d| &d[..]) else { continue };
        let now = u64::try_from(zero.elapsed().as_micros()).unwrap_or(u64::MAX);
        // A frame may have several events; that one is cut in two frames does not happen below 16 KB.
        while let Some(at) = find(data, MARK) {
            data = &data[at + MARK.len()..];
            let sent =
                data.iter().take_while(|b| b.is_ascii_digit()).fold(0, |n, b| n * 10 + u64::from(b - b'0'));
            seen.events.set(seen.events.get() + 1);
            seen.delays.borrow_mut().push(now.saturating_sub(sent));
        }
    }
}

fn find(data: &[u8], mark: &[u8]) -> Option<usize> {
    data.windows(mark.len()).position(|w| w == mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_is_found() {
        assert_eq!(find(br#"{"data":{"sent":"12"}}"#, MARK), Some(9));
        assert_eq!(find(b"", MARK), None);
    }
}
