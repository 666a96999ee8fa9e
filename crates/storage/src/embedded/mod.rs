//! The backend for a single control plane: a log on disk, everything in memory.
//!
//! One thread writes ([`writer`]). It takes all that is queued, checks the guards in order ([`plan`]), appends the
//! group to the log and syncs once ([`log`]), then applies it to the index ([`index`]), hands the events to the
//! watches ([`watch`]) and answers. Reads are answered from the index and never touch the disk. When the log has
//! grown, a second thread writes all keys at one revision to a snapshot ([`snapshot`]), and the log before it goes.
//! Opening reads the newest snapshot and the log behind it ([`recover`]).
//!
//! A log with an index in memory, and no database below: this is several times faster than the embedded databases we
//! measured, and the values in the index are the very bytes that readers, watches and caches hold.

mod dir;
#[cfg(test)]
mod faults;
mod frame;
#[cfg(feature = "test-suite")]
pub mod fuzzing;
mod image;
mod index;
mod lease_table;
mod log;
mod plan;
mod record;
mod recover;
mod restore;
mod snapshot;
mod watch;
mod writer;

#[cfg(test)]
mod group_tests;
#[cfg(test)]
mod tests;

use std::io;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::{Semaphore, oneshot, watch as reached};
use tracing::info;

use self::dir::Dir;
pub use self::image::{Image, Survey};
use self::index::Index;
pub use self::restore::Restored;
use self::watch::{Batches, Watchers};
use self::writer::{Command, Writer};
use crate::{
    DeleteOutcome, Error, Event, Expect, KeyValue, LeaseId, LeaseInfo, PrefixMap, Progress, RangeRequest,
    RangeResponse, Revision, Storage, WatchBatch, WatchStream, WriteOutcome,
};

/// What [`watch`] is built over here.
mod sync {
    pub(super) use std::sync::{Mutex, MutexGuard, RwLockReadGuard};

    pub(super) use futures::task::AtomicWaker;
}

/// The events a watch buffers before it falls back to the index.
const WATCH_BUFFER: usize = 1024;

/// Bytes of values that wait for the writer, in kilobytes; who comes then has to wait before queueing.
const QUEUE_KB: u32 = 64 << 10;
/// Keys that a range read looks at while the index is locked.
const RANGE_STEPS: usize = 1024;
/// After so many of these chunks a range read lets other tasks run.
const RANGE_YIELD: usize = 16;

/// How the embedded store behaves.
#[derive(Clone, Debug)]
pub struct Options {
    /// Whether writes are synced to the disk before they are acknowledged. Without it a power cut loses writes; the
    /// death of the process does not.
    pub sync: bool,
    /// For how long overwritten and deleted versions stay readable.
    pub history: Duration,
    /// The memory that overwritten and deleted versions may take; beyond it, history gets shorter.
    pub history_bytes: u64,
    /// The log bytes after which a snapshot is written, at least; with many keys it is as much as they take.
    pub snapshot_bytes: u64,
    /// The longest key.
    pub key_limit: usize,
    /// The largest value.
    pub value_limit: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            sync: true,
            history: Duration::from_secs(300),
            history_bytes: 64 << 20,
            snapshot_bytes: 16 << 20,
            key_limit: 1024,
            value_limit: 3 << 19,
        }
    }
}

/// Why a data directory could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process holds the directory.
    #[error("{} is in use by {}; a data directory serves one process at a time", path.display(), holder(*pid))]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The process that holds it, when it has said so.
        pid: Option<u32>,
    },
    /// Another version of the program wrote the directory.
    #[error(
        "{} has format version {found}, this program reads versions {} to {}: use the program that wrote it, or a \
         newer one",
        path.display(),
        frame::OLDEST,
        frame::VERSION
    )]
    OtherVersion {
        /// The file that says so.
        path: PathBuf,
        /// The version it names.
        found: String,
    },
    /// What was acknowledged is damaged.
    #[error(
        "{} is damaged at offset {offset}: {reason}; nothing was changed. Check the disk, then restore the data \
         directory from a backup",
        path.display()
    )]
    Corrupt {
        /// The damaged file.
        path: PathBuf,
        /// Where the damage begins.
        offset: u64,
        /// What is wrong there.
        reason: &'static str,
    },
    /// The file is something else.
    #[error("{} is no backup: it does not begin as one", path.display())]
    NoBackup {
        /// The file.
        path: PathBuf,
    },
    /// A backup is damaged or its end is missing.
    #[error("{} cannot be used: {reason}, from offset {offset} on; take another backup", path.display())]
    DamagedBackup {
        /// The file.
        path: PathBuf,
        /// Where the damage begins.
        offset: u64,
        /// What is wrong there.
        reason: &'static str,
    },
    /// A file that has to be there is not.
    #[error(
        "{} is missing though files that belong with it are there; nothing was changed. Restore the data directory \
         from a backup",
        path.display()
    )]
    Missing {
        /// The missing file.
        path: PathBuf,
    },
    /// The operating system refused.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// The refusal.
        #[source]
        source: io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".into(), |pid| format!("process {pid}"))
}

