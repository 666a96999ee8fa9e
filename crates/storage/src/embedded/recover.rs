//! Opening: the newest snapshot, then the log behind it, up to the last whole group of writes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::{info, warn};

use super::dir::{Dir, path_of};
use super::frame::{self, FileKind, FileSource, FrameReader, Header, Next, Opened, Source, VERSION};
use super::index::{Change, Index, Version};
use super::lease_table::LeaseTable;
use super::log::Log;
use super::record::{Record, Records};
use super::snapshot::{self, LIMIT, Loaded};
use super::{OpenError, Options, bound_history};

/// What was on the disk.
pub(super) struct Recovered {
    pub index: Index,
    pub leases: LeaseTable,
    pub log: Log,
    pub next_frame: u64,
    /// The bytes of log behind the snapshot, in files before the one that is written now.
    pub earlier_bytes: u64,
    /// The number of the first log file that is needed.
    pub first_log: u64,
}

/// Reads a data directory.
pub(super) fn recover(dir: &mut Dir, options: &Options) -> Result<Recovered, OpenError> {
    let files = dir.files()?;
    let now = Instant::now();
    let (first, mut state) = match files.snapshots.last() {
        Some(number) => {
            let path = dir.path(FileKind::Snapshot, *number);
            let source = frame::open(&path).map_err(cannot_read(&path))?;
            (*number, State::from(snapshot::load(source, &path, FileKind::Snapshot, *number, now)?, now))
        }
        None => (1, State::empty(now)),
    };
    let logs = state
        .logs(first, &files.logs, !files.snapshots.is_empty(), |number| dir.path(FileKind::Log, number))?;
    let mut earlier_bytes = 0;
    let mut end = None;
    for number in &logs {
        let path = dir.path(FileKind::Log, *number);
        let source = frame::open(&path).map_err(cannot_read(&path))?;
        let last = logs.last() == Some(number);
        let keep = Keep::History(options);
        let replayed = state.replay(source, &path, *number, keep)?;
        match replayed.expected(&path, last, files.snapshots.contains(number))? {
            Replayed::NoHeader => {}
            Replayed::Torn { header, offset } => {
                info!(offset, number, "cut what a crash left unfinished at the end of the log");
                end = Some((header, offset));
            }
            Replayed::Whole { header, size } if last => end = Some((header, size)),
            Replayed::Whole { size, .. } => earlier_bytes += size,
        }
    }
    dir.upgrade()?;
    let create = |number| {
        Log::create(dir, number, state.next_frame, options.sync).map_err(|source| OpenError::Io {
            action: "create",
            path: dir.path(FileKind::Log, number),
            source,
        })
    };
    let log = match end {
        Some((header, end)) => {
            let log = Log::resume(dir, header, end, options.sync)?;
            if header.version == VERSION {
                log
            } else {
                // A file keeps the version that it began with.
                earlier_bytes += log.len();
                create(header.number + 1)?
            }
        }
        None => create(logs.last().copied().unwrap_or(first))?,
    };
    for (kind, numbers) in [(FileKind::Log, &files.logs), (FileKind::Snapshot, &files.snapshots)] {
        for number in numbers.iter().filter(|number| **number < first) {
            if let Err(error) = dir.remove(kind, *number) {
                warn!(number, %error, "cannot remove a file that a snapshot has replaced");
            }
        }
    }
    let State { index, leases, next_frame, .. } = state;
    Ok(Recovered { index, leases, log, next_frame, earlier_bytes, first_log: first })
}

pub(super) fn cannot_read(path: &Path) -> impl FnOnce(std::io::Error) -> OpenError {
    move |source| OpenError::Io { action: "read", path: path.to_owned(), source }
}

/// The first number missing from a run that begins with `first`.
fn missing(first: u64, numbers: &[u64]) -> Option<u64> {
    let gap = (first..).zip(numbers).find(|(expected, number)| expected != *number);
    gap.map(|(expected, _)| expected).or(numbers.is_empty().then_some(first))
}

/// What the files read so far say.
pub(super) struct State {
    pub index: Index,
    pub leases: LeaseTable,
    pub next_frame: u64,
    now: Instant,
}

/// What to keep besides the newest version of each key.
#[derive(Clone, Copy)]
pub(super) enum Keep<'a> {
    History(&'a Options),
    Nothing,
}

/// How a log file ended.
#[derive(Debug)]
pub(super) enum Replayed {
    NoHeader,
    Torn { header: Header, offset: u64 },
    Whole { header: Header, size: u64 },
}

impl Replayed {
    /// Whether a log may end so, by its place among the files.
    pub(super) fn expected(self, path: &Path, last: bool, has_snapshot: bool) -> Result<Self, OpenError> {
        let corrupt = |offset, reason| OpenError::Corrupt { path: path.to_owned(), offset, reason };
        match self {
            // Its snapshot was made after the file: what is missing was lost later.
            Self::NoHeader if !last || has_snapshot => Err(corrupt(0, "the header is missing")),
            Self::Torn { offset, .. } if !last => {
                Err(corrupt(offset, "the log goes on in the next file, but this one has no whole end"))
            }
            fine => Ok(fine),
        }
    }
}

impl State {
    pub(super) fn empty(now: Instant) -> Self {
        Self { index: Index::new(1, 1), leases: LeaseTable::new(1), next_frame: 0, now }
    }

