//! Failing and slow disks, and clocks that jump, for the unit tests.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// What goes wrong next; each fault happens once.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    /// Half of the frame is written, then the disk is full.
    pub full: Arc<AtomicBool>,
    /// The frame is written, but its sync fails.
    pub sync_fails: Arc<AtomicBool>,
    /// Syncs that were begun.
    pub syncs: Arc<AtomicU64>,
    gate: Arc<(Mutex<Gate>, Condvar)>,
    /// The seconds that the clock has jumped.
    jumped: Arc<AtomicU64>,
}

#[derive(Debug, Default)]
struct Gate {
    closed: bool,
    waiting: bool,
    /// The syncs that may go through a closed gate.
    passes: usize,
}

impl Faults {
    pub(super) fn write(&self, file: &File, frame: &[u8], at: u64) -> io::Result<usize> {
        if self.full.swap(false, Ordering::Relaxed) {
            file.write_all_at(&frame[..frame.len() / 2], at)?;
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(frame.len())
    }

    pub(super) fn sync(&self) -> io::Result<()> {
        self.syncs.fetch_add(1, Ordering::Relaxed);
        let mut gate = self.gate();
        while gate.closed && gate.passes == 0 {
            gate.waiting = true;
            self.gate.1.notify_all();
            gate = self.gate.1.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
        gate.waiting = false;
        gate.passes = gate.passes.saturating_sub(1);
        drop(gate);
        if self.sync_fails.swap(false, Ordering::Relaxed) {
            Err(io::Error::other("sync failed"))
        } else {
            Ok(())
        }
    }

    fn gate(&self) -> MutexGuard<'_, Gate> {
        self.gate.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on syncs wait until [`Faults::finish_syncs`].
    pub(super) fn hold_syncs(&self) {
        self.gate().closed = true;
    }

    /// Waits until a sync is held.
    pub(super) fn until_syncing(&self) {
        let held = self.gate.1.wait_while(self.gate(), |gate| !gate.waiting);
        drop(held.unwrap_or_else(PoisonError::into_inner));
    }

    /// Lets the sync that is held go through, and no other.
    pub(super) fn finish_one_sync(&self) {
        let mut gate = self.gate();
        assert!(gate.waiting && gate.passes == 0, "a sync is held");
        (gate.passes, gate.waiting) = (1, false);
        drop(gate);
        self.gate.1.notify_all();
    }

    pub(super) fn finish_syncs(&self) {
        self.gate().closed = false;
        self.gate.1.notify_all();
    }

    /// The clock.
    pub(super) fn now(&self) -> Instant {
        Instant::now() + Duration::from_secs(self.jumped.load(Ordering::Relaxed))
    }

    /// Makes the clock jump ahead.
    pub(super) fn jump(&self, by: Duration) {
        self.jumped.fetch_add(by.as_secs(), Ordering::Relaxed);
    }
}
