//! What the numbers depend on.
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};

fn read(path: &str) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Cores, memory, kernel, disk and the binary, in short.
pub fn facts(cox: &Path, directory: &Path) -> Result<Vec<(&'static str, String)>> {
    let version = Command::new(cox)
        .arg("--version")
        .output()
        .with_context(|| format!("cannot run {}", cox.display()))?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    let size = std::fs::metadata(cox)?.len() as f64 / 1e6;
    let cpu = read("/proc/cpuinfo");
    let model = cpu.lines().find(|l| l.starts_with("model name")).and_then(|l| l.split(": ").nth(1));
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = read("/proc/meminfo");
    let kilobytes: f64 = memory.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or_default();
    Ok(vec![
        ("binary", format!("{version}, {size:.1} MB")),
        ("processor", format!("{cores} x {}", model.unwrap_or("unknown").trim())),
        ("memory", format!("{:.0} GB", kilobytes / 1e6)),
        ("kernel", read("/proc/sys/kernel/osrelease").trim().to_owned()),
        ("disk", filesystem(&read("/proc/self/mounts"), directory)),
    ])
}

/// The type of the file system that a directory is on.
fn filesystem(mounts: &str, directory: &Path) -> String {
    let mount = |line: &str| {
        let mut words = line.split_whitespace().skip(1);
        let point = words.next()?.to_owned();
        Some((point, words.next()?.to_owned()))
    };
    mounts
        .lines()
        .filter_map(mount)
        .filter(|(point, _)| directory.starts_with(point))
        // Of two mounts on one directory the later one is seen.
        .max_by_key(|(point, _)| point.len())
        .map_or_else(|| "unknown".to_owned(), |(_, kind)| kind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_deepest_mount_counts() {
        let mounts = "overlay / overlay rw 0 0\n/dev/vda /var ext4 rw 0 0\ntmpfs /tmp tmpfs rw 0 0\n";
        assert_eq!(filesystem(mounts, Path::new("/var/tmp/x")), "ext4");
        assert_eq!(filesystem(mounts, Path::new("/variable")), "overlay");
        assert_eq!(filesystem("", Path::new("/")), "unknown");
    }
}
