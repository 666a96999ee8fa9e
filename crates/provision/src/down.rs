//! The way back: stops what runs and takes away everything that is not data.
//!
//! First as the runtime would have it, so that plugins and shims clean up after themselves. Then whatever is left is
//! looked for in the kernel: processes, mounts, links, cgroups, packet rules.

use std::{
    collections::BTreeMap,
    fs, io,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use rustix::{
    mount::{UnmountFlags, unmount},
    process::Signal,
};
use serde::{Deserialize, Serialize};
use tracing::{debug, info, warn};

use crate::{Containerd, Layout, Process, ProcessRecord, binaries::find_program, files};

/// How [`down`] goes about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DownOptions {
    /// Whether data goes as well: certificates, objects, images, volumes.
    pub purge: bool,
    /// How long containers get to end by themselves.
    pub grace: Duration,
    /// Tables of packet rules to remove, as (family, name).
    pub nft_tables: Vec<(String, String)>,
}

impl Default for DownOptions {
    /// Keeps data; five seconds; the proxy's tables.
    fn default() -> Self {
        let table = |family: &str| (family.to_owned(), "cox-proxy".to_owned());
        Self { purge: false, grace: Duration::from_secs(5), nft_tables: vec![table("ip"), table("ip6")] }
    }
}

/// What [`down`] took away.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Removed {
    /// Recorded processes that were stopped.
    pub processes: usize,
    /// Pods' sandboxes that the runtime removed.
    pub sandboxes: usize,
    /// Things that were left over: processes, mounts, links, cgroups.
    pub leftovers: usize,
    /// Whether data went as well.
    pub purged: bool,
    /// What could not be taken away, in words.
    pub problems: Vec<String>,
}

impl Removed {
    pub(crate) fn add(&mut self, other: Self) {
        self.processes += other.processes;
        self.sandboxes += other.sandboxes;
        self.leftovers += other.leftovers;
        self.problems.extend(other.problems);
    }

    pub(crate) fn problem(&mut self, what: impl std::fmt::Display, error: impl std::fmt::Display) {
        warn!(%error, "{what}");
        self.problems.push(format!("{what}: {error}"));
    }
}

/// Stops everything of the cluster on this host and removes what is not data; with `purge`, data as well.
///
/// Goes on past what it cannot remove, and tells. Done again, it does the rest. Hold the layout's lock meanwhile.
pub async fn down(layout: &Layout, options: &DownOptions) -> Removed {
    let mut removed = Removed::default();
    stop_recorded(layout, &mut removed).await;
    stop_pods(layout, options.grace, &mut removed).await;
    if let Some(containerd) = Containerd::find(layout)
        && let Err(error) = containerd.stop(layout).await
    {
        removed.problem("cannot stop containerd", error);
    }
    kill_left_processes(&layout.containerd_socket(), &layout.cgroup_root(), &mut removed).await;
    unmount_all(layout.root(), &mut removed);
    remove_cgroups(&layout.cgroup_root(), &mut removed);
    remove_network(&layout.cni_network(), &layout.cni_ipam(), &layout.cni_conf(), &mut removed).await;
    remove_tables(&options.nft_tables, &mut removed);
    restore_kernel(layout, &mut removed);
    remove_files(layout, options.purge, &mut removed);
    info!(
        processes = removed.processes,
        sandboxes = removed.sandboxes,
        leftovers = removed.leftovers,
        purged = removed.purged,
        "cluster is down"
    );
    removed
}

/// Stops the processes that are recorded, containerd apart, which is still needed.
async fn stop_recorded(layout: &Layout, removed: &mut Removed) {
    for entry in fs::read_dir(layout.run()).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_none_or(|e| e != "process") || path == layout.process_record("containerd") {
            continue;
        }
        // Never ourselves: in the foreground it is the recorded process that takes itself down.
        let record = ProcessRecord::read(&path).filter(|r| r.pid != std::process::id() as i32);
        if let Some(process) = record.and_then(|r| r.open()) {
            match process.stop(Duration::from_secs(15)).await {
                Ok(_) => removed.processes += 1,
                Err(error) => removed.problem(format!("cannot stop process {}", process.record().pid), error),
            }
        }
        let _ = fs::remove_file(&path);
    }
}

async fn stop_pods(layout: &Layout, grace: Duration, removed: &mut Removed) {
    let containerd = match Containerd::find(layout) {
        Some(running) => Some(running),
        // Shims without their containerd: it takes them up again and can then remove them properly.
        None if has_tasks(layout) => match Containerd::restart(layout).await {
            Ok(started) => Some(started),
            Err(error) => {
                removed.problem("cannot start containerd to remove its pods", error);
                None
            }
        },
        None => None,
    };
    let Some(containerd) = containerd else { return };
    remove_pods(containerd.cri(), grace, removed).await;
}