/// How large the store is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stats {
    /// The present revision.
    pub revision: Revision,
    /// The oldest revision that can be read.
    pub compacted: Revision,
    /// The number of keys.
    pub keys: u64,
    /// About the memory the keys and their present values take.
    pub live_bytes: u64,
    /// About the memory that overwritten and deleted versions take.
    pub history_bytes: u64,
    /// The log that a restart would have to read.
    pub log_bytes: u64,
    /// Whether writes are refused since the disk is full.
    pub full: bool,
}

/// A data directory that no store can be opened on meanwhile.
#[derive(Debug)]
pub struct Held {
    _dir: Dir,
}

/// Keeps every process off a data directory until what is returned is dropped. Changes nothing.
pub fn hold(path: impl AsRef<Path>) -> Result<Held, OpenError> {
    Dir::hold(path.as_ref()).map(|dir| Held { _dir: dir })
}

/// What the writer, the readers and the watches share.
struct Shared {
    index: RwLock<Index>,
    watchers: Watchers,
    /// The index's revision, for those who need nothing else of it.
    revision: AtomicU64,
    /// The same, for those who wait for it.
    reached: reached::Sender<u64>,
    closed: AtomicBool,
    full: AtomicBool,
    log_bytes: AtomicU64,
}

impl Shared {
    // The index is left consistent by every step, so a panic elsewhere does not make it useless.
    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn index_mut(&self) -> RwLockWriteGuard<'_, Index> {
        self.index.write().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Forgets the older half of the history when it takes too much memory.
fn bound_history(index: &mut Index, options: &Options) {
    if index.history_bytes() > options.history_bytes && index.swept() {
        index.compact(index.middle());
    }
}

/// The embedded store. Dropping it waits for the writes that are queued.
pub struct Embedded {
    shared: Arc<Shared>,
    commands: Sender<Command>,
    queue: Arc<Semaphore>,
    options: Options,
    writer: Mutex<Option<JoinHandle<()>>>,
    #[cfg(test)]
    faults: faults::Faults,
}

impl Embedded {
    /// Opens a data directory, or makes one. Blocks while it reads the disk.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self, OpenError> {
        let began = Instant::now();
        let path = path.as_ref();
        let mut dir = Dir::open(path)?;
        let (index, recovered) = writer::parts(recover::recover(&mut dir, &options)?);
        let dir = Arc::new(dir);
        info!(
            path = %path.display(),
            revision = index.revision(),
            keys = index.live_keys(),
            took_ms = began.elapsed().as_millis() as u64,
            "storage opened"
        );
        let shared = Arc::new(Shared {
            revision: AtomicU64::new(index.revision()),
            reached: reached::Sender::new(index.revision()),
            index: RwLock::new(index),
            watchers: Watchers::default(),
            closed: AtomicBool::new(false),
            full: AtomicBool::new(false),
            log_bytes: AtomicU64::new(recovered.3 + recovered.1.len()),
        });
        let (commands, receiver) = channel();
        let writer =
            Writer::new(shared.clone(), dir, options.clone(), recovered, (commands.clone(), receiver));
        #[cfg(test)]
        let faults = writer.faults();
        let writer =
            std::thread::Builder::new().name("storage-writer".into()).spawn(move || writer.run()).map_err(
                |source| OpenError::Io { action: "start a thread for", path: path.to_owned(), source },
            )?;
        Ok(Self {
            shared,
            commands,
            queue: Arc::new(Semaphore::new(QUEUE_KB as usize)),
            options,
            writer: Mutex::new(Some(writer)),
            #[cfg(test)]
            faults,
        })
    }

    /// How large the store is.
    pub fn stats(&self) -> Stats {
        let index = self.shared.index();
        Stats {
            revision: Revision(index.revision()),
            compacted: Revision(index.compacted()),
            keys: index.live_keys(),
            live_bytes: index.live_bytes(),
            history_bytes: index.history_bytes(),
            log_bytes: self.shared.log_bytes.load(Ordering::Relaxed),
            full: self.shared.full.load(Ordering::Relaxed),
        }
    }

    /// Writes a snapshot now, so that the log before it goes: the least disk that the store can take. A server does so
    /// by itself whenever the log has grown.
    pub async fn snapshot(&self) -> Result<(), Error> {
        self.ask(|answer| Command::Snapshot { answer }).await
    }

