//! Failing disks, for the unit tests.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// What goes wrong next; each fault happens once.
#[derive(Clone, Debug, Default)]
pub(super) struct Faults {
    /// Half of the frame is written, then the disk is full.
    pub full: Arc<AtomicBool>,
    /// The frame is written, but its sync fails.
    pub sync_fails: Arc<AtomicBool>,
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
        if self.sync_fails.swap(false, Ordering::Relaxed) {
            Err(io::Error::other("sync failed"))
        } else {
            Ok(())
        }
    }
}