/// Stops the containers of a runtime and removes its pods' sandboxes.
pub(crate) async fn remove_pods(cri: &cri::Cri, grace: Duration, removed: &mut Removed) {
    match cri.list_containers(None).await {
        Ok(containers) => {
            stream::iter(containers)
                .for_each_concurrent(16, |c| async move {
                    if let Err(error) = cri.stop_container(&c.id, grace).await {
                        debug!(container = c.id, %error, "cannot stop a container");
                    }
                })
                .await;
        }
        Err(error) => removed.problem("cannot list containers", error),
    }
    let sandboxes = match cri.list_pod_sandbox(None).await {
        Ok(sandboxes) => sandboxes,
        Err(error) => return removed.problem("cannot list pod sandboxes", error),
    };
    let results: Vec<_> = stream::iter(sandboxes)
        .map(|s| async move {
            let outcome = async {
                cri.stop_pod_sandbox(&s.id).await?;
                cri.remove_pod_sandbox(&s.id).await
            };
            (outcome.await, s.id.clone())
        })
        .buffer_unordered(8)
        .collect()
        .await;
    for (result, id) in results {
        match result {
            Ok(()) => removed.sandboxes += 1,
            // What is left of it is looked for below.
            Err(error) => warn!(sandbox = id, %error, "cannot remove a pod sandbox"),
        }
    }
}

/// Whether containers were running when containerd was last seen.
fn has_tasks(layout: &Layout) -> bool {
    let tasks = layout.containerd_state().join("io.containerd.runtime.v2.task/k8s.io");
    fs::read_dir(tasks).is_ok_and(|mut entries| entries.next().is_some())
}

/// Kills shims of our containerd and whatever is in our cgroups.
pub(crate) async fn kill_left_processes(socket: &Path, cgroup: &str, removed: &mut Removed) {
    let mut killed: Vec<Process> = Vec::new();
    let mut pids = shims(socket);
    for directory in cgroup_directories(cgroup) {
        pids.extend(processes_below(&directory));
    }
    pids.sort_unstable();
    pids.dedup();
    for pid in pids {
        let Some(process) = ProcessRecord::of(pid).and_then(|r| r.open()) else { continue };
        match process.signal(Signal::KILL) {
            Ok(()) => killed.push(process),
            Err(error) => removed.problem(format!("cannot kill process {pid}"), error),
        }
    }
    removed.leftovers += killed.len();
    for process in killed {
        // A process in an uninterruptible wait cannot be waited for.
        let _ = tokio::time::timeout(Duration::from_secs(5), process.ended()).await;
    }
}

/// The shims that belong to the containerd behind a socket.
fn shims(socket: &Path) -> Vec<i32> {
    let socket = socket.as_os_str().as_encoded_bytes();
    fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|e| {
            Some((e.file_name().to_str()?.parse().ok()?, fs::read(e.path().join("cmdline")).ok()?))
        })
        .filter(|(_, command)| is_shim_of(command, socket))
        .map(|(pid, _)| pid)
        .collect()
}

fn is_shim_of(command: &[u8], socket: &[u8]) -> bool {
    let mut words = command.split(|b| *b == 0);
    let program = words.next().unwrap_or_default();
    let name = program.rsplit(|b| *b == b'/').next().unwrap_or_default();
    name.starts_with(b"containerd-shim") && words.any(|w| w == socket)
}

/// Where each cgroup hierarchy is mounted, from `/proc/self/mountinfo`.
fn cgroup_mounts(mountinfo: &str) -> Vec<PathBuf> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (mount, kind) = line.split_once(" - ")?;
            kind.starts_with("cgroup").then(|| mount.split(' ').nth(4).map(unescape)).flatten()
        })
        .collect()
}

/// The directories of a cgroup in every hierarchy that has it.
fn cgroup_directories(cgroup: &str) -> Vec<PathBuf> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let mut all: Vec<PathBuf> = cgroup_mounts(&mountinfo)
        .into_iter()
        .map(|m| m.join(cgroup.trim_start_matches('/')))
        .filter(|d| d.is_dir())
        .collect();
    all.sort();
    all.dedup();
    all
}

fn processes_below(directory: &Path) -> Vec<i32> {
    let mut all: Vec<i32> = fs::read_to_string(directory.join("cgroup.procs"))
        .unwrap_or_default()
        .lines()
        .filter_map(|l| l.parse().ok())
        .collect();
    for child in child_directories(directory) {
        all.extend(processes_below(&child));
    }
    all
}

