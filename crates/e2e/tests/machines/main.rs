//! `cox up -f cluster.yaml` over real ssh, to machines with systemd: what only such hosts can show, in order.
//!
//! `cargo test -p e2e --test machines -- NAME` runs the scenarios whose name contains NAME, and those they build on.
mod apart;
mod changes;
mod cluster;
mod joining;
mod network;
mod reboot;
mod refusals;
mod verbs;

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Result;
use cluster::Cluster;

/// The image that every test can use: a small HTTP server with a shell.
pub const HELLO: &str = concat!("localhost/cox/hello:", env!("CARGO_PKG_VERSION"));
/// How long anything may take on a slow machine.
pub const PATIENCE: Duration = Duration::from_secs(120);

type Scenario = (&'static str, fn(&mut Cluster) -> Result<()>);

/// Three control planes that are workers too, with a member of etcd each; a fourth machine waits for its part.
const STACKED: &[Scenario] = &[
    ("hosts that cannot be used are told with what to do", refusals::all),
    ("up makes a cluster of three machines", changes::up),
    ("pods, Services and DNS across machines", network::across),
    ("logs and exec through the balancer", network::streams),
    ("a second up changes nothing", changes::again),
    ("what was edited is repaired", changes::repair),
    ("a machine that is started anew comes back", reboot::reboot),
    ("a host that is added joins", changes::join),
    ("status tells how all of it is", verbs::told),
    ("a machine joins with a token", joining::join),
    ("a machine that joined leaves", joining::leave),
    ("a host that is not described any more leaves", changes::leave),
    ("down takes all of it away", verbs::down),
];

/// Each role on a machine of its own; pods go through a tunnel.
const APART: &[Scenario] = &[
    ("etcd, control plane, worker and load balancer apart", apart::up),
    ("a firewall between machines is told with the likely cause", apart::firewall),
];

fn run_all(
    name: &str,
    machines: &[(&str, u8)],
    scenarios: &[Scenario],
    filters: &[String],
) -> (u32, u32, u32) {
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str()));
    let count = u32::try_from(scenarios.len()).unwrap_or(u32::MAX);
    let Some(last) = scenarios.iter().rposition(|(name, _)| wanted(name)) else { return (0, 0, count) };
    let began = Instant::now();
    let mut cluster = match Cluster::boot(name, machines) {
        Ok(cluster) => cluster,
        Err(e) => {
            println!("FAIL the machines do not boot\n{e:#}");
            return (0, 1, count);
        }
    };
    println!("{} machines booted after {:.1} s", machines.len(), began.elapsed().as_secs_f64());
    let (mut passed, mut failed) = (0, 0);
    for (name, scenario) in &scenarios[..=last] {
        let began = Instant::now();
        let result = scenario(&mut cluster);
        let seconds = began.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                passed += 1;
                println!("ok   {name} ({seconds:.1} s)");
            }
            Err(e) => {
                failed += 1;
                println!("FAIL {name} ({seconds:.1} s)\n{e:#}\n--- logs\n{}", cluster.journals());
                // The next ones build on it.
                break;
            }
        }
    }
    (passed, failed, count - passed - failed)
}

fn main() -> ExitCode {
    let filters: Vec<String> = std::env::args().skip(1).filter(|a| !a.starts_with('-')).collect();
    let missing = e2e::machines::missing(&[
        "etcd",
        "containerd",
        "runc",
        "nft",
        "kubectl",
        "dpkg-deb",
        "strip",
        "haproxy",
    ]);
    if !rustix::process::geteuid().is_root() || !missing.is_empty() {
        println!("SKIPPED: machines need root and programs (missing: {missing:?}); nothing was tested");
        return ExitCode::SUCCESS;
    }
    let machines = [("a", 11), ("b", 12), ("c", 13), ("d", 14), ("e", 15)];
    let all =
        [run_all("stacked", &machines, STACKED, &filters), run_all("apart", &machines, APART, &filters)];
    let (passed, failed, skipped) =
        all.iter().fold((0, 0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1, sum.2 + one.2));
    println!("{passed} passed, {failed} failed, {skipped} skipped");
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
