//! Snapshots: all keys at one revision in one file, so that the log before it can go.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;

use super::dir::Dir;
use super::frame::{self, FileKind, FrameReader, Header, Next, Opened};
use super::index::{Index, Version};
use super::lease_table::LeaseTable;
use super::record::{Record, Records};
use super::{OpenError, Shared};
use crate::LeaseId;

/// Keys looked at while the index is locked.
const STEPS: usize = 512;
/// Bytes of values in one frame. Each is synced by itself: the file system must never have to write much of a snapshot
/// before it can finish the sync of a client's write.
const BYTES: usize = 1 << 20;

/// What a snapshot has to hold besides the keys.
pub(super) struct Contents {
    /// The number of the log file that goes on from here.
    pub number: u64,
    pub next_frame: u64,
    /// Pinned by whoever asks for the snapshot.
    pub revision: u64,
    pub next_lease: u64,
    pub leases: Vec<(LeaseId, Duration)>,
}

/// Writes a snapshot; afterwards it is durable under its name. Tells its size.
pub(super) fn write(shared: &Shared, dir: &Dir, contents: &Contents, sync: bool) -> io::Result<u64> {
    let path = dir.path(FileKind::Snapshot, contents.number);
    let temporary = dir.temporary(&path);
    let written = write_to(dir.create(&temporary)?, shared, contents, sync).and_then(|size| {
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

fn write_to(mut file: File, shared: &Shared, contents: &Contents, sync: bool) -> io::Result<u64> {
    let header = Header::new(FileKind::Snapshot, contents.number, contents.next_frame);
    file.write_all(&header.encode())?;
    let mut size = frame::HEADER as u64;
    let mut number = contents.next_frame;
    let mut out = Vec::new();
    frame::begin(&mut out, header.salt, number);
    Record::Begin { revision: contents.revision, next_lease: contents.next_lease }.encode(&mut out);
    for (lease, ttl) in &contents.leases {
        let ttl_ms = u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX);
        Record::Grant { lease: *lease, ttl_ms }.encode(&mut out);
    }
    let mut entries = 0;
    let mut resume: Option<Arc<str>> = None;
    loop {
        if shared.closed.load(Ordering::Relaxed) {
            return Err(io::Error::new(io::ErrorKind::Interrupted, "the store is being closed"));
        }
        let from = resume.as_deref().map_or(Bound::Unbounded, Bound::Excluded);
        let chunk = shared.index().chunk(from, "", contents.revision, STEPS, STEPS, BYTES);
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

/// Reads a snapshot.
pub(super) fn load(dir: &Dir, number: u64, now: Instant) -> Result<Loaded, OpenError> {
    let path = dir.path(FileKind::Snapshot, number);
    // A snapshot gets its name when all of it is durable: whatever is missing from it was lost later.
    let damaged =
        |offset| OpenError::Corrupt { path: path.clone(), offset, reason: "the snapshot is damaged" };
    let Opened::Reader(mut reader) = FrameReader::open(&path, FileKind::Snapshot, number)? else {
        return Err(damaged(0));
    };
    let next_frame = reader.header().frame;
    let mut loaded: Option<Loaded> = None;
    let mut count = 0;
    let mut ended = false;
    loop {
        let offset = reader.offset();
        let payload = match reader.next()? {
            Next::Frame(payload) => payload,
            Next::End => break,
            Next::Torn { offset } => return Err(damaged(offset)),
        };
        let mut records = Records::new(payload);
        while let Some(record) = records.next().map_err(|_| damaged(offset))? {
            if ended {
                return Err(damaged(offset));
            }
            match (record, &mut loaded) {
                (Record::Begin { revision, next_lease }, None) => {
                    let index = Index::new(revision, revision);
                    loaded = Some(Loaded { index, leases: LeaseTable::new(next_lease), next_frame });
                }
                (Record::Grant { lease, ttl_ms }, Some(loaded)) => {
                    loaded.leases.grant(lease, Duration::from_millis(ttl_ms), now);
                }
                (Record::Entry { create, revision, version, lease, key, value }, Some(loaded)) => {
                    let key: Arc<str> = key.into();
                    let value = Some(Bytes::copy_from_slice(value));
                    loaded.leases.moved(&key, None, lease);
                    loaded.index.load(key, Version { create, revision, version, lease, value });
                    count += 1;
                }
                (Record::End { entries }, Some(_)) if entries == count => ended = true,
                _ => return Err(damaged(offset)),
            }
        }
    }
    loaded.filter(|_| ended).ok_or_else(|| damaged(reader.offset()))
}