fn child_directories(directory: &Path) -> Vec<PathBuf> {
    fs::read_dir(directory)
        .into_iter()
        .flatten()
        .flatten()
        .filter(|e| e.file_type().is_ok_and(|t| t.is_dir()))
        .map(|e| e.path())
        .collect()
}

pub(crate) fn remove_cgroups(cgroup: &str, removed: &mut Removed) {
    for directory in cgroup_directories(cgroup) {
        match remove_when_empty(&directory) {
            Ok(count) => removed.leftovers += count,
            Err(error) => removed.problem(format!("cannot remove the cgroup {}", directory.display()), error),
        }
    }
}

/// A process that has ended is in its cgroup until its parent has taken note.
fn remove_when_empty(directory: &Path) -> io::Result<usize> {
    let deadline = std::time::Instant::now() + Duration::from_secs(5);
    loop {
        match remove_tree(directory) {
            Err(error)
                if error.kind() == io::ErrorKind::ResourceBusy && std::time::Instant::now() < deadline =>
            {
                std::thread::sleep(Duration::from_millis(10));
            }
            other => return other,
        }
    }
}

/// Removes what is left of a cgroup that no process is in any more.
pub(crate) fn remove_cgroup(cgroup: &str) {
    for directory in cgroup_directories(cgroup) {
        if let Err(error) = remove_when_empty(&directory) {
            debug!(%error, directory = %directory.display(), "cannot remove a cgroup");
        }
    }
}

/// The files of a cgroup are not files: only its directories can be removed, innermost first.
fn remove_tree(directory: &Path) -> io::Result<usize> {
    let mut count = 0;
    for child in child_directories(directory) {
        count += remove_tree(&child)?;
    }
    match fs::remove_dir(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(count + 1),
    }
}

/// Mount points at or below a directory, innermost and latest first.
pub(crate) fn mounts_below(mountinfo: &str, root: &Path) -> Vec<PathBuf> {
    let mut all: Vec<PathBuf> = mountinfo
        .lines()
        .filter_map(|l| l.split(' ').nth(4))
        .map(unescape)
        .filter(|point| point.starts_with(root))
        .collect();
    all.reverse();
    all
}

/// The kernel writes space, tab, newline and backslash of a path as three octal digits.
pub(crate) fn unescape(text: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let escaped = (bytes[at] == b'\\')
            .then(|| bytes.get(at + 1..at + 4))
            .flatten()
            .and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        out.push(escaped.unwrap_or(bytes[at]));
        at += if escaped.is_some() { 4 } else { 1 };
    }
    std::ffi::OsString::from_vec(out).into()
}

