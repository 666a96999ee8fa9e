//! The data directory: one process at a time, one format, log files and snapshots by number.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use tracing::info;

use super::OpenError;
use super::frame::{FileKind, OLDEST, VERSION};

const LOCK: &str = "LOCK";
pub(super) const FORMAT: &str = "FORMAT";
const FORMAT_WORDS: &str = "coxswain-storage ";
/// What is not complete yet ends so.
const TEMPORARY: &str = ".tmp";

/// A data directory that this process alone holds.
#[derive(Debug)]
pub(super) struct Dir {
    path: PathBuf,
    lock: File,
    /// The version of the format it was last opened with.
    format: u32,
}

impl Drop for Dir {
    fn drop(&mut self) {
        // Closing alone would not do: a child that is just being started still has the file open for a moment.
        let _ = flock(&self.lock, FlockOperation::Unlock);
    }
}

/// The numbers of the files in a data directory, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Files {
    pub logs: Vec<u64>,
    pub snapshots: Vec<u64>,
    /// What was never completed, or is being made right now.
    pub leftovers: Vec<PathBuf>,
}

impl Dir {
    /// Opens or makes a data directory and locks it.
    pub(super) fn open(path: &Path) -> Result<Self, OpenError> {
        let io = |action| move |source| OpenError::Io { action, path: path.to_owned(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(io("create"))?;
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(io("set the mode of"))?;
        let lock = lock(path)?;
        let mut dir = Self { path: path.to_owned(), lock, format: VERSION };
        match format(path)? {
            Some(version) => dir.format = version,
            None => dir.write_format()?,
        }
        Ok(dir)
    }

    /// Locks a directory without looking into it: what is there may be damaged.
    pub(super) fn hold(path: &Path) -> Result<Self, OpenError> {
        Ok(Self { path: path.to_owned(), lock: lock(path)?, format: VERSION })
    }

    pub(super) fn path(&self, kind: FileKind, number: u64) -> PathBuf {
        path_of(&self.path, kind, number)
    }

    /// Creates a file for writing.
    pub(super) fn create(&self, path: &Path) -> io::Result<File> {
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
    }

    /// Where a file is built before it gets its name.
    pub(super) fn temporary(&self, path: &Path) -> PathBuf {
        let mut name = path.as_os_str().to_owned();
        name.push(TEMPORARY);
        name.into()
    }

    /// Makes the names in the directory durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.path)?.sync_all()
    }

    pub(super) fn remove(&self, kind: FileKind, number: u64) -> io::Result<()> {
        fs::remove_file(self.path(kind, number))
    }

    /// Lists the files and removes what a crash left half made.
    pub(super) fn files(&self) -> Result<Files, OpenError> {
        let files = list(&self.path)?;
        for path in &files.leftovers {
            fs::remove_file(path).map_err(|source| OpenError::Io {
                action: "remove",
                path: path.clone(),
                source,
            })?;
        }
        Ok(files)
    }

    /// Says that the directory has the present format from now on, before the first file of it is made.
    pub(super) fn upgrade(&mut self) -> Result<(), OpenError> {
        if self.format != VERSION {
            self.write_format()?;
            info!(from = self.format, to = VERSION, path = %self.path.display(), "data directory migrated");
            self.format = VERSION;
        }
        Ok(())
    }

    fn write_format(&self) -> Result<(), OpenError> {
        let path = self.path.join(FORMAT);
        let io = |action| {
            let path = path.clone();
            move |source| OpenError::Io { action, path, source }
        };
        let temporary = self.temporary(&path);
        let mut file = self.create(&temporary).map_err(io("create"))?;
        file.write_all(format!("{FORMAT_WORDS}{VERSION}\n").as_bytes()).map_err(io("write"))?;
        file.sync_all().map_err(io("sync"))?;
        fs::rename(&temporary, &path).map_err(io("rename to"))?;
        self.sync().map_err(io("sync the directory of"))
    }
}

/// The name of a file in a data directory.
pub(super) fn path_of(dir: &Path, kind: FileKind, number: u64) -> PathBuf {
    let end = match kind {
        FileKind::Log => "log",
        FileKind::Snapshot => "snapshot",
        FileKind::Backup => "backup",
    };
    dir.join(format!("{number:016}.{end}"))
}

/// Lists the files of a data directory.
pub(super) fn list(dir: &Path) -> Result<Files, OpenError> {
    let io = |source| OpenError::Io { action: "list", path: dir.to_owned(), source };
    let mut files = Files::default();
    for entry in fs::read_dir(dir).map_err(io)? {
        let entry = entry.map_err(io)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        if name.ends_with(TEMPORARY) {
            files.leftovers.push(entry.path());
            continue;
        }
        let Some((number, end)) = name.split_once('.') else { continue };
        let Ok(number) = number.parse() else { continue };
        match end {
            "log" => files.logs.push(number),
            "snapshot" => files.snapshots.push(number),
            _ => {}
        }
    }
    files.logs.sort_unstable();
    files.snapshots.sort_unstable();
    Ok(files)
}

/// The version of the format of a data directory; `None`: it has nothing in it yet.
pub(super) fn format(dir: &Path) -> Result<Option<u32>, OpenError> {
    let path = dir.join(FORMAT);
    match fs::read_to_string(&path) {
        Ok(text) => {
            let found = text.trim().strip_prefix(FORMAT_WORDS).unwrap_or("unknown").to_owned();
            match found.parse() {
                Ok(version) if (OLDEST..=VERSION).contains(&version) => Ok(Some(version)),
                _ => Err(OpenError::OtherVersion { path, found }),
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let files = list(dir)?;
            if files.logs.is_empty() && files.snapshots.is_empty() {
                Ok(None)
            } else {
                Err(OpenError::Missing { path })
            }
        }
        Err(source) => Err(OpenError::Io { action: "read", path, source }),
    }
}

fn lock(dir: &Path) -> Result<File, OpenError> {
    let path = dir.join(LOCK);
    let io = |action| {
        let path = path.clone();
        move |source| OpenError::Io { action, path, source }
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(io("open"))?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(rustix::io::Errno::WOULDBLOCK) => {
            let mut holder = String::new();
            // The holder may be about to write its number; then there is none to tell.
            let _ = file.take(32).read_to_string(&mut holder);
            return Err(OpenError::Locked { path: dir.to_owned(), pid: holder.trim().parse().ok() });
        }
        Err(error) => return Err(io("lock")(error.into())),
    }
    file.set_len(0).map_err(io("write"))?;
    file.write_all(format!("{}\n", std::process::id()).as_bytes()).map_err(io("write"))?;
    Ok(file)
}
