//! Many clients that send requests as fast as they are answered.
use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use http::{Request, StatusCode};
use hyper::client::conn::http2::SendRequest;
use tokio::task::LocalSet;

use crate::connect::{Body, Target, read};
use crate::process;

/// How many clients, over how many connections, for how long.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    /// Each has one request under way.
    pub clients: usize,
    /// What they share.
    pub connections: usize,
    /// Nothing is begun after this.
    pub time: Duration,
    /// No more requests than this.
    pub count: usize,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// Requests that were answered as expected; any other answer is an error.
    pub count: usize,
    /// How long it took.
    pub time: Duration,
    /// CPU time that the server used.
    pub cpu: Duration,
    /// How long each took, sorted.
    latencies: Vec<Duration>,
}

impl Outcome {
    /// Requests per second.
    pub fn rate(&self) -> f64 {
        self.count as f64 / self.time.as_secs_f64()
    }

    /// A quantile of the time that a request took, in milliseconds.
    pub fn quantile(&self, q: f64) -> f64 {
        let at = ((self.latencies.len() as f64 * q) as usize).min(self.latencies.len().saturating_sub(1));
        self.latencies.get(at).map_or(f64::NAN, |t| t.as_secs_f64() * 1000.0)
    }

    /// CPU of the server for each request, in microseconds.
    pub fn cpu_each(&self) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / self.count.max(1) as f64
    }

    /// In words.
    pub fn detail(&self) -> String {
        format!(
            "p50 {:.2} ms, p99 {:.2} ms, server CPU {:.0} us each",
            self.quantile(0.5),
            self.quantile(0.99),
            self.cpu_each()
        )
    }
}

/// Sends requests made by `make` from a running number, which starts at 0.
pub async fn run(
    target: &Target,
    server: u32,
    shape: Shape,
    expect: StatusCode,
    make: impl Fn(usize) -> Request<Body> + 'static,
) -> Result<Outcome> {
    let mut connections = Vec::new();
    for _ in 0..shape.connections {
        connections.push(target.http2().await?);
    }
    let before = process::cpu(server)?;
    let began = Instant::now();
    let shared = Rc::new(Shared {
        next: Cell::new(0),
        latencies: RefCell::new(Vec::new()),
        deadline: began + shape.time,
        count: shape.count,
        expect,
        make,
    });
    let tasks = LocalSet::new();
    let handles: Vec<_> = (0..shape.clients)
        .map(|n| tasks.spawn_local(client(shared.clone(), connections[n % shape.connections].clone())))
        .collect();
    let results = tasks.run_until(futures::future::join_all(handles)).await;
    let time = began.elapsed();
    let cpu = process::cpu(server)?.saturating_sub(before);
    for result in results {
        result??;
    }
    let mut latencies = shared.latencies.take();
    latencies.sort_unstable();
    Ok(Outcome { count: latencies.len(), time, cpu, latencies })
}

struct Shared<F> {
    next: Cell<usize>,
    latencies: RefCell<Vec<Duration>>,
    deadline: Instant,
    count: usize,
    expect: StatusCode,
    make: F,
}

async fn client<F: Fn(usize) -> Request<Body>>(
    shared: Rc<Shared<F>>,
    mut sender: SendRequest<Body>,
) -> Result<()> {
    loop {
        let number = shared.next.get();
        let began = Instant::now();
        if number >= shared.count || began > shared.deadline {
            return Ok(());
        }
        shared.next.set(number + 1);
        let response = sender.send_request((shared.make)(number)).await?;
        let status = response.status();
        let body = read(response).await?;
        if status != shared.expect {
            bail!("{status}: {}", String::from_utf8_lossy(&body));
        }
        shared.latencies.borrow_mut().push(began.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_and_rates() {
        let latencies = (1..=100).map(Duration::from_millis).collect();
        let outcome =
            Outcome { count: 100, time: Duration::from_secs(2), cpu: Duration::from_millis(10), latencies };
        assert_eq!(outcome.rate(), 50.0);
        assert_eq!(outcome.quantile(0.5), 51.0);
        assert_eq!(outcome.quantile(0.99), 100.0);
        assert_eq!(outcome.quantile(1.0), 100.0);
        assert_eq!(outcome.cpu_each(), 100.0);
    }
}
