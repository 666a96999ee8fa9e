//! All keys of a store at one revision, for backups, checks and moves: read beside a running server, or from a backup.
//!
//! A data directory is read without a lock. Files in it are only ever appended to, replaced whole, or removed once a
//! newer one stands for them, so whoever opens all that belong together sees the store as it was at one moment: every
//! write that was acknowledged before, and none by halves. When files come and go meanwhile, the look is taken again.

use std::collections::{BTreeSet, HashMap};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::ops::Bound;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::fs::{CWD, RenameFlags, renameat_with};

use super::dir::{self, Files, path_of};
use super::frame::{self, FileKind, HEADER};
use super::index::{Index, Version};
use super::recover::{Keep, Replayed, State, cannot_read, open_all};
use super::snapshot::{self, Contents, LIMIT};
use super::{OpenError, lease_table::LeaseTable};
use crate::{KeyValue, LeaseId, LeaseInfo, Revision};

/// How often a look is taken again while a server replaces files.
const LOOKS: usize = 100;

/// All keys of a store at one revision.
pub struct Image {
    index: Index,
    leases: Vec<LeaseInfo>,
    next_lease: u64,
}

/// What a data directory is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Survey {
    /// The version of its format.
    pub format: u32,
    /// The files that make up the state, with their bytes.
    pub files: Vec<(PathBuf, u64)>,
    /// The bytes of all files, also of those that a newer one stands for.
    pub disk_bytes: u64,
    /// The bytes behind the last whole group of writes: what a crash left, or what is being written right now.
    pub unfinished_bytes: u64,
}

impl Image {
    /// Reads a data directory, whether or not a server runs on it. Changes nothing.
    pub fn read(path: &Path) -> Result<(Self, Survey), OpenError> {
        let mut looks = 0;
        loop {
            let files = dir::list(path)?;
            match Self::look(path, &files) {
                Ok(seen) => return Ok(seen),
                Err(error) => {
                    looks += 1;
                    let now = dir::list(path)?;
                    let same = (&now.logs, &now.snapshots) == (&files.logs, &files.snapshots);
                    if same || looks == LOOKS {
                        return Err(error);
                    }
                }
            }
        }
    }

    fn look(path: &Path, files: &Files) -> Result<(Self, Survey), OpenError> {
        let format = dir::format(path)?.ok_or_else(|| OpenError::Missing { path: path.join(dir::FORMAT) })?;
        let mut survey = Survey { format, ..Survey::default() };
        let now = Instant::now();
        let newest = files.snapshots.last().copied();
        let first = newest.unwrap_or(1);
        let numbers = State::empty(now)
            .logs(first, &files.logs, newest.is_some(), |number| path_of(path, FileKind::Log, number))?;
        // All are opened before the first is read: what is removed meanwhile stays readable.
        let (snapshot, logs) = open_all(path, newest, &numbers)?;
        let mut state = match (newest, snapshot) {
            (Some(number), Some(source)) => {
                let path = path_of(path, FileKind::Snapshot, number);
                survey.files.push((path.clone(), source.1));
                State::from(snapshot::load(source, &path, FileKind::Snapshot, number, now)?, now)
            }
            _ => State::empty(now),
        };
        for (number, source) in numbers.iter().zip(logs) {
            let path = path_of(path, FileKind::Log, *number);
            let bytes = source.1;
            survey.files.push((path.clone(), bytes));
            let replayed = state.replay(source, &path, *number, Keep::Nothing)?;
            let last = numbers.last() == Some(number);
            survey.unfinished_bytes +=
                match replayed.expected(&path, last, files.snapshots.contains(number))? {
                    Replayed::NoHeader => bytes,
                    Replayed::Torn { offset, .. } => bytes - offset,
                    Replayed::Whole { .. } => 0,
                };
        }
        survey.disk_bytes = bytes_of(path)?;
        Ok((Self::from_parts(state.index, &state.leases, now), survey))
    }

    /// Reads a backup, all of it; a backup that is not whole is an error.
    pub fn read_backup(path: &Path) -> Result<Self, OpenError> {
        let source = frame::open(path).map_err(cannot_read(path))?;
        let now = Instant::now();
        if source.1 < HEADER as u64 {
            return Err(OpenError::NoBackup { path: path.to_owned() });
        }
        match snapshot::load(source, path, FileKind::Backup, 0, now) {
            Ok(loaded) => Ok(Self::from_parts(loaded.index, &loaded.leases, now)),
            Err(OpenError::Corrupt { offset: 0, .. }) => Err(OpenError::NoBackup { path: path.to_owned() }),
            Err(OpenError::Corrupt { path, offset, reason }) => {
                Err(OpenError::DamagedBackup { path, offset, reason })
            }
            Err(error) => Err(error),
        }
    }

