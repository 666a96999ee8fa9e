//! Failing and slow disks, for the unit tests.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

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
}

#[derive(Debug, Default)]
struct Gate {
    closed: bool,
    waiting: bool,
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
        let (gate, changed) = &*self.gate;
        let mut gate = gate.lock().unwrap_or_else(PoisonError::into_inner);
        while gate.closed {
            gate.waiting = true;
            changed.notify_all();
            gate = changed.wait(gate).unwrap_or_else(PoisonError::into_inner);
        }
        gate.waiting = false;
        if self.sync_fails.swap(false, Ordering::Relaxed) {
            Err(io::Error::other("sync failed"))
        } else {
            Ok(())
        }
    }

    /// From now on syncs wait until [`Faults::finish_syncs`].
    pub(super) fn hold_syncs(&self) {
        self.gate.0.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
    }

    /// Waits until a sync is held.
    pub(super) fn until_syncing(&self) {
        let (gate, changed) = &*self.gate;
        let gate = gate.lock().unwrap_or_else(PoisonError::into_inner);
        drop(changed.wait_while(gate, |gate| !gate.waiting).unwrap_or_else(PoisonError::into_inner));
    }

    pub(super) fn finish_syncs(&self) {
        self.gate.0.lock().unwrap_or_else(PoisonError::into_inner).closed = false;
        self.gate.1.notify_all();
    }
}
