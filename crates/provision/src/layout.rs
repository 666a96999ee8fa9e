//! Where a cluster's files lie on a host: everything below one directory.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
};

use crate::files;

/// The form of the data directory that this build reads and writes.
const FORMAT: u32 = 1;
/// The kernel's limit for a socket's path, less the suffix of containerd's second socket.
const LONGEST_SOCKET: usize = 107 - ".ttrpc".len();

/// A data directory that cannot be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LayoutError {
    /// The cluster's name would make a bad file or link name.
    #[error(
        "bad cluster name {0:?}: use at most 32 of a-z, 0-9 and '-', beginning and ending with a letter or digit"
    )]
    Name(String),
    /// The directory is too deep for sockets below it.
    #[error(
        "the data directory {} is too long a path: sockets below it may have {LONGEST_SOCKET} bytes; choose a shorter --data-dir",
        .0.display()
    )]
    TooLong(PathBuf),
    /// The path is not absolute.
    #[error("the data directory {} is not an absolute path", .0.display())]
    Relative(PathBuf),
    /// Another release wrote the directory.
    #[error(
        "{} was written in format {found}, and this build of cox knows format {FORMAT}; use the build that made it, \
         or another --data-dir, or remove it with `cox down --purge`",
        path.display()
    )]
    Format {
        /// The cluster's directory.
        path: PathBuf,
        /// What its format file says.
        found: String,
    },
    /// The directory holds something else.
    #[error("{} is not empty and not a data directory of cox; choose another --data-dir", .0.display())]
    Foreign(PathBuf),
    /// Another cox is at work on the cluster.
    #[error("another cox command is working on cluster {name:?}; wait for it to end")]
    Busy {
        /// The cluster.
        name: String,
    },
    /// The disk refused.
    #[error("cannot {step} {}{}", path.display(), hint(source))]
    Io {
        /// What was tried.
        step: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        #[source]
        source: io::Error,
    },
}

fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::PermissionDenied => "; are you root?",
        io::ErrorKind::StorageFull => "; the disk is full",
        io::ErrorKind::ReadOnlyFilesystem => "; choose a --data-dir that can be written",
        _ => "",
    }
}

/// The directory of one cluster: `{data}/{name}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    name: String,
    root: PathBuf,
}

/// Held while a command changes the cluster's host state; others are refused meanwhile.
#[derive(Debug)]
pub struct LayoutLock {
    _file: File,
}

impl Layout {
    /// Where data lies if nobody says otherwise.
    pub const DEFAULT_DATA_DIR: &'static str = "/var/lib/cox";
    /// The cluster's name if nobody says otherwise.
    pub const DEFAULT_NAME: &'static str = "default";

    /// Names the directories of a cluster; touches nothing.
    pub fn new(data_dir: &Path, name: &str) -> Result<Self, LayoutError> {
        let edge = |b: Option<u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
        let inner = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if !inner || name.len() > 32 || !edge(name.bytes().next()) || !edge(name.bytes().last()) {
            return Err(LayoutError::Name(name.to_owned()));
        }
        if !data_dir.is_absolute() {
            return Err(LayoutError::Relative(data_dir.to_owned()));
        }
        let layout = Self { name: name.to_owned(), root: data_dir.join(name) };
        if layout.containerd_socket().as_os_str().len() > LONGEST_SOCKET {
            return Err(LayoutError::TooLong(data_dir.to_owned()));
        }
        Ok(layout)
    }

    /// Makes the directories, private to root where secrets may lie; refuses what another release wrote.
    ///
    /// After a reboot it empties `run`, which holds nothing that outlives the kernel.
    pub fn prepare(&self) -> Result<(), LayoutError> {
        self.check_format()?;
        let make = |path: &Path, mode| {
            fs::DirBuilder::new().recursive(true).mode(mode).create(path).map_err(io("create", path))
        };
        make(&self.root, 0o755)?;
        let format = self.format_file();
        files::write_if_changed(&format, format!("{FORMAT}\n").as_bytes(), 0o644)
            .map_err(io("write", &format))?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let boot_file = self.run().join("boot-id");
        if fs::read_to_string(&boot_file).is_ok_and(|found| found != boot) {
            let run = self.run();
            fs::remove_dir_all(&run).map_err(io("empty", &run))?;
        }
        for (path, mode) in [
            (self.pki(), 0o700),
            (self.kubeconfigs(), 0o700),
            (self.db(), 0o700),
            (self.kubelet(), 0o755),
            (self.containerd_root(), 0o711),
            (self.cni_conf(), 0o755),
            (self.cni_ipam(), 0o755),
            (self.run(), 0o711),
            (self.logs(), 0o755),
            (self.pod_logs(), 0o755),
        ] {
            make(&path, mode)?;
        }
        files::write_if_changed(&boot_file, boot.as_bytes(), 0o644).map_err(io("write", &boot_file))?;
        Ok(())
    }