    /// Finishes the writes that are queued, refuses later ones, ends the watches and releases the data directory.
    pub fn close(&self) {
        let writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(writer) = writer {
            // When the writer is gone already, there is nothing to tell it.
            let _ = self.commands.send(Command::Close);
            let _ = writer.join();
        }
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Command,
    ) -> Result<T, Error> {
        let (answer, answered) = oneshot::channel();
        self.commands.send(command(answer)).map_err(|_| Error::Closed)?;
        answered.await.map_err(|_| Error::Closed)?
    }

    fn check_key(&self, key: &str) -> Result<(), Error> {
        if key.is_empty() || key.len() > self.options.key_limit {
            return Err(Error::KeySize { len: key.len(), limit: self.options.key_limit });
        }
        Ok(())
    }

    fn check_open(&self) -> Result<(), Error> {
        if self.shared.closed.load(Ordering::Relaxed) { Err(Error::Closed) } else { Ok(()) }
    }
}

impl Drop for Embedded {
    fn drop(&mut self) {
        self.close();
    }
}

/// Keeps a revision readable while a range is read in steps.
struct Pin<'a> {
    shared: &'a Shared,
    revision: u64,
}

impl Drop for Pin<'_> {
    fn drop(&mut self) {
        self.shared.index().unpin(self.revision);
    }
}

#[async_trait]
impl Storage for Embedded {
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<(Option<KeyValue>, Revision), Error> {
        self.check_open()?;
        let index = self.shared.index();
        let revision = index.readable(at)?;
        Ok((index.get(key, revision), Revision(index.revision())))
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        self.check_open()?;
        let wanted = match (request.count_only, request.limit) {
            (true, _) => 0,
            (false, 0) => usize::MAX,
            (false, limit) => limit,
        };
        let mut response = RangeResponse::default();
        let mut pin: Option<Pin<'_>> = None;
        let mut resume: Option<Arc<str>> = None;
        for step in 1.. {
            {
                let index = self.shared.index();
                let at = match &pin {
                    Some(pin) => pin.revision,
                    None => {
                        let at = index.readable(request.at)?;
                        response.revision = Revision(index.revision());
                        at
                    }
                };
                let from = resume.as_deref().map_or(Bound::Included(request.start.as_str()), Bound::Excluded);
                let left = wanted - response.kvs.len();
                let mut chunk = index.chunk(from, &request.end, at, RANGE_STEPS, left, usize::MAX);
                response.kvs.append(&mut chunk.kvs);
                response.count += chunk.count;
                resume = chunk.resume;
                if resume.is_some() && pin.is_none() {
                    index.pin(at);
                    pin = Some(Pin { shared: &self.shared, revision: at });
                }
            }
            if resume.is_none() {
                break;
            }
            if step % RANGE_YIELD == 0 {
                tokio::task::yield_now().await;
            }
        }
        response.more = !request.count_only && response.count > response.kvs.len() as u64;
        Ok(response)
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
        lease: Option<LeaseId>,
    ) -> Result<WriteOutcome, Error> {
        self.check_key(key)?;
        if value.len() > self.options.value_limit {
            return Err(Error::ValueTooLarge { len: value.len(), limit: self.options.value_limit });
        }
        let kilobytes = u32::try_from(value.len() / 1024 + 1).unwrap_or(u32::MAX).min(QUEUE_KB);
        let permit = self.queue.clone().acquire_many_owned(kilobytes).await.map_err(|_| Error::Closed)?;
        self.ask(|answer| Command::Put { key: key.into(), value, expect, lease, answer, permit }).await
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<DeleteOutcome, Error> {
        self.check_key(key)?;
        self.ask(|answer| Command::Delete { key: key.into(), expect, answer }).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, Error> {
        self.check_open()?;
        let batches = Batches::new(self.shared.clone(), prefix, after)?;
        let progress = batches.progress();
        Ok(WatchStream::new(batches.boxed(), progress))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.ask(|answer| Command::Grant { ttl, answer }).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.ask(|answer| Command::Revoke { lease, answer }).await
    }

    async fn lease(&self, lease: LeaseId) -> Result<LeaseInfo, Error> {
        self.ask(|answer| Command::Lease { lease, answer }).await
    }

    async fn compact(&self, at: Revision) -> Result<(), Error> {
        self.ask(|answer| Command::Compact { at, answer }).await
    }

    async fn now(&self) -> Result<Revision, Error> {
        self.check_open()?;
        Ok(Revision(self.shared.revision.load(Ordering::Acquire)))
    }

    async fn wait_for(&self, revision: Revision) -> Result<(), Error> {
        let mut reached = self.shared.reached.subscribe();
        self.check_open()?;
        let there = |reached: &u64| *reached >= revision.0 || self.shared.closed.load(Ordering::Relaxed);
        reached.wait_for(there).await.map_err(|_| Error::Closed)?;
        self.check_open()
    }
}
