//! When the writer begins a new log and has a snapshot written, and what it does once that is durable.

use std::sync::atomic::Ordering;

use tracing::{debug, warn};

use super::{Command, Reply, Writer};
use crate::Error;
use crate::embedded::frame::FileKind;
use crate::embedded::log::{Log, is_full};
use crate::embedded::snapshot::{self, Contents};

impl Writer {
    /// The log may grow by as much as all keys take: writing snapshots never costs more than writing the log.
    pub(super) fn snapshot_distance(&self) -> u64 {
        self.options.snapshot_bytes.max(self.shared.index().live_bytes())
    }

    /// Begins a new log file and has a snapshot written of everything before it.
    pub(super) fn start_snapshot(&mut self) {
        self.snapshot_asked.0.append(&mut self.snapshot_asked.1);
        let number = self.log.number() + 1;
        let log = match Log::create(&self.dir, number, self.next_frame, self.options.sync) {
            Ok(log) => log,
            Err(error) => {
                warn!(%error, "cannot begin a new log file; the snapshot has to wait");
                self.snapshot_at = self.log_bytes() + self.snapshot_distance();
                self.answer_snapshots(Some(&snapshot_error(&error)));
                return;
            }
        };
        self.earlier_bytes += self.log.len();
        #[cfg(test)]
        let log = {
            let mut log = log;
            log.faults = self.log.faults.clone();
            log
        };
        self.log = log;
        let contents = {
            let index = self.shared.index();
            index.pin(index.revision());
            Contents {
                number,
                next_frame: self.next_frame,
                revision: index.revision(),
                next_lease: self.leases.next(),
                leases: self.leases.all(self.clock()).collect(),
            }
        };
        let (shared, dir, sender, sync) =
            (self.shared.clone(), self.dir.clone(), self.sender.clone(), self.options.sync);
        let revision = contents.revision;
        let spawned = std::thread::Builder::new().name("storage-snapshot".into()).spawn(move || {
            let written = snapshot::write(&shared, &dir, &contents, sync);
            shared.index().unpin(contents.revision);
            // The writer may be gone; then nobody needs to know.
            let _ = sender.send(Command::SnapshotDone { number: contents.number, written });
        });
        match spawned {
            Ok(handle) => self.snapshot = Some(handle),
            Err(error) => {
                self.shared.index().unpin(revision);
                self.snapshot_done(number, Err(error));
            }
        }
    }

    pub(super) fn snapshot_done(&mut self, number: u64, written: std::io::Result<u64>) {
        if let Some(snapshot) = self.snapshot.take() {
            let _ = snapshot.join();
        }
        let failed = written.as_ref().err().map(snapshot_error);
        match written {
            Ok(bytes) => {
                for old in self.first_log..number {
                    if let Err(error) = self.dir.remove(FileKind::Log, old) {
                        warn!(number = old, %error, "cannot remove a log file that a snapshot has replaced");
                    }
                }
                // Without a snapshot the first file has the number 1, and there is none to remove.
                match self.dir.remove(FileKind::Snapshot, self.first_log) {
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        warn!(%error, "cannot remove a snapshot that a newer one has replaced");
                    }
                    _ => {}
                }
                self.first_log = number;
                self.earlier_bytes = 0;
                self.snapshot_at = self.snapshot_distance();
                debug!(number, bytes, "snapshot written");
            }
            Err(error) => {
                if !self.closing {
                    warn!(%error, "cannot write a snapshot; the log keeps growing");
                }
                self.snapshot_at = self.log_bytes() + self.snapshot_distance();
            }
        }
        self.shared.log_bytes.store(self.log_bytes(), Ordering::Relaxed);
        for answer in std::mem::take(&mut self.snapshot_asked.0) {
            Reply::Done(answer, Ok(())).send(failed.as_ref());
        }
    }

    pub(super) fn answer_snapshots(&mut self, failed: Option<&Error>) {
        let (now, next) = std::mem::take(&mut self.snapshot_asked);
        for answer in now.into_iter().chain(next) {
            Reply::Done(answer, Ok(())).send(failed);
        }
    }
}

/// What is told about a snapshot that could not be written: the store goes on without it.
fn snapshot_error(error: &std::io::Error) -> Error {
    if is_full(error) {
        Error::NoSpace
    } else {
        Error::Refused(format!("cannot write a snapshot: {error}").into())
    }
}
