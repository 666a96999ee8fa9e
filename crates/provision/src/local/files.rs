//! Files of a host, by the init that lives on it.

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use crate::{
    apply::{FileFacts, sha256},
    files::write_if_changed,
};

/// What is there.
pub(super) fn inspect(paths: &[PathBuf]) -> io::Result<BTreeMap<PathBuf, FileFacts>> {
    let mut found = BTreeMap::new();
    for path in paths {
        let facts = match fs::symlink_metadata(path) {
            Ok(m) if m.is_symlink() => FileFacts::Link(fs::read_link(path)?),
            Ok(m) if m.is_dir() => FileFacts::Directory { mode: m.mode() & 0o7777 },
            Ok(m) => FileFacts::File { sha256: sha256(&fs::read(path)?), mode: m.mode() & 0o7777 },
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => continue,
            Err(e) => return Err(e),
        };
        found.insert(path.clone(), facts);
    }
    Ok(found)
}

/// Makes a directory; its parents are everybody's to read.
pub(super) fn make_directory(path: &Path, mode: u32) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    match fs::DirBuilder::new().mode(mode).create(path) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Writes a file that has its mode from the beginning.
pub(super) fn write(path: &Path, mode: u32, content: &[u8]) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    // What is there may be open to others: it is not written into, but replaced.
    write_if_changed(path, content, mode)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Makes a link, in one step where something is there.
pub(super) fn link(path: &Path, to: &Path) -> io::Result<()> {
    if let Some(parent) = path.parent() {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let temporary = path.with_file_name(name);
    let _ = fs::remove_file(&temporary);
    std::os::unix::fs::symlink(to, &temporary)?;
    fs::rename(&temporary, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_found() {
        let dir = tempfile::tempdir().expect("a directory");
        let at = |name: &str| dir.path().join(name);
        make_directory(&at("a/b"), 0o700).expect("made");
        write(&at("c/key"), 0o600, b"one").expect("written");
        write(&at("c/key"), 0o600, b"two").expect("replaced");
        link(&at("l"), Path::new("/x")).expect("linked");
        link(&at("l"), Path::new("/y")).expect("linked anew");
        let found = inspect(&[at("a/b"), at("c/key"), at("l"), at("none"), at("c/key/x")]).expect("looked");
        let want = [
            (at("a/b"), FileFacts::Directory { mode: 0o700 }),
            (at("c/key"), FileFacts::File { sha256: sha256(b"two"), mode: 0o600 }),
            (at("l"), FileFacts::Link("/y".into())),
        ];
        assert_eq!(found, want.into());
    }
}
