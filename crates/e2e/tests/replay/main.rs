//! The guides that people follow today, replayed with our binary under upstream's names: real etcd, nginx, haproxy,
//! containerd, `kubectl`, `etcdctl`, the guides' commands and unit files. What differs stands in lists of changes, each
//! with its reason. `cargo test -p e2e --test replay -- NAME` replays the guides whose name contains NAME.
mod aws;
mod changes;
mod coreos;
mod hosts;
mod images;
mod multi_master;
mod nodes;
mod static_pods;
mod units;

use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;

type Guide = (&'static str, fn() -> Result<()>);

const GUIDES: &[Guide] = &[
    ("000 on AWS", aws::replay),
    ("001 static pods", static_pods::replay),
    ("002 multi-master", multi_master::replay),
    ("003 CoreOS", coreos::replay),
];

/// What a machine must have for it.
const PROGRAMS: &[&str] = &[
    "unshare",
    "nsenter",
    "setpriv",
    "containerd",
    "runc",
    "ctr",
    "nft",
    "iptables",
    "conntrack",
    "busybox",
    "kubectl",
    "etcd",
    "etcdctl",
    "nginx",
    "haproxy",
    "openssl",
    "cfssl",
    "cfssljson",
    "hexdump",
    "curl",
    "strip",
];

/// Replays a guide and says how that went.
fn told(name: &str, replay: fn() -> Result<()>) -> bool {
    let began = Instant::now();
    let done = replay();
    let seconds = began.elapsed().as_secs_f64();
    match &done {
        Ok(()) => println!("ok   {name} ({seconds:.1} s)"),
        Err(e) => println!("FAIL {name} ({seconds:.1} s)\n{e:#}"),
    }
    done.is_ok()
}

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let name = arguments.next().unwrap_or_default();
    let arguments: Vec<String> = arguments.collect();
    if name.rsplit('/').next() == Some("systemctl") {
        return match arguments.as_slice() {
            [flag, unit] if flag == "--supervise" => units::supervise(unit),
            _ => units::systemctl(&arguments),
        };
    }
    if !e2e::is_root("replaying guides") {
        return ExitCode::SUCCESS;
    }
    let missing: Vec<&str> = PROGRAMS.iter().copied().filter(|p| hosts::which(p).is_none()).collect();
    if !missing.is_empty() {
        println!("SKIPPED: the guides need {}; nothing was tested", missing.join(", "));
        return ExitCode::SUCCESS;
    }
    if let Err(e) = units::check() {
        println!("FAIL the unit runner\n{e:#}");
        return ExitCode::FAILURE;
    }
    let filters: Vec<String> = arguments.into_iter().filter(|a| !a.starts_with('-')).collect();
    let wanted = |name: &str| filters.is_empty() || filters.iter().any(|f| name.contains(f.as_str()));
    let all: Vec<&Guide> = GUIDES.iter().filter(|(name, _)| wanted(name)).collect();
    // They share nothing, and wait most of their time.
    let failed = std::thread::scope(|scope| {
        let running: Vec<_> = all.iter().map(|(name, replay)| scope.spawn(|| told(name, *replay))).collect();
        running.into_iter().map(|guide| guide.join().unwrap_or(false)).filter(|ok| !ok).count()
    });
    println!("{} passed, {failed} failed, {} skipped", all.len() - failed, GUIDES.len() - all.len());
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