pub(crate) fn unmount_all(root: &Path, removed: &mut Removed) {
    // The kernel lists real paths.
    let root = fs::canonicalize(root).unwrap_or_else(|_| root.to_owned());
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for point in mounts_below(&mountinfo, &root) {
        match unmount(&point, UnmountFlags::DETACH) {
            Ok(()) => removed.leftovers += 1,
            // Went together with one above it.
            Err(rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {}
            Err(error) => removed.problem(format!("cannot unmount {}", point.display()), error),
        }
    }
}

pub(crate) async fn remove_network(network: &str, ipam: &Path, configuration: &Path, removed: &mut Removed) {
    match net::cni::find(network) {
        Ok(found) => {
            removed.leftovers += found.attachments.len();
            let failed = net::cni::remove(&found, ipam, network).await;
            if failed > 0 {
                removed.problems.push(format!("{failed} leftovers of the pod network could not be removed"));
            }
        }
        Err(error) => removed.problem("cannot look for leftovers of the pod network", error),
    }
    if let Err(error) = net::cni::uninstall(configuration) {
        removed.problem("cannot remove the configuration of the pod network", error);
    }
}

pub(crate) fn remove_tables(tables: &[(String, String)], removed: &mut Removed) {
    let Some(nft) = find_program("nft") else { return };
    // Adding a table that exists changes nothing, so that deleting it never fails for want of it.
    let script: String =
        tables.iter().map(|(f, n)| format!("add table {f} {n}\ndelete table {f} {n}\n")).collect();
    if script.is_empty() {
        return;
    }
    let outcome = (|| {
        let mut child = Command::new(nft)
            .args(["-f", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        if let Some(mut input) = child.stdin.take() {
            input.write_all(script.as_bytes())?;
        }
        let output = child.wait_with_output()?;
        if output.status.success() {
            return Ok(());
        }
        Err(io::Error::other(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
    })();
    // Without root there is no table of ours either.
    if let Err(error) = outcome
        && rustix::process::geteuid().is_root()
    {
        removed.problem("cannot remove the tables of packet rules", error);
    }
}

/// Whether pods of a cluster run on this machine, or hosts of it.
fn is_up(layout: &Layout) -> bool {
    let entries = fs::read_dir(layout.run()).into_iter().flatten().flatten();
    let hosts = entries.filter(|e| e.file_name().to_string_lossy().starts_with("host-"));
    Containerd::find(layout).is_some()
        || hosts.filter_map(|e| ProcessRecord::read(&e.path())).any(|r| r.is_alive())
}

/// Puts kernel settings back, unless another cluster beside this one runs on them.
fn restore_kernel(layout: &Layout, removed: &mut Removed) {
    let record = layout.host_changes();
    let Some(former) = files::read_json::<BTreeMap<PathBuf, String>>(&record) else { return };
    let data = layout.root().parent().unwrap_or(layout.root());
    if Layout::all(data).iter().any(|other| other != layout && is_up(other)) {
        return;
    }
    for (path, value) in former {
        if let Err(error) = fs::write(&path, &value) {
            removed.problem(format!("cannot set {} back to {value}", path.display()), error);
        }
    }
    let _ = fs::remove_file(record);
}

fn remove_files(layout: &Layout, purge: bool, removed: &mut Removed) {
    // A shim that was killed leaves its socket outside of our directory; its bundle says where.
    for entry in fs::read_dir(layout.containerd_state().join("io.containerd.runtime.v2.task/k8s.io"))
        .into_iter()
        .flatten()
        .flatten()
    {
        let address = fs::read_to_string(entry.path().join("address")).unwrap_or_default();
        if let Some(socket) =
            address.trim().strip_prefix("unix://").filter(|s| s.starts_with("/run/containerd/s/"))
        {
            let _ = fs::remove_file(socket);
        }
    }
    let gone = if purge { layout.root().to_owned() } else { layout.run() };
    // Below a mount that is still there may be someone's data.
    let root = fs::canonicalize(&gone).unwrap_or_else(|_| gone.clone());
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    if let Some(mount) = mounts_below(&mountinfo, &root).first() {
        removed.problem(format!("kept {}", gone.display()), format!("{} is still mounted", mount.display()));
        return;
    }
    match fs::remove_dir_all(&gone) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            removed.problem(format!("cannot remove {}", gone.display()), error);
        }
        _ => removed.purged = purge,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_shims_are_ours() {
        let command = |address: &str| {
            format!("/usr/bin/containerd-shim-runc-v2\0-namespace\0k8s.io\0-id\0x\0-address\0{address}\0")
                .into_bytes()
        };
        assert!(is_shim_of(
            &command("/d/home/run/containerd/containerd.sock"),
            b"/d/home/run/containerd/containerd.sock"
        ));
        assert!(!is_shim_of(
            &command("/run/containerd/containerd.sock"),
            b"/d/home/run/containerd/containerd.sock"
        ));
        assert!(!is_shim_of(
            b"vi\0/d/home/run/containerd/containerd.sock\0",
            b"/d/home/run/containerd/containerd.sock"
        ));
    }

    #[test]
    fn mounts_are_taken_innermost_first_and_only_below() {
        let text = "1 0 8:1 / / rw - ext4 /dev/a rw\n\
                    2 1 0:5 / /d/home/kubelet/pods/a/volumes/t rw - tmpfs tmpfs rw\n\
                    3 2 0:6 / /d/home/kubelet/pods/a/volumes/t/inner rw - tmpfs tmpfs rw\n\
                    4 1 0:7 / /d/homework rw - tmpfs tmpfs rw\n\
                    5 1 0:8 / /d/home/with\\040space rw - tmpfs tmpfs rw\n";
        let want = [
            "/d/home/with space",
            "/d/home/kubelet/pods/a/volumes/t/inner",
            "/d/home/kubelet/pods/a/volumes/t",
        ];
        assert_eq!(mounts_below(text, Path::new("/d/home")), want.map(PathBuf::from));
        assert_eq!(unescape(r"a\134b\x"), PathBuf::from(r"a\b\x"));
    }

    #[test]
    fn cgroup_hierarchies_are_found_where_they_are_mounted() {
        let text = "30 20 0:25 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                    33 20 0:28 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
                    34 20 0:29 / /tmp rw - tmpfs cgroup rw\n";
        assert_eq!(
            cgroup_mounts(text),
            ["/sys/fs/cgroup/memory", "/sys/fs/cgroup/unified"].map(PathBuf::from)
        );
    }

    #[tokio::test]
    async fn what_is_not_there_is_down_already() {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = Layout::new(dir.path(), "never-up").expect("a layout");
        let options = DownOptions { nft_tables: Vec::new(), ..DownOptions::default() };
        assert_eq!(down(&layout, &options).await, Removed::default());
    }
}
