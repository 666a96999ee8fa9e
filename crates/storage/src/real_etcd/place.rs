//! Where members keep their data and logs.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A file system in memory: what tests kill is a process, so nothing has to reach a disk, and a disk that is slow for
/// a while cannot make members fail each other.
const MEMORY: &str = "/dev/shm";
/// What has to be free there: etcd takes 128 MB for a log ahead of time.
const FREE_BYTES: u64 = 4 << 30;
const PREFIX: &str = "cox-test-etcd-";
/// The lines of a log that are told about a failure.
const LAST: usize = 15;

/// The directories of the members of one etcd.
pub(super) struct Place {
    logs: PathBuf,
    data: PathBuf,
    /// Whether `data` is not the caller's to remove.
    own: bool,
}

impl Place {
    pub(super) fn new(dir: &Path) -> Self {
        let own = in_memory();
        Self { logs: dir.to_owned(), data: own.clone().unwrap_or_else(|| dir.to_owned()), own: own.is_some() }
    }

    pub(super) fn data(&self, member: usize) -> PathBuf {
        self.data.join(format!("m{member}"))
    }

    fn log_path(&self, member: usize) -> PathBuf {
        self.logs.join(format!("m{member}.log"))
    }

    pub(super) fn log(&self, member: usize) -> File {
        File::options().create(true).append(true).open(self.log_path(member)).expect("a log file")
    }

    /// The end of a member's log.
    pub(super) fn last_words(&self, member: usize) -> String {
        let text = fs::read(self.log_path(member)).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST)..].join("\n  ");
        format!("\nmember {member} said last:\n  {last}")
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.own {
            let _ = fs::remove_dir_all(&self.data);
        }
    }
}

/// A directory in memory, where there is plenty of it.
fn in_memory() -> Option<PathBuf> {
    static NUMBER: AtomicUsize = AtomicUsize::new(0);
    let status = rustix::fs::statvfs(MEMORY).ok()?;
    let available = fs::read_to_string("/proc/meminfo").ok()?;
    let available = available.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let available: u64 = available.trim().trim_end_matches(" kB").parse().ok()?;
    if status.f_bavail * status.f_frsize < FREE_BYTES || available * 1024 < FREE_BYTES {
        return None;
    }
    forget_the_dead();
    let number = NUMBER.fetch_add(1, Ordering::Relaxed);
    let dir = Path::new(MEMORY).join(format!("{PREFIX}{}-{number}", process::id()));
    fs::create_dir(&dir).ok()?;
    Some(dir)
}

/// Removes what processes left that were killed.
fn forget_the_dead() {
    for entry in fs::read_dir(MEMORY).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let owner = name.to_str().and_then(|name| name.strip_prefix(PREFIX)?.split('-').next());
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            // Another test may be at it too.
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}
