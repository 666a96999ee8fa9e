//! Files written whole or not at all, private ones never readable by others, not even for a moment.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read as _, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

/// The largest file read here; every certificate bundle and kubeconfig is far smaller.
const LARGEST: u64 = 4 << 20;

/// A file that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("cannot {step} {}", path.display())]
pub struct FileError {
    /// What was tried.
    pub step: &'static str,
    /// On which file.
    pub path: PathBuf,
    /// Why it failed.
    #[source]
    pub source: io::Error,
}

fn at<'a>(step: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> FileError + 'a {
    move |source| FileError { step, path: path.to_owned(), source }
}

/// Writes a file of mode 0600 in one step: readers see the old content or the new.
pub fn write_private(path: &Path, content: &[u8]) -> Result<(), FileError> {
    write(path, content, 0o600)
}

/// Writes a file of mode 0644 in one step: readers see the old content or the new.
pub fn write_public(path: &Path, content: &[u8]) -> Result<(), FileError> {
    write(path, content, 0o644)
}

fn write(path: &Path, content: &[u8], mode: u32) -> Result<(), FileError> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    // A leftover of a crashed process with our id may have other rights: start afresh.
    let _ = fs::remove_file(&temporary);
    let written = (|| {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
        // The mode above is cut by the umask; say it again.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&temporary, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&temporary);
    }
    written.map_err(at("write", path))
}

/// Makes the renames in a directory last over a power cut.
pub(crate) fn sync_directory(path: &Path) -> Result<(), FileError> {
    File::open(path).and_then(|d| d.sync_all()).map_err(at("sync", path))
}

/// Makes a directory that only its owner can enter.
pub(crate) fn private_directory(path: &Path) -> Result<(), FileError> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(at("create", path))?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700)).map_err(at("set the mode of", path))
}

/// Reads a text file of at most 4 MiB; `None` if there is none.
pub fn read(path: &Path) -> Result<Option<String>, FileError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(at("read", path)(error)),
    };
    let mut bytes = Vec::new();
    file.take(LARGEST + 1).read_to_end(&mut bytes).map_err(at("read", path))?;
    if bytes.len() as u64 > LARGEST {
        return Err(at("read", path)(io::Error::new(io::ErrorKind::FileTooLarge, "larger than 4 MiB")));
    }
    // Bytes that are not text are not PEM either, and the PEM reader says so in better words.
    Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
}

/// Whether nobody but its owner has rights to a file.
pub(crate) fn is_private(path: &Path) -> io::Result<bool> {
    Ok(fs::metadata(path)?.permissions().mode() & 0o077 == 0)
}

/// Takes rights to a private file away from group and others, if they have any; says whether they had. The rights of
/// what a link leads to are somebody else's: they are not changed, and if others may read it, that is an error.
pub(crate) fn tighten(path: &Path) -> Result<bool, FileError> {
    let metadata = fs::symlink_metadata(path).map_err(at("read", path))?;
    if metadata.is_symlink() {
        if is_private(path).map_err(at("read", path))? {
            return Ok(false);
        }
        let why = "it is a link to a file that others may read";
        return Err(at("use", path)(io::Error::new(io::ErrorKind::PermissionDenied, why)));
    }
    if metadata.permissions().mode() & 0o077 == 0 {
        return Ok(false);
    }
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(at("set the mode of", path))?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).expect("it is there").permissions().mode() & 0o777
    }

    #[test]
    fn a_link_in_the_place_of_a_key_is_replaced_and_not_followed() {
        let dir = tempfile::tempdir().expect("a directory");
        let (victim, key) = (dir.path().join("victim"), dir.path().join("ca.key"));
        fs::write(&victim, "precious").expect("written");
        std::os::unix::fs::symlink(&victim, &key).expect("linked");
        write_private(&key, b"secret").expect("written");
        assert_eq!(fs::read_to_string(&victim).expect("read"), "precious");
        assert!(!fs::symlink_metadata(&key).expect("it is there").is_symlink());
        assert_eq!((fs::read(&key).expect("read"), mode(&key)), (b"secret".to_vec(), 0o600));
        // Neither is the temporary file: whoever guesses its name gains nothing.
        let guessed = dir.path().join(format!("ca.key.{}.new", std::process::id()));
        std::os::unix::fs::symlink(&victim, &guessed).expect("linked");
        write_private(&key, b"secret 2").expect("written");
        assert_eq!(fs::read_to_string(&victim).expect("read"), "precious");
        assert!(!guessed.exists());
    }

    #[test]
    fn the_rights_behind_a_link_are_not_ours_to_change() {
        let dir = tempfile::tempdir().expect("a directory");
        let (target, key) = (dir.path().join("target"), dir.path().join("ca.key"));
        fs::write(&target, "x").expect("written");
        std::os::unix::fs::symlink(&target, &key).expect("linked");
        let set = |mode| fs::set_permissions(&target, fs::Permissions::from_mode(mode)).expect("set");
        set(0o644);
        assert_eq!(
            tighten(&key).expect_err("others may read it").source.kind(),
            io::ErrorKind::PermissionDenied
        );
        assert_eq!(mode(&target), 0o644);
        set(0o600);
        assert!(!tighten(&key).expect("it is private"));
        // A file of its own is tightened.
        set(0o640);
        assert!(tighten(&target).expect("tightened"));
        assert_eq!(mode(&target), 0o600);
        assert_eq!(read(&key).expect("read"), Some("x".into()));
    }
}
