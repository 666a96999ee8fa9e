//! Snapshots: all keys at one revision in one file, so that the log before it can go. Backups have the same form.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Bound;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::dir::Dir;
use super::frame::{self, FileKind, Header, Next, Opened, Source};
use super::index::{Chunk, Index, Version};
use super::lease_table::LeaseTable;
use super::record::{Record, Records, millis};
use super::{OpenError, Shared};
use crate::LeaseInfo;

/// Keys looked at while the index is locked.
const STEPS: usize = 512;
/// Bytes of values in one frame. Each is synced by itself: the file system must never have to write much of a snapshot
/// before it can finish the sync of a client's write.
const BYTES: usize = 1 << 20;
/// No store comes here; revisions, versions and leases above are damage. etcd's are signed.
pub(super) const LIMIT: u64 = i64::MAX as u64;

/// What a snapshot has to hold besides the keys.
#[derive(Debug)]
pub(super) struct Contents {
    /// The number of the log file that goes on from here.
    pub number: u64,
    pub next_frame: u64,
    /// Pinned by whoever asks for the snapshot.
    pub revision: u64,
    pub next_lease: u64,
    pub leases: Vec<LeaseInfo>,
}

/// Writes a snapshot; afterwards it is durable under its name. Tells its size.
pub(super) fn write(shared: &Shared, dir: &Dir, contents: &Contents, sync: bool) -> io::Result<u64> {
    let path = dir.path(FileKind::Snapshot, contents.number);
    let temporary = dir.temporary(&path);
    let chunk = |from: Bound<&str>| {
        if shared.closed.load(Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "the store is being closed"));
        }
        Ok(shared.index().chunk(from, "", contents.revision, STEPS, STEPS, BYTES))
    };
    let written = dir
        .create(&temporary)
        .and_then(|file| write_to(file, FileKind::Snapshot, contents, sync, chunk))
        .and_then(|size| {
            fs::rename(&temporary, &path)?;
            if sync {
                dir.sync()?;
            }
            Ok(size)
        });
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Writes the keys of an index that nobody else has.
pub(super) fn write_index(
    file: File,
    kind: FileKind,
    contents: &Contents,
    index: &Index,
    written: &mut dyn FnMut(u64),
) -> io::Result<u64> {
    let mut keys = 0;
    write_to(file, kind, contents, true, |from| {
        let chunk = index.chunk(from, "", contents.revision, STEPS, STEPS, BYTES);
        keys += chunk.count;
        written(keys);
        Ok(chunk)
    })
}

fn write_to(
    mut file: File,
    kind: FileKind,
    contents: &Contents,
    sync: bool,
    mut next: impl FnMut(Bound<&str>) -> io::Result<Chunk>,
) -> io::Result<u64> {
    let header = Header::new(kind, contents.number, contents.next_frame);
    file.write_all(&header.encode())?;
    let mut size = frame::HEADER as u64;
    let mut number = contents.next_frame;
    let mut out = Vec::new();
    frame::begin(&mut out, header.salt, number);
    Record::Begin { revision: contents.revision, next_lease: contents.next_lease }.encode(&mut out);
    for lease in &contents.leases {
        Record::Grant { lease: lease.id, ttl_ms: millis(lease.ttl) }.encode(&mut out);
        Record::Left { lease: lease.id, left_ms: millis(lease.left) }.encode(&mut out);
    }
    let mut entries = 0;
    let mut resume: Option<Arc<str>> = None;
    loop {
        let chunk = next(resume.as_deref().map_or(Bound::Unbounded, Bound::Excluded))?;
        for kv in &chunk.kvs {
            Record::entry(kv).encode(&mut out);
        }
        entries += chunk.count;
        resume = chunk.resume;
        if resume.is_none() {
            Record::End { entries }.encode(&mut out);
        }
        if resume.is_none() || out.len() >= BYTES {
            frame::seal(&mut out);
            file.write_all(&out)?;
            size += out.len() as u64;
            if sync {
                file.sync_data()?;
            }
            number += 1;
            frame::begin(&mut out, header.salt, number);
        }
        if resume.is_none() {
            return if sync { file.sync_all().map(|()| size) } else { Ok(size) };
        }
    }
}

/// What a snapshot held.
pub(super) struct Loaded {
    pub index: Index,
    pub leases: LeaseTable,
    pub next_frame: u64,
}

/// Reads a snapshot or a backup.
pub(super) fn load<S: Source>(
    source: (S, u64),
    path: &Path,
    kind: FileKind,
    number: u64,
    now: Instant,
) -> Result<Loaded, OpenError> {
    let reason = if kind == FileKind::Backup { "the backup is not whole" } else { "the snapshot is damaged" };
    // Both get their names when all of them is durable: whatever is missing was lost later.
    let damaged = |offset| OpenError::Corrupt { path: path.to_owned(), offset, reason };
    let Opened::Reader(mut reader) = frame::read(source, path, kind, number)? else {
        return Err(damaged(0));
    };
    let next_frame = reader.header().frame;
    let mut loading = Loading { state: None, last: None, count: 0, ended: false, now };
    loop {
        let offset = reader.offset();
        match reader.next()? {
            Next::Frame(payload) => loading.frame(payload).ok_or_else(|| damaged(offset))?,
            Next::End => break,
            Next::Torn { offset } => return Err(damaged(offset)),
        }
    }
    match loading.state {
        Some((index, leases)) if loading.ended => Ok(Loaded { index, leases, next_frame }),
        _ => Err(damaged(reader.offset())),
    }
}

struct Loading {
    state: Option<(Index, LeaseTable)>,
    last: Option<Arc<str>>,
    count: u64,
    ended: bool,
    now: Instant,
}

impl Loading {
    /// Takes a frame; `None` when it says what no snapshot says.
    fn frame(&mut self, payload: &[u8]) -> Option<()> {
        let mut records = Records::new(payload);
        while let Some(record) = records.next().ok()? {
            if self.ended {
                return None;
            }
            match (record, &mut self.state) {
                (Record::Begin { revision, next_lease }, None) if revision < LIMIT && next_lease < LIMIT => {
                    self.state = Some((Index::new(revision, revision), LeaseTable::new(next_lease)));
                }
                (Record::Grant { lease, ttl_ms }, Some((_, leases))) if lease.0 < LIMIT => {
                    leases.grant(lease, Duration::from_millis(ttl_ms), self.now);
                }
                (Record::Left { lease, left_ms }, Some((_, leases))) => {
                    leases.shorten(lease, Duration::from_millis(left_ms), self.now);
                }
                (Record::Entry { create, revision, version, lease, key, value }, Some((index, leases))) => {
                    let possible = (1..LIMIT).contains(&version)
                        && create <= revision
                        && revision <= index.revision()
                        && self.last.as_deref().is_none_or(|last| last < key);
                    if !possible {
                        return None;
                    }
                    let key: Arc<str> = key.into();
                    let value = Some(Bytes::copy_from_slice(value));
                    leases.moved(&key, None, lease);
                    index.load(key.clone(), Version { create, revision, version, lease, value });
                    self.last = Some(key);
                    self.count += 1;
                }
                (Record::End { entries }, Some(_)) if entries == self.count => self.ended = true,
                _ => return None,
            }
        }
        Some(())
    }
}
