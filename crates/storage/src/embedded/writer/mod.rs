//! The one thread that writes: takes what is queued, decides, appends, syncs once, shows it to readers, answers.

mod snapshots;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tracing::{debug, error, info, warn};

use super::dir::Dir;
use super::index::Change;
use super::lease_table::LeaseTable;
use super::log::{AppendError, Log};
use super::plan::{Plan, Steps};
use super::recover::Recovered;
use super::{Options, Shared, bound_history, watch};
use crate::{DeleteOutcome, Error, Event, Expect, KeyValue, LeaseId, LeaseInfo, Revision, WriteOutcome};

/// The writes of one group.
pub(super) const GROUP: usize = 4096;
/// The bytes of one group; one write more may be in it.
const GROUP_BYTES: usize = 4 << 20;
/// The changes shown to readers, or freed, while the index is locked.
const CHUNK: usize = 512;
/// The keys of a lease deleted in one group.
const LEASE_KEYS: usize = 1024;
/// How often it is written down how much of their time leases have left; a restart gives back at most this much.
const LEASES_LEFT: Duration = Duration::from_secs(300);
/// The leases of which it is written down, those that end first.
const LEASES_KEPT: usize = 1024;
/// How long an expired lease waits for space on a full disk.
const LEASE_RETRY: Duration = Duration::from_secs(5);

/// What the writer is asked to do.
pub(super) enum Command {
    Put {
        key: Arc<str>,
        value: Bytes,
        expect: Expect,
        lease: Option<LeaseId>,
        answer: Answer<WriteOutcome>,
        permit: OwnedSemaphorePermit,
    },
    Delete {
        key: Arc<str>,
        expect: Expect,
        answer: Answer<DeleteOutcome>,
    },
    Grant {
        ttl: Duration,
        answer: Answer<LeaseId>,
    },
    Revoke {
        lease: LeaseId,
        answer: Answer<()>,
    },
    Compact {
        at: Revision,
        answer: Answer<()>,
    },
    Lease {
        lease: LeaseId,
        answer: Answer<LeaseInfo>,
    },
    Snapshot {
        answer: Answer<()>,
    },
    /// A snapshot is durable with this size, or could not be written.
    SnapshotDone {
        number: u64,
        written: std::io::Result<u64>,
    },
    Close,
}

type Answer<T> = oneshot::Sender<Result<T, Error>>;

/// An answer that waits for the disk.
enum Reply {
    Put(Answer<WriteOutcome>, Result<WriteOutcome, Error>),
    Delete(Answer<DeleteOutcome>, DeleteOutcome),
    Grant(Answer<LeaseId>, LeaseId),
    Done(Answer<()>, Result<(), Error>),
}

impl Reply {
    /// Answers, with the error when the group was not written. Nobody may be waiting any more.
    fn send(self, failed: Option<&Error>) {
        let failed = failed.cloned();
        match self {
            Self::Put(answer, result) => drop(answer.send(failed.map_or(result, Err))),
            Self::Delete(answer, outcome) => drop(answer.send(failed.map_or(Ok(outcome), Err))),
            Self::Grant(answer, lease) => drop(answer.send(failed.map_or(Ok(lease), Err))),
            Self::Done(answer, result) => drop(answer.send(failed.map_or(result, Err))),
        }
    }
}