    /// Whether the directory is there and of this release's format; refuses any other.
    pub fn exists(&self) -> Result<bool, LayoutError> {
        self.check_format()?;
        Ok(self.format_file().exists())
    }

    /// Whether [`Self::prepare`] has nothing left to do.
    pub fn is_prepared(&self) -> bool {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        matches!(self.exists(), Ok(true))
            && fs::read_to_string(self.run().join("boot-id")).is_ok_and(|found| found == boot)
            && self.pod_logs().is_dir()
    }

    fn check_format(&self) -> Result<(), LayoutError> {
        let file = self.format_file();
        match fs::read(&file) {
            Ok(found) => {
                let found = String::from_utf8_lossy(&found).trim().to_owned();
                if found == FORMAT.to_string() {
                    Ok(())
                } else {
                    let found = found.chars().take(40).collect();
                    Err(LayoutError::Format { path: self.root.clone(), found })
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => match fs::read_dir(&self.root) {
                // The lock is made before the rest, and a crash may leave it alone there.
                Ok(entries) => {
                    let foreign = entries.flatten().any(|e| e.file_name() != "lock");
                    if foreign { Err(LayoutError::Foreign(self.root.clone())) } else { Ok(()) }
                }
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                Err(error) => Err(io("read", &self.root)(error)),
            },
            Err(error) => Err(io("read", &file)(error)),
        }
    }

    /// Keeps other cox commands off this cluster until the lock is dropped.
    pub fn lock(&self) -> Result<LayoutLock, LayoutError> {
        fs::create_dir_all(&self.root).map_err(io("create", &self.root))?;
        let path = self.root.join("lock");
        let file = fs::OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(io("open", &path))?;
        match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(LayoutLock { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(LayoutError::Busy { name: self.name.clone() }),
            Err(error) => Err(io("lock", &path)(error.into())),
        }
    }

    /// The clusters that have a directory below `data_dir`, sorted by name.
    pub fn all(data_dir: &Path) -> Vec<Self> {
        let mut all: Vec<Self> = fs::read_dir(data_dir)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|e| Self::new(data_dir, e.file_name().to_str()?).ok())
            .filter(|l| l.format_file().exists())
            .collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    /// The cluster's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The cluster's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    fn format_file(&self) -> PathBuf {
        self.root.join("format")
    }

    /// Certificates and keys.
    pub fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }

    /// Kubeconfigs.
    pub fn kubeconfigs(&self) -> PathBuf {
        self.root.join("kubeconfig")
    }

    /// How the API server seals secrets, with the key: apart from what it seals, so that a copy of the storage alone
    /// tells nothing.
    pub fn encryption_config(&self) -> PathBuf {
        self.root.join("encryption").join("config.yaml")
    }

    /// The API server's storage.
    pub fn db(&self) -> PathBuf {
        self.root.join("db")
    }

    /// The kubelet's root directory: volumes, plugins, checkpoints.
    pub fn kubelet(&self) -> PathBuf {
        self.root.join("kubelet")
    }

    /// Images and containers.
    pub fn containerd_root(&self) -> PathBuf {
        self.root.join("containerd")
    }

    /// Where containerd reads its configuration.
    pub fn containerd_config(&self) -> PathBuf {
        self.root.join("containerd").join("config.toml")
    }

    /// What containerd keeps while it and its containers run.
    pub fn containerd_state(&self) -> PathBuf {
        self.run().join("containerd")
    }

    /// Where containerd listens.
    pub fn containerd_socket(&self) -> PathBuf {
        self.containerd_state().join("containerd.sock")
    }

    /// Where containerd reads the network configuration.
    pub fn cni_conf(&self) -> PathBuf {
        self.root.join("cni").join("net.d")
    }

    /// Where `host-local` keeps its reservations.
    pub fn cni_ipam(&self) -> PathBuf {
        self.root.join("cni").join("ipam")
    }

    /// Name of the pod network, different for each cluster of a host.
    pub fn cni_network(&self) -> String {
        format!("cox-{}", self.name)
    }

    /// Cgroup that all pods of the cluster are below.
    pub fn cgroup_root(&self) -> String {
        format!("/cox-{}", self.name)
    }

    /// Sockets, process records: nothing that outlives a boot.
    pub fn run(&self) -> PathBuf {
        self.root.join("run")
    }

    /// The record of a process of that name.
    pub fn process_record(&self, name: &str) -> PathBuf {
        self.run().join(format!("{name}.process"))
    }

    /// Logs of the cluster's own processes.
    pub fn logs(&self) -> PathBuf {
        self.root.join("logs")
    }

    /// Logs of containers.
    pub fn pod_logs(&self) -> PathBuf {
        self.logs().join("pods")
    }

    /// What of the host was changed, for [`crate::down`] to put back.
    pub fn host_changes(&self) -> PathBuf {
        self.root.join("host-changes")
    }
}

fn io<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> LayoutError + use<'a> {
    move |source| LayoutError::Io { step, path: path.to_owned(), source }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn names_are_checked() {
        let check = |name: &str, good: bool| {
            assert_eq!(Layout::new(Path::new("/d"), name).is_ok(), good, "{name}");
        };
        check("default", true);
        check("a", true);
        check("ci-42", true);
        for bad in ["", "-a", "a-", "A", "a/b", "..", "a b", &"a".repeat(33)] {
            check(bad, false);
        }
    }

