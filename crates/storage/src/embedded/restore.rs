//! Restoring: an image becomes a data directory, in one step that a crash cannot halve; the old one is kept aside.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, RenameFlags, renameat_with};
use tracing::info;

use super::dir::Dir;
use super::frame::FileKind;
use super::image::Image;
use super::log::Log;
use super::{OpenError, Options};
use crate::Revision;

/// What restoring did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Restored {
    /// The store's revision now.
    pub revision: Revision,
    /// The revision of the data that was there before; `None`: there was none, or it cannot be read.
    pub before: Option<Revision>,
    /// Where that is now.
    pub aside: Option<PathBuf>,
}

impl Image {
    /// Makes a data directory of this image, in place of what is there, which is kept beside it. Fails with
    /// [`OpenError::Locked`] while a server runs on it.
    ///
    /// The store goes on at `bump` above the revision of the image and above that of the old data, if it can be read:
    /// no revision is given twice, and whoever watched the old store is told to list anew.
    pub fn restore(
        &self,
        path: &Path,
        bump: u64,
        written: &mut dyn FnMut(u64),
    ) -> Result<Restored, OpenError> {
        let io = |action| move |source| OpenError::Io { action, path: path.to_owned(), source };
        let exists = path.symlink_metadata().is_ok();
        let _held = if exists { Some(Dir::hold(path)?) } else { None };
        let before = Image::read(path).ok().map(|(old, _)| old.revision());
        let revision = Revision(before.unwrap_or_default().max(self.revision()).0.saturating_add(bump));
        let made = beside(path, "restoring");
        // What an earlier attempt left half made.
        match fs::remove_dir_all(&made) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(io("remove what an earlier attempt left beside")(error));
            }
            _ => {}
        }
        self.make(&made, revision, written)?;
        let aside = if exists {
            // The new data takes the name where the old is going to be, then they change places in one step: at every
            // moment there is a whole directory under the name, and nothing that a later attempt would remove is old.
            let aside = free_name(path);
            fs::rename(&made, &aside).map_err(io("rename beside"))?;
            renameat_with(CWD, &aside, CWD, path, RenameFlags::EXCHANGE)
                .map_err(|errno| io("exchange")(errno.into()))?;
            Some(aside)
        } else {
            fs::rename(&made, path).map_err(io("rename to"))?;
            None
        };
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        File::open(parent).and_then(|parent| parent.sync_all()).map_err(io("sync the directory of"))?;
        info!(%revision, keys = self.len(), path = %path.display(), "data directory restored");
        Ok(Restored { revision, before, aside })
    }

    fn make(&self, path: &Path, revision: Revision, written: &mut dyn FnMut(u64)) -> Result<(), OpenError> {
        let dir = Dir::open(path)?;
        let io = |source| OpenError::Io { action: "write", path: path.to_owned(), source };
        let number = 1;
        let next_frame = 0;
        let snapshot = dir.path(FileKind::Snapshot, number);
        // The log first: a snapshot without its log would be damage.
        Log::create(&dir, number, next_frame, Options::default().sync).map_err(io)?;
        let file = dir.create(&snapshot).map_err(io)?;
        self.write_to(file, FileKind::Snapshot, number, next_frame, revision, written).map_err(io)?;
        dir.sync().map_err(io)
    }
}

fn beside(path: &Path, what: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(what);
    name.into()
}

fn free_name(path: &Path) -> PathBuf {
    let mut number = 1;
    loop {
        let name = beside(path, &format!("before-restore-{number}"));
        if name.symlink_metadata().is_err() {
            return name;
        }
        number += 1;
    }
}
