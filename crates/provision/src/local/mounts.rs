//! What a host sees of the file system: the machine's programs, and its own of everything that changes.

use std::{
    ffi::CString,
    fs,
    fs::File,
    io,
    os::{fd::AsRawFd as _, unix::fs::DirBuilderExt as _},
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use rustix::mount::{
    MountFlags, MountPropagationFlags, UnmountFlags, mount, mount_bind, mount_change, unmount,
};

use crate::down::unescape;

/// Directories whose changes are the host's own and gone with a crash; those below that last are bound over them.
const VOLATILE: [&str; 4] = ["/etc", "/var", "/usr/local", "/opt"];

/// A cgroup hierarchy as the machine mounts it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hierarchy {
    /// Where.
    pub at: PathBuf,
    /// Its controllers or name; none: the unified one.
    pub options: Option<String>,
}

/// The machine's cgroup hierarchies, from `/proc/self/mountinfo`.
pub(super) fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let parse = |line: &str| {
        let (mount, kind) = line.split_once(" - ")?;
        let at = unescape(mount.split(' ').nth(4)?);
        let mut fields = kind.split(' ');
        let kind = fields.next()?;
        let options = fields.nth(1).unwrap_or_default();
        match kind {
            "cgroup2" => Some(Hierarchy { at, options: None }),
            "cgroup" => {
                let kept = options.split(',').filter(|o| {
                    !matches!(*o, "rw" | "ro" | "xattr" | "clone_children" | "noprefix")
                        && !o.starts_with("release_agent=")
                });
                let mut kept: Vec<&str> = kept.collect();
                // A hierarchy with a name and no controller has to say so.
                if kept.iter().all(|o| o.starts_with("name=")) {
                    kept.insert(0, "none");
                }
                Some(Hierarchy { at, options: Some(kept.join(",")) })
            }
            _ => None,
        }
    };
    let mut all: Vec<Hierarchy> = mountinfo.lines().filter_map(parse).collect();
    all.sort_by(|a, b| a.at.cmp(&b.at));
    all.dedup();
    all
}

/// Makes the mounts of a host, in a mount namespace of its own that nobody else sees.
///
/// `persistent` directories are kept below `disk`; `logs` is where `/run/cox/logs` leads.
pub(super) fn make(disk: &Path, logs: &Path, persistent: &[PathBuf]) -> anyhow::Result<()> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").context("cannot read the mounts")?;
    let hierarchies = hierarchies(&mountinfo);
    let resolvers = resolvers();
    // Opened before anything is hidden; then reached through the descriptors.
    let mut kept: Vec<(PathBuf, File)> = Vec::new();
    for path in persistent {
        let name = path.strip_prefix("/").unwrap_or(path).to_string_lossy().replace('/', "-");
        kept.push((path.clone(), directory(&disk.join(name))?));
    }
    let logs = directory(logs)?;

    let none = MountFlags::empty();
    let tmpfs = |at: &str| -> anyhow::Result<()> {
        let options = CString::new("mode=755")?;
        mount("tmpfs", at, "tmpfs", none, options.as_c_str())
            .with_context(|| format!("cannot mount a tmpfs at {at}"))
    };
    tmpfs("/run")?;
    for path in VOLATILE.iter().filter(|p| Path::new(p).is_dir()) {
        overlay(path)?;
    }
    for (path, source) in &kept {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(path)?;
        bind(source, path)?;
    }
    let at = Path::new("/run/cox/logs");
    fs::create_dir_all(at)?;
    bind(&logs, at)?;
    if let Some(text) = resolvers {
        // Maybe a link to something in the `/run` that is hidden now.
        let _ = fs::remove_file("/etc/resolv.conf");
        fs::write("/etc/resolv.conf", text).context("cannot write /etc/resolv.conf")?;
    }
    cgroups(&hierarchies)?;
    // kubelets and containerds pass mounts on to each other.
    mount_change("/", MountPropagationFlags::SHARED | MountPropagationFlags::REC)
        .context("cannot share mounts within the host")
}

fn directory(path: &Path) -> anyhow::Result<File> {
    fs::DirBuilder::new().recursive(true).mode(0o711).create(path)?;
    File::open(path).with_context(|| format!("cannot open {}", path.display()))
}

fn bind(source: &File, to: &Path) -> anyhow::Result<()> {
    let from = format!("/proc/self/fd/{}", source.as_raw_fd());
    mount_bind(from.as_str(), to).with_context(|| format!("cannot mount {}", to.display()))
}

/// A copy of a directory of the machine that can be written to, in memory.
fn overlay(path: &str) -> anyhow::Result<()> {
    let base = Path::new("/run/cox/own").join(path.trim_start_matches('/').replace('/', "-"));
    let (upper, work) = (base.join("upper"), base.join("work"));
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&work)?;
    let options =
        CString::new(format!("lowerdir={path},upperdir={},workdir={}", upper.display(), work.display()))?;
    mount("overlay", path, "overlay", MountFlags::empty(), options.as_c_str()).with_context(|| {
        format!("cannot lay an overlay over {path}; does this kernel have overlayfs, and is it allowed here?")
    })
}

