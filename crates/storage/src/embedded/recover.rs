//! Opening: the newest snapshot, then the log behind it, up to the last whole group of writes.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tracing::{info, warn};

use super::dir::Dir;
use super::frame::{FileKind, FrameReader, Header, Next, Opened};
use super::index::{Change, Index, Version};
use super::lease_table::LeaseTable;
use super::log::Log;
use super::record::{Record, Records};
use super::{OpenError, Options, bound_history, snapshot};

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
pub(super) fn recover(dir: &Dir, options: &Options) -> Result<Recovered, OpenError> {
    let files = dir.files()?;
    let now = Instant::now();
    let (first, mut state) = match files.snapshots.last() {
        Some(number) => {
            let loaded = snapshot::load(dir, *number, now)?;
            (
                *number,
                State { index: loaded.index, leases: loaded.leases, next_frame: loaded.next_frame, now },
            )
        }
        None => (1, State { index: Index::new(1, 1), leases: LeaseTable::new(1), next_frame: 0, now }),
    };
    let logs: Vec<u64> = files.logs.iter().copied().filter(|number| *number >= first).collect();
    let fresh = files.logs.is_empty() && files.snapshots.is_empty();
    if let Some(missing) = missing(first, &logs).filter(|_| !fresh) {
        return Err(OpenError::Missing { path: dir.path(FileKind::Log, missing) });
    }
    let mut earlier_bytes = 0;
    let mut end = None;
    for number in &logs {
        let last = logs.last() == Some(number);
        match state.replay(dir, *number, options)? {
            // Its snapshot was made after the file: what is missing was lost later.
            Replayed::NoHeader if !last || files.snapshots.contains(number) => {
                return Err(OpenError::Corrupt {
                    path: dir.path(FileKind::Log, *number),
                    offset: 0,
                    reason: "the header is missing",
                });
            }
            Replayed::NoHeader => {}
            Replayed::Torn { offset, .. } if !last => {
                return Err(OpenError::Corrupt {
                    path: dir.path(FileKind::Log, *number),
                    offset,
                    reason: "the log goes on in the next file, but this one has no whole end",
                });
            }
            Replayed::Torn { header, offset } => {
                info!(offset, number, "cut what a crash left unfinished at the end of the log");
                end = Some((header, offset));
            }
            Replayed::Whole { header, size } if last => end = Some((header, size)),
            Replayed::Whole { size, .. } => earlier_bytes += size,
        }
    }
    let log = match end {
        Some((header, end)) => Log::resume(dir, header, end, options.sync)?,
        None => {
            let number = logs.last().copied().unwrap_or(first);
            Log::create(dir, number, state.next_frame, options.sync).map_err(|source| OpenError::Io {
                action: "create",
                path: dir.path(FileKind::Log, number),
                source,
            })?
        }
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

/// The first number missing from a run that begins with `first`.
fn missing(first: u64, numbers: &[u64]) -> Option<u64> {
    let gap = (first..).zip(numbers).find(|(expected, number)| expected != *number);
    gap.map(|(expected, _)| expected).or(numbers.is_empty().then_some(first))
}

struct State {
    index: Index,
    leases: LeaseTable,
    next_frame: u64,
    now: Instant,
}

enum Replayed {
    NoHeader,
    Torn { header: Header, offset: u64 },
    Whole { header: Header, size: u64 },
}

impl State {
    fn replay(&mut self, dir: &Dir, number: u64, options: &Options) -> Result<Replayed, OpenError> {
        let path = dir.path(FileKind::Log, number);
        let mut reader = match FrameReader::open(&path, FileKind::Log, number)? {
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
                    bound_history(&mut self.index, options);
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
                Record::Grant { lease, ttl_ms } => {
                    self.leases.grant(lease, Duration::from_millis(ttl_ms), self.now);
                }
                Record::Revoke { lease } => self.leases.revoke(lease),
                Record::Begin { .. } | Record::Entry { .. } | Record::End { .. } => return None,
            }
        }
        self.index.compact(compacted);
        Some(())
    }

    fn change(&mut self, change: Change) -> Option<()> {
        if change.version.revision != self.index.revision() + 1 {
            return None;
        }
        let (key, lease) = (change.key.clone(), change.version.lease);
        let prev = self.index.apply(change);
        self.leases.moved(&key, prev.and_then(|kv| kv.lease), lease);
        Some(())
    }
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
