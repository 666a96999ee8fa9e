//! Two of three hosts gone for good.
use std::process::Command;
use std::time::Instant;

use anyhow::{Context as _, Result, ensure};
use e2e::{Cluster, Traffic, eventually};
use serde_json::Value;

use crate::{PATIENCE, host, members, said};

/// How far the cluster has come.
fn revision(cluster: &Cluster) -> Result<u64> {
    let text = cluster.kubectl().args(&["get", "--raw", "/api/v1/configmaps?limit=1"])?;
    let list: Value = serde_json::from_str(&text)?;
    list["metadata"]["resourceVersion"].as_str().and_then(|r| r.parse().ok()).context("a revision")
}

fn lose_two(cluster: &Cluster) -> Result<()> {
    cluster.lose_host(&host(cluster, 3))?;
    cluster.lose_etcd(&host(cluster, 4))?;
    let status = cluster.cox(&["status"])?;
    let survivor = format!("cox restore --from-member {}", host(cluster, 1));
    for word in ["nothing can be written", "cox restore FILE", &survivor] {
        ensure!(status.code == Some(1) && status.out.contains(word), "{word}: {}{}", status.out, status.err);
    }
    Ok(())
}

/// The wire of the host of this number, at the switch: the host itself sees a link without an other end.
fn link(cluster: &Cluster, number: usize, state: &str) -> Result<()> {
    let namespace = format!("--net={}", cluster.root().join("run/switch").display());
    let port = format!("port{}", number + 1);
    let mut command = Command::new("nsenter");
    command.args([&namespace, "ip", "link", "set", &port, state]);
    command.env("PATH", format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default()));
    ensure!(command.status()?.success(), "{port} cannot be set {state}");
    Ok(())
}

/// One of three cannot talk to the others, and they do without it until it can.
pub fn cut(cluster: &Cluster) -> Result<()> {
    let traffic = Traffic::start(cluster, "cut");
    traffic.wait_for(20, PATIENCE)?;
    let without = link(cluster, 1, "down").and_then(|()| traffic.wait_for(30, PATIENCE));
    let back = link(cluster, 1, "up");
    let with = back.and_then(|()| traffic.wait_for(20, PATIENCE));
    let seen = traffic.stop()?;
    without?;
    with?;
    seen.judge(&cluster.kubectl(), "the link of a control plane cut")?;
    eventually("all members of etcd", PATIENCE, || {
        ensure!(members(cluster)?.len() == 3, "{:?}", members(cluster)?);
        Ok(())
    })
}

/// Runs a restore while a client asks for service all the time; how long that took it.
fn restored(cluster: &Cluster, run: &str, arguments: &[&str], before: u64) -> Result<()> {
    let traffic = Traffic::start(cluster, run);
    let began = Instant::now();
    let answer = cluster.cox(&[&["restore", "-o", "json", "--wait=240"], arguments].concat());
    let answer = answer.and_then(|answer| said(&answer));
    let took = began.elapsed();
    let after = answer.is_ok().then(|| traffic.wait_for(20, PATIENCE));
    let seen = traffic.stop()?;
    let answer = answer?;
    after.transpose()?;
    println!("     restored after {:.1} s, to revision {}", took.as_secs_f64(), answer["revision"]);
    seen.judge(&cluster.kubectl(), run)?;
    ensure!(answer["revision"].as_u64() > Some(before), "{answer}: {before} was known before");
    ensure!(members(cluster)?.len() == 3, "{:?}", members(cluster)?);
    Ok(())
}

pub fn from_backup(cluster: &Cluster) -> Result<()> {
    let traffic = Traffic::start(cluster, "kept");
    traffic.wait_for(20, PATIENCE)?;
    let kept = traffic.stop()?;
    let file = cluster.data_dir().join("backup.cox").display().to_string();
    let made = said(&cluster.cox(&["backup", &file, "-o", "json"])?)?;
    ensure!(made["keys"].as_u64() > Some(100), "{made}");
    let checked = cluster.cox(&["db", "check"])?;
    ensure!(checked.code == Some(0) && checked.out.contains("is whole"), "{}{}", checked.out, checked.err);
    let refused = cluster.cox(&["restore", &file])?;
    ensure!(refused.code == Some(1) && refused.err.contains("--replace"), "{}{}", refused.out, refused.err);
    // Written after the backup: lost with the hosts, and its revisions with it.
    cluster.kubectl().within("traffic").run("create configmap after-the-backup")?;
    let before = revision(cluster)?;
    lose_two(cluster)?;
    restored(cluster, "restored", &[&file], before)?;
    kept.judge(&cluster.kubectl(), "before the backup")?;
    let gone = cluster.kubectl().within("traffic").refused("get configmap after-the-backup")?;
    ensure!(gone.contains("NotFound"), "{gone}");
    Ok(())
}

pub fn from_member(cluster: &Cluster) -> Result<()> {
    let traffic = Traffic::start(cluster, "survives");
    traffic.wait_for(20, PATIENCE)?;
    let kept = traffic.stop()?;
    let before = revision(cluster)?;
    lose_two(cluster)?;
    let refused = cluster.cox(&["up"])?;
    ensure!(
        refused.code == Some(1) && refused.err.contains("--from-member"),
        "{}{}",
        refused.out,
        refused.err
    );
    let survivor = host(cluster, 1);
    restored(cluster, "member", &["--from-member", &survivor], before)?;
    kept.judge(&cluster.kubectl(), "before two members were lost")
}
