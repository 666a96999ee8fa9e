//! The end of the log, where groups of writes are appended and made durable.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use super::OpenError;
use super::dir::Dir;
use super::frame::{FileKind, HEADER, Header};

/// Why a group of writes did not become durable.
#[derive(Debug)]
pub(super) enum AppendError {
    /// The disk is full; the log is as it was before.
    NoSpace,
    /// It is unknown what is on the disk.
    Failed(io::Error),
}

/// The log file that is being written.
#[derive(Debug)]
pub(super) struct Log {
    file: File,
    header: Header,
    /// The end of the last durable frame.
    end: u64,
    sync: bool,
    #[cfg(test)]
    pub(super) faults: super::faults::Faults,
}

impl Log {
    /// Begins a log file.
    pub(super) fn create(dir: &Dir, number: u64, frame: u64, sync: bool) -> io::Result<Self> {
        let path = dir.path(FileKind::Log, number);
        let header = Header::new(FileKind::Log, number, frame);
        let made = (|| {
            let file = dir.create(&path)?;
            file.write_all_at(&header.encode(), 0)?;
            if sync {
                file.sync_all()?;
                dir.sync()?;
            }
            Ok(file)
        })();
        match made {
            Ok(file) => Ok(Self {
                file,
                header,
                end: HEADER as u64,
                sync,
                #[cfg(test)]
                faults: super::faults::Faults::default(),
            }),
            Err(error) => {
                // Half a file must not be taken for a damaged one at the next start.
                let _ = std::fs::remove_file(&path);
                Err(error)
            }
        }
    }

    /// Goes on with a log file, whose last whole frame ends at `end`; what follows is cut off.
    pub(super) fn resume(dir: &Dir, header: Header, end: u64, sync: bool) -> Result<Self, OpenError> {
        let path = dir.path(FileKind::Log, header.number);
        let io = |action| {
            let path = path.clone();
            move |source| OpenError::Io { action, path, source }
        };
        let file = File::options().write(true).open(&path).map_err(io("open"))?;
        if file.metadata().map_err(io("read"))?.len() > end {
            file.set_len(end).map_err(io("cut the torn end of"))?;
        }
        // Also what a crashed process wrote but could not sync becomes durable before it is shown to anybody.
        file.sync_all().map_err(io("sync"))?;
        Ok(Self {
            file,
            header,
            end,
            sync,
            #[cfg(test)]
            faults: super::faults::Faults::default(),
        })
    }

    pub(super) fn number(&self) -> u64 {
        self.header.number
    }

    pub(super) fn salt(&self) -> u32 {
        self.header.salt
    }

    /// The length of the file.
    pub(super) fn len(&self) -> u64 {
        self.end
    }

    /// Appends a frame and makes it durable.
    pub(super) fn append(&mut self, frame: &[u8]) -> Result<(), AppendError> {
        match self.write(frame) {
            Ok(()) => {
                self.end += frame.len() as u64;
                Ok(())
            }
            Err(error) if is_full(&error) => match self.cut() {
                Ok(()) => Err(AppendError::NoSpace),
                Err(error) => Err(AppendError::Failed(error)),
            },
            // After a failed sync the kernel forgets which pages were not written: trying again would only look fine.
            Err(error) => Err(AppendError::Failed(error)),
        }
    }

    fn write(&mut self, frame: &[u8]) -> io::Result<()> {
        #[cfg(test)]
        let frame = &frame[..self.faults.write(&self.file, frame, self.end)?];
        self.file.write_all_at(frame, self.end)?;
        #[cfg(test)]
        self.faults.sync()?;
        if self.sync { self.file.sync_data() } else { Ok(()) }
    }

    fn cut(&mut self) -> io::Result<()> {
        self.file.set_len(self.end)?;
        if self.sync { self.file.sync_all() } else { Ok(()) }
    }
}

/// Whether the error says that there is no space.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}
