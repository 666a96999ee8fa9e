//! Hosts on one machine whose cluster changes while somebody writes: hosts that come, go, are lost and upgraded.
//!
//! `cargo test -p e2e --test daytwo -- NAME` runs the scenarios whose name contains NAME.
mod lost;
mod membership;
mod upgrade;

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use e2e::{Answer, Cluster, binary, free_port};
use serde_json::Value;

/// The image that every test can use: a small HTTP server with a shell.
pub const HELLO: &str = concat!("localhost/cox/hello:", env!("CARGO_PKG_VERSION"));
/// How long anything may take on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

type Scenario = (&'static str, fn(&Cluster) -> Result<()>);

/// In this order: each begins with the cluster that the one before it left.
const SCENARIOS: &[Scenario] = &[
    ("one control plane becomes three", membership::grow),
    ("the link of a control plane is cut", lost::cut),
    ("a control plane that lost its disk is replaced", membership::replace),
    ("a host comes, another one goes", membership::exchange),
    ("a lost majority is restored from a backup", lost::from_backup),
    ("a lost majority goes on from one member", lost::from_member),
    // Last: its build is gone after it.
    ("upgrade host by host", upgrade::upgrade),
];

fn has(program: &str) -> bool {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).env("PATH", path).output();
    found.is_ok_and(|output| output.status.success())
}

/// Name of the host of this number.
pub fn host(cluster: &Cluster, number: usize) -> String {
    format!("{}-{number}", cluster.name())
}

/// What `cox` said as JSON; anything but success is an error.
pub fn said(answer: &Answer) -> Result<Value> {
    ensure!(answer.code == Some(0), "ended with {:?}\n{}{}", answer.code, answer.out, answer.err);
    serde_json::from_str(answer.out.lines().last().unwrap_or_default()).context("an answer in JSON")
}

/// The names of the members of etcd that work, as `cox status` tells.
pub fn members(cluster: &Cluster) -> Result<Vec<String>> {
    let status: Value = serde_json::from_str(&cluster.cox(&["status", "-o", "json"])?.out)?;
    let items = status["items"].as_array().into_iter().flatten();
    let etcd = items.filter(|i| i["what"] == "etcd" && i["healthy"] == true);
    Ok(etcd.filter_map(|i| i["name"].as_str().map(str::to_owned)).collect())
}

/// The names of the nodes.
pub fn nodes(cluster: &Cluster) -> Result<Vec<String>> {
    let text = cluster.kubectl().args(&["get", "nodes", "-o", "jsonpath={.items[*].metadata.name}"])?;
    let mut all: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    all.sort();
    Ok(all)
}

fn logs(cluster: &Cluster) -> String {
    let mut text = String::new();
    let hosts = std::fs::read_dir(cluster.root().join("logs")).into_iter().flatten().flatten();
    for host in hosts.filter(|e| e.path().is_dir()) {
        for log in std::fs::read_dir(host.path()).into_iter().flatten().flatten() {
            let all = std::fs::read(log.path()).unwrap_or_default();
            let all = String::from_utf8_lossy(&all);
            let lines: Vec<&str> = all.lines().collect();
            let end = lines[lines.len().saturating_sub(6)..].join("\n");
            text += &format!("== {} {}\n{end}\n", host.file_name().display(), log.file_name().display());
        }
    }
    text
}

fn main() -> ExitCode {
    let filters: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let missing: Vec<&str> = ["etcd", "etcdctl", "containerd", "ip", "unshare", "nsenter", "kubectl"]
        .into_iter()
        .filter(|p| !has(p))
        .collect();
    if !rustix::process::geteuid().is_root() || !missing.is_empty() {
        println!("SKIPPED: day two needs root and programs (missing: {missing:?}); nothing was tested");
        println!("0 passed, 0 failed, {} skipped", SCENARIOS.len());
        return ExitCode::SUCCESS;
    }
    let began = Instant::now();
    let name = format!("day{}", std::process::id());
    let made = free_port().map_err(anyhow::Error::from).and_then(|port| {
        Cluster::of_file(&binary(), &name, port, &|port| membership::describe(&name, port, membership::FIRST))
    });
    let cluster = match made.and_then(|cluster| {
        membership::prepare(&cluster)?;
        Ok(cluster)
    }) {
        Ok(cluster) => cluster,
        Err(e) => {
            println!("the hosts do not come up: {e:#}");
            println!("0 passed, 1 failed");
            return ExitCode::FAILURE;
        }
    };
    println!("two hosts up after {:.1} s", began.elapsed().as_secs_f64());
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, scenario) in SCENARIOS {
        if failed > 0 || (!filters.is_empty() && !filters.iter().any(|f| name.contains(f.as_str()))) {
            skipped += 1;
            continue;
        }
        let began = Instant::now();
        match scenario(&cluster) {
            Ok(()) => {
                passed += 1;
                println!("ok   {name} ({:.1} s)", began.elapsed().as_secs_f64());
            }
            Err(e) => {
                failed += 1;
                let took = began.elapsed().as_secs_f64();
                println!("FAIL {name} ({took:.1} s)\n{e:#}\n--- logs\n{}", logs(&cluster));
            }
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
