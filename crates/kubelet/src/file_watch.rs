//! Waits for changes of one file or directory, without a thread.

use std::io;
use std::path::Path;

use futures::{FutureExt, StreamExt};
use inotify::{EventStream, Inotify, WatchMask};

/// A watch on one path.
pub struct FileWatch {
    events: EventStream<[u8; 4096]>,
}

impl FileWatch {
    /// Watches from now on.
    pub fn new(path: &Path, mask: WatchMask) -> io::Result<FileWatch> {
        let inotify = Inotify::init()?;
        inotify.watches().add(path, mask)?;
        Ok(FileWatch { events: inotify.into_event_stream([0; 4096])? })
    }

    /// Waits until something has changed since the last call; all that has changed is one change.
    pub async fn changed(&mut self) -> io::Result<()> {
        let ended = || io::Error::from(io::ErrorKind::UnexpectedEof);
        self.events.next().await.ok_or_else(ended)??;
        while let Some(more) = self.events.next().now_or_never() {
            more.ok_or_else(ended)??;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_write_is_a_change() {
        let dir = tempfile::tempdir().expect("dir");
        let mut watch = FileWatch::new(dir.path(), WatchMask::CLOSE_WRITE).expect("watch");
        std::fs::write(dir.path().join("a"), "1").expect("write");
        watch.changed().await.expect("change");
        std::fs::write(dir.path().join("b"), "1").expect("write");
        watch.changed().await.expect("second change");
    }
}
