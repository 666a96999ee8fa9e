//! Three hosts on one machine, each of them a control plane and a node: what only several hosts can show, in order.
//!
//! `cargo test -p e2e --test hosts -- NAME` runs the scenarios whose name contains NAME.
mod certs;
mod crash;
mod described;
mod leftovers;
mod network;
mod tokens;
mod verbs;

use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Result;
use e2e::{Cluster, binary};

/// The image that every test can use: a small HTTP server with a shell.
pub const HELLO: &str = concat!("localhost/cox/hello:", env!("CARGO_PKG_VERSION"));
/// How long anything may take on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

type Scenario = (&'static str, fn(&Cluster) -> Result<()>);

/// In this order: the last ones stop and kill parts of the cluster.
const SCENARIOS: &[Scenario] = &[
    ("three nodes, spread pods", network::spread),
    ("pod to pod, services and DNS across nodes", network::across),
    ("logs and exec through the balancer", network::streams),
    ("a second up changes nothing", verbs::again),
    ("status and kubeconfig", verbs::status),
    ("certificates are told", certs::told),
    ("a kubelet replaces its certificate", certs::kubelet_rotates),
    ("all certificates are renewed and nobody notices", certs::renewed),
    ("expired certificates are told and renewed", certs::expired),
    ("authorities and keys are replaced and nobody notices", certs::rotated),
    ("bootstrap tokens come and go", tokens::tokens),
    ("what stands in the way of joining is told", tokens::refusals),
    ("hosts as a file describes them", described::described),
    ("the crash of a control plane loses no write", crash::crash),
    ("up brings a crashed host back", crash::repair),
];

fn has(program: &str) -> bool {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).env("PATH", path).output();
    found.is_ok_and(|output| output.status.success())
}

fn main() -> ExitCode {
    let filters: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let missing: Vec<&str> = ["etcd", "containerd", "ip", "unshare", "nsenter", "kubectl"]
        .into_iter()
        .filter(|p| !has(p))
        .collect();
    if !rustix::process::geteuid().is_root() || !missing.is_empty() {
        println!("SKIPPED: hosts need root and programs (missing: {missing:?}); nothing was tested");
        println!("0 passed, 0 failed, {} skipped", SCENARIOS.len());
        return ExitCode::SUCCESS;
    }
    let began = Instant::now();
    let name = format!("hosts{}", std::process::id());
    let cluster = match Cluster::of_hosts(&binary(), &name, 3, 3) {
        Ok(cluster) => cluster,
        Err(e) => {
            println!("the hosts do not come up: {e:#}");
            println!("0 passed, 1 failed");
            return ExitCode::FAILURE;
        }
    };
    println!("three hosts up after {:.1} s", began.elapsed().as_secs_f64());
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    let mut told = |name: &str, began: Instant, result: Result<()>, log: &dyn Fn() -> String| match result {
        Ok(()) => {
            passed += 1;
            println!("ok   {name} ({:.1} s)", began.elapsed().as_secs_f64());
        }
        Err(e) => {
            failed += 1;
            println!("FAIL {name} ({:.1} s)\n{e:#}\n--- logs\n{}", began.elapsed().as_secs_f64(), log());
        }
    };
    for (name, scenario) in SCENARIOS {
        if !filters.is_empty() && !filters.iter().any(|f| name.contains(f.as_str())) {
            skipped += 1;
            continue;
        }
        let began = Instant::now();
        told(name, began, scenario(&cluster), &|| verbs::logs(&cluster));
    }
    let began = Instant::now();
    told("down leaves nothing", began, leftovers::nothing_left(&cluster), &|| verbs::logs(&cluster));
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
