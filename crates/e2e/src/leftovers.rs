//! What a node must not keep of a pod that is gone.
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Everything on the host that pods of a cluster bring with them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Leftovers {
    /// Mounts below the data directory.
    pub mounts: BTreeSet<String>,
    /// Links whose other end is in another network namespace.
    pub veths: BTreeSet<String>,
    /// Cgroups of pods.
    pub cgroups: BTreeSet<String>,
    /// Volume and log directories of pods.
    pub directories: BTreeSet<String>,
    /// Containers that containerd knows.
    pub containers: BTreeSet<String>,
    /// Rules of the proxy that name a service or an endpoint.
    pub rules: BTreeSet<String>,
}

fn lines(program: &str, arguments: &[&str]) -> Result<Vec<String>> {
    let path = format!("{}:/usr/sbin:/sbin", std::env::var("PATH").unwrap_or_default());
    let output = Command::new(program)
        .args(arguments)
        .env("PATH", path)
        .output()
        .with_context(|| program.to_owned())?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect())
}

/// Directories below a root whose name looks like a pod's, at most so deep.
fn pod_directories(root: &Path, depth: u32, wanted: &dyn Fn(&str) -> bool, found: &mut BTreeSet<String>) {
    let Ok(entries) = std::fs::read_dir(root) else { return };
    for entry in entries.flatten().filter(|e| e.path().is_dir()) {
        if wanted(&entry.file_name().to_string_lossy()) {
            found.insert(entry.path().display().to_string());
        } else if depth > 0 {
            pod_directories(&entry.path(), depth - 1, wanted, found);
        }
    }
}

impl Leftovers {
    /// Looks at the host. `root` is the cluster's directory, `name` its name.
    pub fn look(root: &Path, name: &str) -> Result<Self> {
        let mut found = Self::default();
        let mounts = std::fs::read_to_string("/proc/self/mountinfo")?;
        let below = root.display().to_string();
        found.mounts = mounts
            .lines()
            .filter_map(|line| line.split_whitespace().nth(4))
            .filter(|point| point.starts_with(&below))
            .map(str::to_owned)
            .collect();
        found.veths = lines("ip", &["-o", "link", "show", "type", "veth"])?
            .iter()
            .filter_map(|line| line.split_whitespace().nth(1))
            .map(str::to_owned)
            .collect();
        let cgroup = format!("cox-{name}");
        for hierarchy in std::fs::read_dir("/sys/fs/cgroup")?.flatten() {
            let wanted = |name: &str| name.starts_with("pod") && name.len() > 30;
            pod_directories(&hierarchy.path().join(&cgroup), 4, &wanted, &mut found.cgroups);
        }
        pod_directories(
            &Path::new("/sys/fs/cgroup").join(&cgroup),
            4,
            &|n| n.starts_with("pod") && n.len() > 30,
            &mut found.cgroups,
        );
        let uid = |name: &str| name.len() >= 36 && name.matches('-').count() >= 4;
        pod_directories(&root.join("kubelet/pods"), 0, &uid, &mut found.directories);
        pod_directories(&root.join("logs/pods"), 0, &uid, &mut found.directories);
        let socket = root.join("run/containerd/containerd.sock");
        let socket =
            if socket.exists() { socket } else { find_socket(root).context("no containerd socket")? };
        found.containers = lines(
            "ctr",
            &["--address", &socket.display().to_string(), "-n", "k8s.io", "containers", "list", "-q"],
        )?
        .into_iter()
        .collect();
        let table = if name == "default" { "cox-proxy".to_owned() } else { format!("cox-proxy-{name}") };
        found.rules = lines("nft", &["list", "table", "ip", &table])?
            .into_iter()
            .map(|line| line.trim().to_owned())
            .filter(|line| line.contains("dnat") || line.contains("ip daddr 10."))
            .collect();
        Ok(found)
    }
}

fn find_socket(root: &Path) -> Option<std::path::PathBuf> {
    let mut stack = vec![root.join("run"), root.to_owned()];
    let mut looked = 0;
    while let Some(dir) = stack.pop() {
        looked += 1;
        if looked > 200 {
            return None;
        }
        for entry in std::fs::read_dir(dir).ok()?.flatten() {
            let path = entry.path();
            if path.file_name().is_some_and(|n| n == "containerd.sock") {
                return Some(path);
            }
            if entry.file_type().is_ok_and(|t| t.is_dir())
                && path.components().count() < root.components().count() + 3
            {
                stack.push(path);
            }
        }
    }
    None
}