    /// Puts an image together from what another store holds. Leases get names of ours; a key whose lease is not among
    /// them has none.
    pub fn of(revision: Revision, kvs: Vec<KeyValue>, leases: Vec<LeaseInfo>) -> Self {
        let revision = revision.0.min(LIMIT - 1);
        let mut index = Index::new(revision, revision);
        let names: HashMap<LeaseId, LeaseId> =
            leases.iter().zip(1..).map(|(lease, name)| (lease.id, LeaseId(name))).collect();
        for kv in kvs {
            let version = Version {
                create: kv.create_revision.0,
                revision: kv.mod_revision.0,
                version: kv.version,
                lease: kv.lease.and_then(|lease| names.get(&lease).copied()),
                value: Some(kv.value),
            };
            index.load(kv.key, version);
        }
        let next_lease = leases.len() as u64 + 1;
        let leases =
            leases.into_iter().zip(1..).map(|(lease, name)| LeaseInfo { id: LeaseId(name), ..lease });
        Self { index, leases: leases.collect(), next_lease }
    }

    pub(super) fn from_parts(index: Index, leases: &LeaseTable, now: Instant) -> Self {
        Self { next_lease: leases.next(), leases: leases.all(now).collect(), index }
    }

    /// The revision of the last write.
    pub fn revision(&self) -> Revision {
        Revision(self.index.revision())
    }

    /// The number of keys.
    pub fn len(&self) -> u64 {
        self.index.live_keys()
    }

    /// Whether there are no keys.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The present version of a key.
    pub fn get(&self, key: &str) -> Option<KeyValue> {
        self.index.current(key)
    }

    /// The keys that begin with a prefix, in order.
    pub fn prefix<'a>(&'a self, prefix: &'a str) -> impl Iterator<Item = KeyValue> + 'a {
        self.index.live_from(Bound::Included(prefix)).take_while(move |kv| kv.key.starts_with(prefix))
    }

    /// The leases, the one that ends first at the front.
    pub fn leases(&self) -> &[LeaseInfo] {
        &self.leases
    }

    /// What is whole by its checksums and still cannot be right, in words.
    pub fn problems(&self) -> Vec<String> {
        let known: BTreeSet<LeaseId> = self.leases.iter().map(|lease| lease.id).collect();
        let mut problems = Vec::new();
        for kv in self.prefix("") {
            if kv.mod_revision > self.revision() || kv.create_revision > kv.mod_revision {
                problems.push(format!("{} has revision {} of {}", kv.key, kv.mod_revision, self.revision()));
            }
            if let Some(lease) = kv.lease.filter(|lease| !known.contains(lease)) {
                problems.push(format!("{} has the lease {lease}, which is not there", kv.key));
            }
        }
        problems
    }

    /// Writes a backup: durable and whole under its name, or not there. Only its owner can read it. Tells its size;
    /// `written` is told the number of keys so far.
    pub fn write_backup(
        &self,
        path: &Path,
        replace: bool,
        written: &mut dyn FnMut(u64),
    ) -> Result<u64, OpenError> {
        let io = |action| move |source| OpenError::Io { action, path: path.to_owned(), source };
        let mut name = path.as_os_str().to_owned();
        name.push(format!(".{}.tmp", std::process::id()));
        let temporary = PathBuf::from(name);
        let made = (|| {
            let mut options = OpenOptions::new();
            let file = options
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&temporary)
                .map_err(io("create a file beside"))?;
            let size =
                self.write_to(file, FileKind::Backup, 0, 0, self.revision(), written).map_err(io("write"))?;
            let flags = if replace { RenameFlags::empty() } else { RenameFlags::NOREPLACE };
            renameat_with(CWD, &temporary, CWD, path, flags)
                .map_err(|errno| io("give a backup the name")(errno.into()))?;
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            File::open(parent).and_then(|parent| parent.sync_all()).map_err(io("sync the directory of"))?;
            Ok(size)
        })();
        if made.is_err() {
            let _ = fs::remove_file(&temporary);
        }
        made
    }

    /// Writes the keys to a file, as of a revision that is not below theirs.
    pub(super) fn write_to(
        &self,
        file: File,
        kind: FileKind,
        number: u64,
        next_frame: u64,
        revision: Revision,
        written: &mut dyn FnMut(u64),
    ) -> io::Result<u64> {
        let contents = Contents {
            number,
            next_frame,
            revision: revision.0,
            next_lease: self.next_lease,
            leases: self.leases.clone(),
        };
        snapshot::write_index(file, kind, &contents, &self.index, written)
    }
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Image")
            .field("revision", &self.revision().0)
            .field("keys", &self.len())
            .field("leases", &self.leases.len())
            .finish()
    }
}

fn bytes_of(dir: &Path) -> Result<u64, OpenError> {
    let io = |source| OpenError::Io { action: "list", path: dir.to_owned(), source };
    let mut bytes = 0;
    for entry in fs::read_dir(dir).map_err(io)? {
        // A file may go between the listing and the look at it.
        bytes += entry.map_err(io)?.metadata().map_or(0, |metadata| metadata.len());
    }
    Ok(bytes)
}