/// The machine's resolvers, where those in `/etc/resolv.conf` only answer on the machine itself.
fn resolvers() -> Option<String> {
    let text = fs::read_to_string("/etc/resolv.conf").ok()?;
    let local = |line: &str| {
        line.trim()
            .strip_prefix("nameserver")
            .is_some_and(|a| a.trim().parse::<std::net::IpAddr>().is_ok_and(|a| a.is_loopback()))
    };
    if text.lines().any(local) {
        let real = fs::read_to_string("/run/systemd/resolve/resolv.conf").ok();
        return Some(
            real.unwrap_or_else(|| text.lines().filter(|l| !local(l)).map(|l| format!("{l}\n")).collect()),
        );
    }
    // One that is a link into `/run` would be gone.
    fs::symlink_metadata("/etc/resolv.conf").is_ok_and(|m| m.is_symlink()).then_some(text)
}

/// Mounts `/sys` anew: it shows the host's own links, and the cgroup tree from the host's own group down.
fn cgroups(hierarchies: &[Hierarchy]) -> anyhow::Result<()> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo")?;
    for point in crate::down::mounts_below(&mountinfo, Path::new("/sys")) {
        match unmount(&point, UnmountFlags::DETACH) {
            Err(e) if !matches!(e, rustix::io::Errno::INVAL | rustix::io::Errno::NOENT) => {
                return Err(io::Error::from(e))
                    .with_context(|| format!("cannot unmount {}", point.display()));
            }
            _ => {}
        }
    }
    let none = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("sysfs", "/sys", "sysfs", none, None).context("cannot mount /sys")?;
    let root = Path::new("/sys/fs/cgroup");
    if !hierarchies.iter().any(|h| h.at == root) {
        let options = CString::new("mode=755")?;
        mount("cgroup", root, "tmpfs", none, options.as_c_str()).context("cannot mount /sys/fs/cgroup")?;
    }
    for hierarchy in hierarchies.iter().filter(|h| h.at.starts_with(root)) {
        let at = &hierarchy.at;
        if at != root {
            fs::create_dir_all(at)?;
        }
        let mounted = match &hierarchy.options {
            None => mount("cgroup2", at, "cgroup2", none, None),
            Some(options) => {
                let options = CString::new(options.as_str())?;
                mount("cgroup", at, "cgroup", none, options.as_c_str())
            }
        };
        mounted.with_context(|| format!("cannot mount the cgroups at {}", at.display()))?;
        // `cpu` leads to `cpu,cpuacct`, as everywhere.
        let name = at.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.contains(',') {
            for part in name.split(',') {
                let _ = std::os::unix::fs::symlink(&name, root.join(part));
            }
        }
    }
    Ok(())
}

/// The directories of a cgroup in every hierarchy, made where they are missing; ready for processes.
pub(super) fn make_cgroup(hierarchies: &[Hierarchy], cgroup: &str) -> io::Result<Vec<PathBuf>> {
    let mut all = Vec::new();
    for hierarchy in hierarchies {
        let mut directory = hierarchy.at.clone();
        for part in cgroup.split('/').filter(|p| !p.is_empty()) {
            if hierarchy.options.is_none() {
                delegate(&directory);
            }
            let parent = directory.clone();
            directory.push(part);
            match fs::create_dir(&directory) {
                Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
                _ => {}
            }
            // Without processors and memory it takes no process.
            for file in ["cpuset.cpus", "cpuset.mems"] {
                let own = directory.join(file);
                if fs::read_to_string(&own).is_ok_and(|text| text.trim().is_empty()) {
                    let inherited = fs::read_to_string(parent.join(file)).unwrap_or_default();
                    let _ = fs::write(own, inherited.trim());
                }
            }
        }
        all.push(directory);
    }
    Ok(all)
}

/// Lets children of a cgroup of the unified hierarchy have its controllers, as far as the kernel allows.
pub(super) fn delegate(directory: &Path) {
    let controllers = fs::read_to_string(directory.join("cgroup.controllers")).unwrap_or_default();
    for controller in controllers.split_whitespace() {
        let _ = fs::write(directory.join("cgroup.subtree_control"), format!("+{controller}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_keep_what_tells_them_apart() {
        let text = "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n\
                    32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                    40 31 0:37 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,release_agent=/x,name=systemd\n\
                    41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw,nsdelegate\n";
        let at = |name: &str, options: Option<&str>| Hierarchy {
            at: Path::new("/sys/fs/cgroup").join(name),
            options: options.map(str::to_owned),
        };
        assert_eq!(
            hierarchies(text),
            [
                at("cpu,cpuacct", Some("cpu,cpuacct")),
                at("systemd", Some("none,name=systemd")),
                at("unified", None),
            ]
        );
    }
}
