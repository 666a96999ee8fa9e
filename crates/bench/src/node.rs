//! A node with pods: how long `cox up` takes, and a pod.
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use http::{Method, StatusCode};
use http_body_util::BodyExt as _;
use pki::ClusterPki;
use serde_json::{Value, json};

use crate::Plan;
use crate::connect::Target;
use base::ports::free_port;

use crate::host::{Purge, cox, told};
use crate::idle;
use crate::report::{Report, median};

const NAME: &str = "bench-node";
/// The image that is imported with every cluster.
const IMAGE: &str = concat!("localhost/cox/hello:", env!("CARGO_PKG_VERSION"));
/// How long a pod may take to run, or to go.
const PATIENCE: Duration = Duration::from_secs(60);

/// Brings a cluster up, starts pods, looks at it idle, takes it away.
pub async fn measure(plan: &Plan, directory: &Path, report: &mut Report) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        bail!("skipped: pods need root");
    }
    let data = directory.join("node");
    std::fs::create_dir(&data)?;
    let (port, kubelet) = (free_port()?, free_port()?);
    let (port_text, kubelet_text) = (port.to_string(), kubelet.to_string());
    // Networks that no other cluster of this machine is likely to have.
    let flags = [
        "up",
        "-o",
        "json",
        "--secure-port",
        &port_text,
        "--kubelet-port",
        &kubelet_text,
        "--cluster-cidr",
        "10.219.0.0/16",
        "--service-cidr",
        "10.218.0.0/16",
    ];
    let binary = std::fs::canonicalize(&plan.cox)?;
    let _taken_down = Purge::new(&binary, &data, NAME);
    let first = told(&cox(&binary, &data, NAME, &flags)?)?;
    report.add("first cox up to Ready", seconds(&first)?, "s", "certificates made, images imported");
    let mut times = Vec::new();
    for _ in 0..plan.rounds.min(3) {
        cox(&binary, &data, NAME, &["down"])?;
        let began = Instant::now();
        cox(&binary, &data, NAME, &flags)?;
        times.push(began.elapsed().as_secs_f64());
    }
    report.add("cox up to Ready", median(times), "s", "node with containerd, images imported");

    let target = Target::new(port, &ClusterPki::at(data.join(NAME).join("pki")))?;
    account(&target).await?;
    let mut times = Vec::new();
    // The first pod pays for what the others find.
    for round in 0..=plan.rounds {
        let name = format!("bench-{round}");
        let time = pod_start(&target, &name).await?;
        if round > 0 {
            times.push(time.as_secs_f64() * 1000.0);
        }
        gone(&target, &name).await?;
    }
    report.add("POST of a pod to Running", median(times), "ms", "image present, seen by a watch");

    let pid = process_of(&data.join(NAME))?;
    let parts = [("whole cluster in one process", pid)];
    idle::observe(plan, &parts, "idle, whole cluster", report).await
}

fn seconds(told: &Value) -> Result<f64> {
    told["seconds"].as_f64().context("no seconds in what cox up told")
}

/// The process that runs the parts, by its command line.
fn process_of(root: &Path) -> Result<u32> {
    let data = root.parent().and_then(Path::to_str).unwrap_or_default();
    for entry in std::fs::read_dir("/proc")? {
        let Some(pid) = entry?.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&str> = line.split(|b| *b == 0).filter_map(|w| std::str::from_utf8(w).ok()).collect();
        if words.get(1) == Some(&"run") && words.contains(&NAME) && words.contains(&data) {
            return Ok(pid);
        }
    }
    bail!("the process of the cluster is not there")
}

/// Waits until pods may be made in the default namespace.
async fn account(target: &Target) -> Result<()> {
    let began = Instant::now();
    loop {
        let path = "/api/v1/namespaces/default/serviceaccounts/default";
        let (status, _) = target.once(Method::GET, path, &Value::Null).await?;
        if status == StatusCode::OK {
            return Ok(());
        }
        ensure!(began.elapsed() < PATIENCE, "no default service account: {status}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn pod_start(target: &Target, name: &str) -> Result<Duration> {
    let pods = "/api/v1/namespaces/default/pods";
    let body = json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": name, "labels": { "run": name } },
        "spec": {
            "terminationGracePeriodSeconds": 0,
            "containers": [{ "name": name, "image": IMAGE, "imagePullPolicy": "IfNotPresent" }],
        },
    });
    let mut watcher = watch(target, name).await?;
    let began = Instant::now();
    target.must(Method::POST, pods, &body, StatusCode::CREATED).await?;
    watcher.until(|event| event["object"]["status"]["phase"] == "Running").await?;
    Ok(began.elapsed())
}

async fn gone(target: &Target, name: &str) -> Result<()> {
    let path = format!("/api/v1/namespaces/default/pods/{name}");
    let mut watcher = watch(target, name).await?;
    target.must(Method::DELETE, &path, &Value::Null, StatusCode::OK).await?;
    watcher.until(|event| event["type"] == "DELETED").await
}

struct Watcher {
    body: hyper::body::Incoming,
    rest: Vec<u8>,
}

async fn watch(target: &Target, name: &str) -> Result<Watcher> {
    let path = format!("/api/v1/namespaces/default/pods?watch=true&fieldSelector=metadata.name%3D{name}");
    let mut sender = target.http1().await?;
    let response = sender.send_request(target.request(Method::GET, &path, "")).await?;
    ensure!(response.status() == StatusCode::OK, "watch: {}", response.status());
    Ok(Watcher { body: response.into_body(), rest: Vec::new() })
}

impl Watcher {
    /// Waits for an event.
    async fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<()> {
        tokio::time::timeout(PATIENCE, self.find(wanted)).await.context("no such event came")?
    }

    async fn find(&mut self, wanted: impl Fn(&Value) -> bool) -> Result<()> {
        loop {
            while let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                if wanted(&serde_json::from_slice(&line)?) {
                    return Ok(());
                }
            }
            let frame = self.body.frame().await.context("the watch ended")??;
            if let Some(data) = frame.data_ref() {
                self.rest.extend_from_slice(data);
            }
        }
    }
}
