//! Waits for changes of one file or directory, without a thread.

use std::io;
use std::path::Path;

use inotify::{Inotify, WatchMask};
use tokio::io::unix::AsyncFd;

/// A watch on one path.
pub struct FileWatch {
    inotify: AsyncFd<Inotify>,
}

impl FileWatch {
    /// Watches from now on.
    pub fn new(path: &Path, mask: WatchMask) -> io::Result<FileWatch> {
        let inotify = Inotify::init()?;
        inotify.watches().add(path, mask)?;
        Ok(FileWatch { inotify: AsyncFd::new(inotify)? })
    }

    /// Waits until something has changed since the last call; all that has changed is one change.
    pub async fn changed(&mut self) -> io::Result<()> {
        let mut buffer = [0; 4096];
        loop {
            let mut ready = self.inotify.readable_mut().await?;
            let mut any = false;
            loop {
                match ready.get_inner_mut().read_events(&mut buffer) {
                    Ok(events) => any |= events.count() > 0,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                    Err(error) => return Err(error),
                }
            }
            ready.clear_ready();
            if any {
                return Ok(());
            }
        }
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
