//! What the host is like: looked at, not judged.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use net::host::Route;

use crate::binaries::{PROGRAMS, find_cni_plugins, find_program};

/// Which cgroup hierarchy holds the limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupMode {
    /// One hierarchy for each controller (also in hybrid mode).
    V1,
    /// The one hierarchy.
    V2,
    /// None is mounted.
    Absent,
}

/// A TCP port that someone listens on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    /// The address it is bound to.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// Who, if that could be found out: number and name.
    pub process: Option<(i32, String)>,
}

/// What the host is like.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Whether we may do everything.
    pub root: bool,
    /// Where each program of a node is.
    pub programs: BTreeMap<&'static str, Option<PathBuf>>,
    /// The directory of the CNI plugins.
    pub cni_bin_dir: PathBuf,
    /// Plugins that it lacks.
    pub missing_plugins: Vec<&'static str>,
    /// Those of the ports asked about that are in use.
    pub listeners: Vec<Listener>,
    /// The host's routes.
    pub routes: Vec<Route>,
    /// Bytes that can still be written to the data directory's file system.
    pub disk_free: Option<u64>,
    /// Files that can still be made there.
    pub inodes_free: Option<u64>,
    /// How limits are set.
    pub cgroups: CgroupMode,
    /// Controllers we use that the kernel does not offer.
    pub missing_controllers: Vec<&'static str>,
    /// Whether the kernel can stack image layers.
    pub overlay: bool,
    /// Whether the data directory lies on a stacked file system itself, where none can be stacked again.
    pub data_on_overlay: bool,
    /// Whether processes here may lower their score for the out-of-memory killer.
    pub can_lower_oom_score: bool,
}

impl Facts {
    /// Looks at this host, for a data directory that may not be there yet; finds out who listens on `ports`.
    pub fn gather(data: &Path, ports: &[u16]) -> Self {
        let (cni_bin_dir, missing_plugins) = find_cni_plugins();
        let existing = data.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
        let disk = rustix::fs::statvfs(existing).ok();
        // File systems without a fixed number of inodes say 0 of 0.
        let inodes = disk.as_ref().filter(|d| d.f_files > 0).map(|d| d.f_favail);
        let (cgroups, missing_controllers) = cgroups();
        Self {
            root: rustix::process::geteuid().is_root(),
            programs: PROGRAMS.iter().map(|n| (n.program, find_program(n.program))).collect(),
            cni_bin_dir,
            missing_plugins,
            listeners: listeners(ports),
            routes: net::host::routes(),
            disk_free: disk.as_ref().map(|d| d.f_bavail.saturating_mul(d.f_frsize)),
            inodes_free: inodes,
            cgroups,
            missing_controllers,
            overlay: has_filesystem("overlay"),
            data_on_overlay: is_overlay(existing),
            can_lower_oom_score: can_lower_oom_score(),
        }
    }

    /// The containerd snapshotter that works here.
    pub fn snapshotter(&self) -> &'static str {
        if self.overlay && !self.data_on_overlay { "overlayfs" } else { "native" }
    }
}

fn has_filesystem(name: &str) -> bool {
    let listed = || {
        fs::read_to_string("/proc/filesystems")
            .is_ok_and(|text| text.lines().any(|l| l.split_whitespace().last() == Some(name)))
    };
    if listed() {
        return true;
    }
    // A module that nobody has needed yet. Where there are no modules, there is nothing to load.
    let Some(modprobe) = find_program("modprobe") else { return false };
    let _ = std::process::Command::new(modprobe).args(["-q", name]).status();
    listed()
}

fn is_overlay(path: &Path) -> bool {
    const OVERLAYFS_SUPER_MAGIC: i64 = 0x794c_7630;
    #[allow(clippy::unnecessary_cast)] // The field's width differs between architectures.
    rustix::fs::statfs(path).is_ok_and(|s| s.f_type as i64 == OVERLAYFS_SUPER_MAGIC)
}

fn can_lower_oom_score() -> bool {
    const CAP_SYS_RESOURCE: u32 = 24;
    fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|s| s.lines().find_map(|l| l.strip_prefix("CapEff:").map(|v| v.trim().to_owned())))
        .and_then(|hex| u64::from_str_radix(&hex, 16).ok())
        .is_some_and(|caps| caps & 1 << CAP_SYS_RESOURCE != 0)
}