    #[test]
    fn a_path_too_long_for_sockets_is_refused() {
        let deep = PathBuf::from(format!("/{}", "d".repeat(80)));
        assert!(matches!(Layout::new(&deep, "default"), Err(LayoutError::TooLong(_))));
        assert!(matches!(Layout::new(Path::new("d"), "default"), Err(LayoutError::Relative(_))));
    }

    #[test]
    fn prepares_once_and_keeps_secrets_private() {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = Layout::new(dir.path(), "home").expect("a layout");
        assert!(!layout.exists().expect("readable"));
        layout.prepare().expect("made");
        assert!(layout.is_prepared());
        layout.prepare().expect("made again");
        for private in [layout.pki(), layout.kubeconfigs(), layout.db()] {
            assert_eq!(fs::metadata(&private).expect("there").permissions().mode() & 0o777, 0o700);
        }
        assert_eq!(Layout::all(dir.path()), [layout]);
    }

    #[test]
    fn another_format_is_refused_and_left_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = Layout::new(dir.path(), "home").expect("a layout");
        layout.prepare().expect("made");
        fs::write(layout.format_file(), "7\n").expect("written");
        let error = layout.prepare().expect_err("refused");
        assert!(matches!(&error, LayoutError::Format { found, .. } if found == "7"));
        assert!(error.to_string().contains("format 7"), "{error}");
        assert_eq!(fs::read_to_string(layout.format_file()).expect("there"), "7\n");
        assert!(!layout.is_prepared());
    }

    #[test]
    fn a_directory_of_something_else_is_refused() {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = Layout::new(dir.path(), "home").expect("a layout");
        fs::create_dir(layout.root()).expect("made");
        fs::write(layout.root().join("diary.txt"), "dear").expect("written");
        assert!(matches!(layout.prepare(), Err(LayoutError::Foreign(_))));
    }

    #[test]
    fn a_new_boot_empties_run_alone() {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = Layout::new(dir.path(), "home").expect("a layout");
        layout.prepare().expect("made");
        fs::write(layout.run().join("stale"), "").expect("written");
        fs::write(layout.db().join("data"), "").expect("written");
        layout.prepare().expect("same boot");
        assert!(layout.run().join("stale").exists());
        fs::write(layout.run().join("boot-id"), "another\n").expect("written");
        assert!(!layout.is_prepared());
        layout.prepare().expect("new boot");
        assert!(!layout.run().join("stale").exists());
        assert!(layout.db().join("data").exists());
    }

    #[test]
    fn one_command_at_a_time() {
        let dir = tempfile::tempdir().expect("a directory");
        let layout = Layout::new(dir.path(), "home").expect("a layout");
        let held = layout.lock().expect("free");
        assert!(matches!(layout.lock(), Err(LayoutError::Busy { .. })));
        drop(held);
        layout.lock().expect("free again");
        layout.prepare().expect("a lock alone is no foreign directory");
    }
}