/// The writer's state.
pub(super) struct Writer {
    shared: Arc<Shared>,
    dir: Arc<Dir>,
    options: Options,
    commands: Receiver<Command>,
    /// For the thread that writes snapshots.
    sender: Sender<Command>,
    log: Log,
    next_frame: u64,
    leases: LeaseTable,
    /// Taken from the queue, for the next group.
    carried: Option<Command>,
    closing: bool,
    /// Why nothing can be written any more.
    failed: Option<Error>,
    /// Expired leases wait until then, since the disk was full.
    leases_wait: Option<Instant>,
    frame: Vec<u8>,
    /// When the store was at which revision, for compacting by age.
    marks: VecDeque<(Instant, u64)>,
    snapshot: Option<JoinHandle<()>>,
    /// Who waits for the snapshot that is being written, and who for the one after it.
    snapshot_asked: (Vec<Answer<()>>, Vec<Answer<()>>),
    leases_written: Instant,
    first_log: u64,
    earlier_bytes: u64,
    /// The bytes of log that ask for the next snapshot.
    snapshot_at: u64,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        dir: Arc<Dir>,
        options: Options,
        recovered: (LeaseTable, Log, u64, u64, u64),
        channel: (Sender<Command>, Receiver<Command>),
    ) -> Self {
        let (leases, log, next_frame, earlier_bytes, first_log) = recovered;
        let mut writer = Self {
            shared,
            dir,
            options,
            commands: channel.1,
            sender: channel.0,
            log,
            next_frame,
            leases,
            carried: None,
            closing: false,
            failed: None,
            leases_wait: None,
            frame: Vec::new(),
            marks: VecDeque::new(),
            snapshot: None,
            snapshot_asked: Default::default(),
            leases_written: Instant::now(),
            first_log,
            earlier_bytes,
            snapshot_at: 0,
        };
        writer.marks.push_back((Instant::now(), writer.shared.index().revision()));
        writer.snapshot_at = writer.snapshot_distance();
        writer
    }

    #[cfg(test)]
    pub(super) fn faults(&self) -> super::faults::Faults {
        self.log.faults.clone()
    }

    /// The time, which only goes ahead; no time of day is ever asked.
    fn clock(&self) -> Instant {
        #[cfg(test)]
        let now = self.log.faults.now();
        #[cfg(not(test))]
        let now = Instant::now();
        now
    }

    /// Works until [`Command::Close`].
    pub(super) fn run(mut self) {
        let _ending = Ending(self.shared.clone());
        loop {
            if let Some(lease) = self.due_lease() {
                self.expire(lease);
            }
            let Some(command) = self.wait() else { break };
            match command {
                Command::Revoke { lease, answer } => self.revoke(lease, answer),
                Command::SnapshotDone { number, written } => self.snapshot_done(number, written),
                Command::Snapshot { answer } => self.snapshot_asked.1.push(answer),
                Command::Lease { lease, answer } => {
                    let found = self.leases.info(lease, self.clock());
                    // Whoever asked may not be waiting any more.
                    let _ = answer.send(found.ok_or(Error::LeaseNotFound(lease)));
                }
                Command::Close => self.closing = true,
                first => self.group(first),
            }
            let asked = !self.snapshot_asked.1.is_empty() || self.log_bytes() >= self.snapshot_at;
            if let Some(error) = self.failed.clone() {
                self.answer_snapshots(Some(&error));
            } else if asked && self.snapshot.is_none() && !self.closing {
                self.start_snapshot();
            }
        }
        self.shared.closed.store(true, Ordering::Relaxed);
        if let Some(snapshot) = self.snapshot.take() {
            let _ = snapshot.join();
        }
        debug!("storage closed");
    }

    /// The next command; `None` when a lease may have expired or when it is over.
    fn wait(&mut self) -> Option<Command> {
        loop {
            if let Some(command) = self.carried.take() {
                return Some(command);
            }
            match self.commands.try_recv() {
                Ok(command) => return Some(command),
                Err(TryRecvError::Disconnected) => return None,
                Err(TryRecvError::Empty) if self.closing => return None,
                Err(TryRecvError::Empty) => {}
            }
            // Nobody waits: time to free memory, in small steps.
            if self.shared.index().sweepable() {
                self.shared.index_mut().sweep(CHUNK);
                continue;
            }
            let wake = match (self.leases.next_deadline(), self.leases_wait) {
                _ if self.failed.is_some() => None,
                (Some(deadline), Some(wait)) => Some(deadline.max(wait)),
                (deadline, _) => deadline,
            };
            let received = match wake {
                None => self.commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(wake) => self.commands.recv_timeout(wake.saturating_duration_since(self.clock())),
            };
            match received {
                Ok(command) => return Some(command),
                Err(RecvTimeoutError::Disconnected) => return None,
                Err(RecvTimeoutError::Timeout) => {
                    if let Some(lease) = self.due_lease() {
                        self.expire(lease);
                    }
                }
            }
        }
    }

    fn due_lease(&self) -> Option<LeaseId> {
        let now = self.clock();
        if self.failed.is_some() || self.leases_wait.is_some_and(|wait| now < wait) {
            return None;
        }
        self.leases.expired(now)
    }

    /// Writes a group that begins with this command.
    fn group(&mut self, first: Command) {
        let compact = self.compaction();
        let shared = self.shared.clone();
        let index = shared.index();
        let frame = std::mem::take(&mut self.frame);
        let mut plan = Plan::new(&index, &self.leases, frame, self.log.salt(), self.next_frame, compact);
        let mut replies = Vec::new();
        let mut next = Some(first);
        while let Some(command) = next.take() {
            match command {
                Command::Put { key, value, expect, lease, answer, permit } => {
                    let outcome = plan.put(&key, value, expect, lease);
                    replies.push(Reply::Put(answer, outcome));
                    drop(permit);
                }
                Command::Delete { key, expect, answer } => {
                    let outcome = plan.delete(&key, expect);
                    replies.push(Reply::Delete(answer, outcome));
                }
                Command::Grant { ttl, answer } => {
                    let lease = plan.grant(ttl);
                    replies.push(Reply::Grant(answer, lease));
                }
                Command::Compact { at, answer } => {
                    let result = plan.compact(at);
                    replies.push(Reply::Done(answer, result));
                }
                other @ (Command::Revoke { .. }
                | Command::Lease { .. }
                | Command::Snapshot { .. }
                | Command::SnapshotDone { .. }
                | Command::Close) => {
                    self.carried = Some(other);
                    break;
                }
            }
            if replies.len() < GROUP && plan.len() < GROUP_BYTES {
                next = self.commands.try_recv().ok();
            }
        }
        let now = self.clock();
        if plan.writes() && now.duration_since(self.leases_written) >= LEASES_LEFT.min(self.options.history) {
            plan.leases_left(self.leases.all(now).take(LEASES_KEPT));
            self.leases_written = now;
        }
        let (frame, write, steps) = plan.finish();
        drop(index);
        let failed = if write { self.commit(&frame, steps).err() } else { None };
        self.keep_buffer(frame);
        for reply in replies {
            reply.send(failed.as_ref());
        }
    }

    /// Ends a lease for a client.
    fn revoke(&mut self, lease: LeaseId, answer: Answer<()>) {
        let result = if self.leases.contains(lease) {
            self.drop_lease(lease)
        } else {
            Err(Error::LeaseNotFound(lease))
        };
        Reply::Done(answer, result).send(None);
    }

    /// Ends a lease whose time is over.
    fn expire(&mut self, lease: LeaseId) {
        self.leases_wait = None;
        match self.drop_lease(lease) {
            Ok(()) => debug!(%lease, "lease expired"),
            Err(error) => {
                warn!(%lease, %error, "cannot delete the keys of an expired lease yet");
                self.leases_wait = Some(self.clock() + LEASE_RETRY);
            }
        }
    }

    fn drop_lease(&mut self, lease: LeaseId) -> Result<(), Error> {
        loop {
            let compact = self.compaction();
            let shared = self.shared.clone();
            let index = shared.index();
            let frame = std::mem::take(&mut self.frame);
            let mut plan = Plan::new(&index, &self.leases, frame, self.log.salt(), self.next_frame, compact);
            let gone = plan.revoke(lease, LEASE_KEYS);
            let (frame, _, steps) = plan.finish();
            drop(index);
            let result = self.commit(&frame, steps);
            self.keep_buffer(frame);
            result?;
            if gone {
                return Ok(());
            }
        }
    }

    fn keep_buffer(&mut self, frame: Vec<u8>) {
        // One large group must not hold its memory for ever.
        if frame.capacity() <= GROUP_BYTES / 4 {
            self.frame = frame;
        }
    }

    /// Makes a frame durable and shows what it did.
    fn commit(&mut self, frame: &[u8], steps: Steps) -> Result<(), Error> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        match self.log.append(frame) {
            Ok(()) => {}
            Err(AppendError::NoSpace) => {
                if !self.shared.full.swap(true, Ordering::Relaxed) {
                    warn!("no space left on the device: writes are refused until there is some");
                }
                return Err(Error::NoSpace);
            }
            Err(AppendError::Failed(cause)) => {
                error!(error = %cause, "a write could not be made durable: no more writes are accepted");
                let error = Error::Failed(cause.to_string().into());
                self.failed = Some(error.clone());
                return Err(error);
            }
        }
        if self.shared.full.swap(false, Ordering::Relaxed) {
            info!("there is space again: writes are accepted");
        }
        self.next_frame += 1;
        self.shared.log_bytes.store(self.log_bytes(), Ordering::Relaxed);
        self.show(steps);
        Ok(())
    }

    /// Shows readers what has become durable.
    fn show(&mut self, steps: Steps) {
        let now = self.clock();
        for (lease, ttl) in steps.granted {
            self.leases.grant(lease, ttl, now);
        }
        let mut woken = Vec::new();
        let mut revision = None;
        let mut changes = steps.changes.into_iter().peekable();
        let mut compact = Some(steps.compact);
        while changes.peek().is_some() || compact.is_some() {
            let mut index = self.shared.index_mut();
            let mut events = Vec::new();
            for Change { key, version } in changes.by_ref().take(CHUNK) {
                let kv = version.value.clone().map(|value| KeyValue {
                    key: key.clone(),
                    value,
                    create_revision: Revision(version.create),
                    mod_revision: Revision(version.revision),
                    version: version.version,
                    lease: version.lease,
                });
                let (at, lease) = (Revision(version.revision), version.lease);
                let prev_kv = index.apply(Change { key: key.clone(), version });
                self.leases.moved(&key, prev_kv.as_ref().and_then(|kv| kv.lease), lease);
                events.push(Event { revision: at, key, kv, prev_kv });
                revision = Some(at.0);
            }
            self.shared.watchers.publish(events, &mut woken);
            self.shared.revision.store(index.revision(), Ordering::Release);
            if let Some(compact) = compact.take() {
                index.compact(compact);
                bound_history(&mut index, &self.options);
            }
            index.sweep(CHUNK * 2);
        }
        if let Some(lease) = steps.revoked {
            self.leases.revoke(lease);
        }
        if let Some(revision) = revision {
            self.shared.reached.send_replace(revision);
        }
        watch::wake(woken);
    }

    /// The oldest revision that has to stay readable, by age.
    fn compaction(&mut self) -> u64 {
        let now = self.clock();
        let window = self.options.history;
        if self.marks.back().is_none_or(|(at, _)| now.duration_since(*at) >= window / 30) {
            self.marks.push_back((now, self.shared.revision.load(Ordering::Relaxed)));
        }
        let mut compact = 0;
        while let Some((at, revision)) = self.marks.front()
            && now.duration_since(*at) >= window
        {
            compact = *revision;
            self.marks.pop_front();
        }
        compact
    }

    fn log_bytes(&self) -> u64 {
        self.earlier_bytes + self.log.len()
    }
}

/// Tells everybody that nothing more is written, also when the writer panics.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        self.0.closed.store(true, Ordering::Relaxed);
        self.0.watchers.close();
        self.0.reached.send_modify(|_| {});
    }
}

/// Takes apart what was recovered.
pub(super) fn parts(recovered: Recovered) -> (super::Index, (LeaseTable, Log, u64, u64, u64)) {
    let Recovered { index, leases, log, next_frame, earlier_bytes, first_log } = recovered;
    (index, (leases, log, next_frame, earlier_bytes, first_log))
}
