//! Mounts a part of a volume so that a container cannot be led outside it: the path is opened beneath the volume by the
//! kernel's rules, and what was opened, not the name, is bound.

use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, ResolveFlags};
use rustix::mount::{UnmountFlags, mount_bind_recursive, unmount};

fn open_beneath(root: &OwnedFd, path: &Path) -> io::Result<OwnedFd> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    Ok(rustix::fs::openat2(root.as_fd(), path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

/// Opens `path` in `volume`, making directories that are missing.
fn open(volume: &Path, path: &Path) -> io::Result<OwnedFd> {
    let root = rustix::fs::open(volume, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    match open_beneath(&root, path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        other => return other,
    }
    // Upstream gives new directories the permissions of the volume's own.
    let mode = Mode::from_bits_truncate(rustix::fs::statat(&root, "", AtFlags::EMPTY_PATH)?.st_mode & 0o7777);
    let mut at = open_beneath(&root, Path::new("."))?;
    let mut done = std::path::PathBuf::new();
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        done.push(name);
        at = match open_beneath(&root, &done) {
            Ok(next) => next,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                rustix::fs::mkdirat(at.as_fd(), name, mode)?;
                let next = open_beneath(&root, &done)?;
                // The umask must not narrow what the volume grants.
                rustix::fs::chmod(format!("/proc/self/fd/{}", next.as_raw_fd()), mode)?;
                next
            }
            Err(error) => return Err(error),
        };
    }
    Ok(at)
}

/// Binds `path` of `volume` at `target`; a mount left there by an earlier container is replaced.
pub fn prepare(volume: &Path, path: &Path, target: &Path) -> io::Result<()> {
    let source = open(volume, path)?;
    if target.exists() {
        match unmount(target, UnmountFlags::DETACH) {
            Ok(()) | Err(rustix::io::Errno::INVAL) => {}
            Err(error) => return Err(error.into()),
        }
        if target.is_dir() { std::fs::remove_dir(target)? } else { std::fs::remove_file(target)? }
    }
    let parent = target.parent().ok_or_else(|| io::Error::other("target has no parent"))?;
    std::fs::create_dir_all(parent)?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&source)?.st_mode);
    if kind == FileType::Directory {
        std::fs::create_dir(target)?;
    } else {
        std::fs::File::create(target)?;
    }
    mount_bind_recursive(format!("/proc/self/fd/{}", source.as_raw_fd()), target)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_cannot_lead_out_of_the_volume() {
        let dir = tempfile::tempdir().expect("dir");
        let volume = dir.path().join("volume");
        std::fs::create_dir(&volume).expect("volume");
        std::fs::write(dir.path().join("outside"), "secret").expect("outside");
        std::os::unix::fs::symlink("../outside", volume.join("relative")).expect("link");
        std::os::unix::fs::symlink("/etc/passwd", volume.join("absolute")).expect("link");
        std::fs::write(volume.join("file"), "").expect("file");
        std::os::unix::fs::symlink("file", volume.join("inside")).expect("link");
        assert!(open(&volume, Path::new("relative")).is_err());
        assert!(open(&volume, Path::new("absolute")).is_err());
        assert!(open(&volume, Path::new("inside")).is_ok());
        assert!(open(&volume, Path::new("new/deep")).is_ok());
        assert!(volume.join("new/deep").is_dir());
    }
}
