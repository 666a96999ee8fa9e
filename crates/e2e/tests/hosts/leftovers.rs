//! What `cox down --purge` must not leave on the machine.
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use e2e::Cluster;

fn said(program: &str, arguments: &[&str]) -> Result<String> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .output()
        .with_context(|| program.to_owned())?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The link of this machine that leads to the hosts: the one with the first address of their network.
fn link(cluster: &Cluster) -> Result<String> {
    let kept = std::fs::read_to_string(cluster.root().join("cluster.yaml"))?;
    let line = kept.lines().find_map(|l| l.trim().strip_prefix("hostCIDR:")).context("a network of hosts")?;
    let first = line.trim().trim_matches('"').replace(".0/24", ".1/24");
    let text = said("ip", &["-o", "-4", "addr", "show"])?;
    let line = text.lines().find(|l| l.contains(&first)).with_context(|| format!("no link has {first}"))?;
    Ok(line.split_whitespace().nth(1).unwrap_or_default().to_owned())
}

fn cgroups(name: &str) -> Vec<String> {
    let below = |dir: &Path| -> Vec<std::path::PathBuf> {
        std::fs::read_dir(dir).into_iter().flatten().flatten().map(|e| e.path()).collect()
    };
    let root = Path::new("/sys/fs/cgroup");
    let all =
        below(root).into_iter().flat_map(|d| std::iter::once(d.clone()).chain(below(&d)).collect::<Vec<_>>());
    let wanted = format!("cox-{name}");
    all.filter(|d| d.file_name().is_some_and(|n| n.to_string_lossy() == wanted))
        .map(|d| d.display().to_string())
        .collect()
}

fn processes(data: &str) -> Vec<String> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let own = std::process::id().to_string();
    entries
        .filter(|e| e.file_name().to_string_lossy() != own)
        .filter_map(|e| std::fs::read(e.path().join("cmdline")).ok())
        .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
        .filter(|line| line.contains(data))
        .collect()
}

pub fn nothing_left(cluster: &Cluster) -> Result<()> {
    let data = cluster.data_dir().display().to_string();
    let link = link(cluster)?;
    ensure!(!cgroups(cluster.name()).is_empty() && !processes(&data).is_empty(), "nothing to look for");
    let answer = cluster.cox(&["down", "--purge", "-o", "json"])?;
    ensure!(answer.code == Some(0), "{}{}", answer.out, answer.err);
    ensure!(processes(&data).is_empty(), "processes: {:?}", processes(&data));
    ensure!(cgroups(cluster.name()).is_empty(), "cgroups: {:?}", cgroups(cluster.name()));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
    let left: Vec<&str> = mounts.lines().filter(|l| l.contains(&data)).collect();
    ensure!(left.is_empty(), "mounts: {left:?}");
    let links = said("ip", &["-o", "link", "show"])?;
    ensure!(!links.contains(&link), "links: {links}");
    let tables = said("nft", &["list", "tables"])?;
    let mark = link.trim_start_matches("cox");
    ensure!(!tables.contains(mark), "tables: {tables}");
    ensure!(!cluster.root().exists(), "{} is still there", cluster.root().display());
    let gone = cluster.cox(&["status"])?;
    ensure!(gone.code == Some(1) && gone.err.contains("there is no cluster"), "{}{}", gone.out, gone.err);
    Ok(())
}