    pub(super) fn from(loaded: Loaded, now: Instant) -> Self {
        Self { index: loaded.index, leases: loaded.leases, next_frame: loaded.next_frame, now }
    }

    /// The numbers of the logs from `first` on; all of them have to be there.
    pub(super) fn logs(
        &self,
        first: u64,
        all: &[u64],
        has_snapshot: bool,
        path: impl FnOnce(u64) -> PathBuf,
    ) -> Result<Vec<u64>, OpenError> {
        let logs: Vec<u64> = all.iter().copied().filter(|number| *number >= first).collect();
        let fresh = all.is_empty() && !has_snapshot;
        match missing(first, &logs).filter(|_| !fresh) {
            Some(missing) => Err(OpenError::Missing { path: path(missing) }),
            None => Ok(logs),
        }
    }

    /// Reads a log to its end.
    pub(super) fn replay<S: Source>(
        &mut self,
        source: (S, u64),
        path: &Path,
        number: u64,
        keep: Keep<'_>,
    ) -> Result<Replayed, OpenError> {
        let mut reader: FrameReader<S> = match frame::read(source, path, FileKind::Log, number)? {
            Opened::Reader(reader) => reader,
            Opened::Torn => return Ok(Replayed::NoHeader),
        };
        let header = *reader.header();
        if header.frame != self.next_frame {
            return Err(reader.corrupt("writes are missing before this file"));
        }
        loop {
            match reader.next()? {
                Next::End => {
                    self.next_frame = reader.next_number();
                    return Ok(Replayed::Whole { header, size: reader.offset() });
                }
                Next::Torn { offset } => {
                    self.next_frame = reader.next_number();
                    return Ok(Replayed::Torn { header, offset });
                }
                Next::Frame(payload) => {
                    if self.apply(payload).is_none() {
                        return Err(reader.corrupt("a group of writes says what no writer writes"));
                    }
                    match keep {
                        Keep::History(options) => bound_history(&mut self.index, options),
                        Keep::Nothing => self.index.compact(u64::MAX),
                    }
                    self.index.sweep(usize::MAX);
                }
            }
        }
    }

    fn apply(&mut self, payload: &[u8]) -> Option<()> {
        let mut records = Records::new(payload);
        let compacted = records.compacted()?;
        while let Some(record) = records.next().ok()? {
            match record {
                Record::Put { revision, lease, key, value } => {
                    let current = self.index.current(key);
                    let key: Arc<str> = current.as_ref().map_or_else(|| key.into(), |kv| kv.key.clone());
                    let version = Version {
                        create: current.as_ref().map_or(revision, |kv| kv.create_revision.0),
                        revision,
                        version: current.map_or(1, |kv| kv.version + 1),
                        lease,
                        value: Some(Bytes::copy_from_slice(value)),
                    };
                    self.change(Change { key, version })?;
                }
                Record::Delete { revision, key } => {
                    let key = self.index.current(key)?.key;
                    self.change(Change {
                        key,
                        version: Version { create: 0, revision, version: 0, lease: None, value: None },
                    })?;
                }
                Record::Grant { lease, ttl_ms } if lease.0 < LIMIT => {
                    self.leases.grant(lease, Duration::from_millis(ttl_ms), self.now);
                }
                Record::Revoke { lease } => self.leases.revoke(lease),
                Record::Left { lease, left_ms } => {
                    self.leases.shorten(lease, Duration::from_millis(left_ms), self.now);
                }
                Record::Grant { .. } | Record::Begin { .. } | Record::Entry { .. } | Record::End { .. } => {
                    return None;
                }
            }
        }
        self.index.compact(compacted);
        Some(())
    }

    fn change(&mut self, change: Change) -> Option<()> {
        if change.version.revision != self.index.revision() + 1 || change.version.revision >= LIMIT {
            return None;
        }
        let (key, lease) = (change.key.clone(), change.version.lease);
        let prev = self.index.apply(change);
        self.leases.moved(&key, prev.and_then(|kv| kv.lease), lease);
        Some(())
    }
}

/// A file and its size.
type OpenFile = (FileSource, u64);

/// Opens the files of a data directory that make up its state, for a look without a lock: the number of the first log,
/// the snapshot, the logs.
pub(super) fn open_all(
    dir: &Path,
    snapshot: Option<u64>,
    logs: &[u64],
) -> Result<(Option<OpenFile>, Vec<OpenFile>), OpenError> {
    let open = |kind, number| {
        let path = path_of(dir, kind, number);
        frame::open(&path).map_err(cannot_read(&path))
    };
    let snapshot = snapshot.map(|number| open(FileKind::Snapshot, number)).transpose()?;
    let logs = logs.iter().map(|number| open(FileKind::Log, *number)).collect::<Result<_, _>>()?;
    Ok((snapshot, logs))
}

#[cfg(test)]
mod tests {
    use super::missing;

    #[test]
    fn a_gap_in_the_files_is_found() {
        assert_eq!(missing(3, &[3, 4, 5]), None);
        assert_eq!(missing(3, &[3, 5]), Some(4));
        assert_eq!(missing(1, &[2]), Some(1));
        assert_eq!(missing(7, &[]), Some(7));
    }
}
