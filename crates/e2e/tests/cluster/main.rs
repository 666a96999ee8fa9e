//! One cluster, and everything that its users do with it, in order. Each scenario has a namespace of its own.
//!
//! `cargo test -p e2e -- NAME` runs the scenarios whose name contains NAME.
mod apply;
mod bad_input;
mod basics;
mod configuration;
mod health;
mod kube_rs;
mod lifecycle;
mod multi_tier;
mod restart;
mod rollout;
mod sealed;
mod streams;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use e2e::{Cluster, binary};

/// The image that every test can use: a small HTTP server with a shell.
pub const HELLO: &str = concat!("localhost/cox/hello:", env!("CARGO_PKG_VERSION"));

type Scenario = (&'static str, fn(&Cluster) -> Result<()>);

/// In this order: the last ones stop and kill parts of the cluster.
const SCENARIOS: &[Scenario] = &[
    ("basics", basics::basics),
    ("table of an empty namespace", basics::empty),
    ("server-side apply and owners of fields", apply::apply_and_owners),
    ("apply moves from client to server", apply::migration),
    ("deployment rolls, scales and undoes", rollout::rollout),
    ("services by IP and by name", rollout::services),
    ("logs, exec, cp, attach, port-forward, run", streams::streams),
    ("kube-rs: exec, port-forward, logs", kube_rs::kube_rs),
    ("config maps, secrets, volumes, tokens", configuration::configuration),
    ("secrets are sealed in the store", sealed::sealed),
    ("a pod calls the API and is held to its role", configuration::api_from_a_pod),
    ("probes, restarts, init containers, hooks", health::health),
    ("limits are enforced and OOMKilled is told", health::limits),
    ("jobs and daemon sets", lifecycle::jobs_and_daemon_sets),
    ("garbage collection and namespaces", lifecycle::collection),
    ("bad input changes nothing", bad_input::bad_input),
    ("a multi-tier application", multi_tier::multi_tier),
    ("nothing is left of what is deleted", lifecycle::nothing_left),
    ("kill -9 loses nothing and disturbs nothing", restart::restart),
    ("down and up again", restart::down_and_up),
];

fn main() -> ExitCode {
    let filters: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    if !rustix::process::geteuid().is_root() {
        println!("SKIPPED: a cluster with pods needs root; nothing was tested");
        println!("0 passed, 0 failed, {} skipped", SCENARIOS.len());
        return ExitCode::SUCCESS;
    }
    let began = Instant::now();
    let cluster = match Cluster::up(&binary(), "e2e", true) {
        Ok(cluster) => cluster,
        Err(e) => {
            println!("the cluster does not come up: {e:#}");
            println!("0 passed, 1 failed");
            return ExitCode::FAILURE;
        }
    };
    println!("cluster up after {:.1} s", began.elapsed().as_secs_f64());
    let (mut passed, mut failed, mut skipped) = (0, 0, 0);
    for (name, scenario) in SCENARIOS {
        if !filters.is_empty() && !filters.iter().any(|f| name.contains(f.as_str())) {
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
                println!(
                    "FAIL {name} ({:.1} s)\n{e:#}\n--- log\n{}",
                    began.elapsed().as_secs_f64(),
                    cluster.log_tail()
                );
            }
        }
    }
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