fn cgroups() -> (CgroupMode, Vec<&'static str>) {
    let root = Path::new("/sys/fs/cgroup");
    if let Ok(offered) = fs::read_to_string(root.join("cgroup.controllers")) {
        return (
            CgroupMode::V2,
            missing(&["cpu", "memory", "pids"], |c| offered.split_whitespace().any(|o| o == c)),
        );
    }
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let offered = v1_controllers(&mounts);
    if offered.is_empty() {
        return (CgroupMode::Absent, Vec::new());
    }
    (
        CgroupMode::V1,
        missing(&["cpu", "cpuacct", "memory", "pids", "devices", "freezer"], |c| offered.contains(&c)),
    )
}

fn missing(wanted: &[&'static str], offered: impl Fn(&str) -> bool) -> Vec<&'static str> {
    wanted.iter().copied().filter(|c| !offered(c)).collect()
}

/// The controllers that have a v1 hierarchy mounted.
fn v1_controllers(mountinfo: &str) -> Vec<&str> {
    mountinfo
        .lines()
        .filter_map(|line| line.split_once(" - cgroup ")?.1.split_whitespace().last())
        .flat_map(|options| options.split(','))
        .filter(|o| !matches!(*o, "rw" | "ro") && !o.starts_with("name="))
        .collect()
}

/// TCP ports in use, with who has them as far as `/proc` lets us see.
fn listeners(ports: &[u16]) -> Vec<Listener> {
    let mut found = parse_listeners(&fs::read_to_string("/proc/net/tcp").unwrap_or_default());
    found.extend(parse_listeners(&fs::read_to_string("/proc/net/tcp6").unwrap_or_default()));
    found.retain(|l| ports.contains(&l.1));
    // Looking through the descriptors of every process takes a while: only when there is something to find.
    let owners = if found.is_empty() { HashMap::new() } else { socket_owners() };
    found
        .into_iter()
        .map(|(address, port, inode)| Listener { address, port, process: owners.get(&inode).cloned() })
        .collect()
}

/// Address, port and inode of each listening socket in `/proc/net/tcp` or `tcp6`.
fn parse_listeners(text: &str) -> Vec<(IpAddr, u16, u64)> {
    const LISTEN: &str = "0A";
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            if *fields.get(3)? != LISTEN {
                return None;
            }
            let (address, port) = fields.get(1)?.split_once(':')?;
            let port = u16::from_str_radix(port, 16).ok()?;
            Some((parse_address(address)?, port, fields.get(9)?.parse().ok()?))
        })
        .collect()
}

/// The kernel prints addresses as words of 32 bits in its own byte order.
fn parse_address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at..at + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let mut bytes = [0; 16];
            for (i, chunk) in bytes.chunks_mut(4).enumerate() {
                chunk.copy_from_slice(&word(i * 8)?);
            }
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

fn socket_owners() -> HashMap<u64, (i32, String)> {
    let mut owners = HashMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<i32>().ok()) else { continue };
        let Ok(descriptors) = fs::read_dir(entry.path().join("fd")) else { continue };
        for descriptor in descriptors.flatten() {
            let Ok(target) = fs::read_link(descriptor.path()) else { continue };
            let inode = target
                .to_str()
                .and_then(|t| t.strip_prefix("socket:[")?.strip_suffix(']'))
                .and_then(|i| i.parse().ok());
            if let Some(inode) = inode {
                let name =
                    || fs::read_to_string(entry.path().join("comm")).unwrap_or_default().trim().to_owned();
                owners.entry(inode).or_insert_with(|| (pid, name()));
            }
        }
    }
    owners
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_listening_sockets_only() {
        let text = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            0: 0100007F:1963 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 41234 1\n\
            1: 0100007F:1964 0100007F:1963 01 00000000:00000000 00:00000000 00000000     0        0 41235 1\n";
        assert_eq!(parse_listeners(text), [([127, 0, 0, 1].into(), 6499, 41234)]);
        let v6 = parse_address("00000000000000000000000001000000");
        assert_eq!(v6, Some(IpAddr::V6(Ipv6Addr::LOCALHOST)));
        assert_eq!(parse_address("xyz"), None);
    }

    #[test]
    fn finds_this_process_behind_its_port() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = listener.local_addr().expect("an address").port();
        assert_eq!(listeners(&[]), []);
        let found = listeners(&[port]).into_iter().find(|l| l.port == port).expect("listed");
        assert_eq!(found.process.map(|p| p.0), Some(std::process::id() as i32));
    }

    #[test]
    fn reads_v1_hierarchies_beside_v2() {
        let text = "30 20 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                    31 20 0:26 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                    32 20 0:27 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd\n\
                    33 20 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n";
        assert_eq!(v1_controllers(text), ["memory", "cpu", "cpuacct"]);
    }
}
