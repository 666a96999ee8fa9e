//! Writes a set of files so that readers see all of the old or all of the new: the files live in a dated directory, a
//! link `..data` names the current one, and the names that users see are links through it. Upstream's layout.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

/// A file to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Its content.
    pub data: Vec<u8>,
    /// Its permission bits.
    pub mode: u32,
    /// Its owner, if not root.
    pub owner: Option<u32>,
}

/// Files by relative path.
pub type Files = BTreeMap<PathBuf, File>;

const DATA: &str = "..data";
const DATA_NEXT: &str = "..data_tmp";

fn check(path: &Path) -> io::Result<()> {
    let plain = path.components().all(|part| matches!(part, Component::Normal(_)));
    let dotted =
        path.components().next().is_some_and(|part| part.as_os_str().to_string_lossy().starts_with(".."));
    if !plain || dotted || path.as_os_str().is_empty() || path.as_os_str().len() > 4096 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("invalid path {}", path.display())));
    }
    Ok(())
}

/// Makes `target` hold exactly `files`; answers whether anything changed. `group` owns everything, if given.
pub fn write(target: &Path, files: &Files, group: Option<u32>) -> io::Result<bool> {
    for path in files.keys() {
        check(path)?;
    }
    let current = fs::read_link(target.join(DATA)).ok();
    if let Some(current) = &current {
        if holds(&target.join(current), files) {
            return Ok(false);
        }
    }
    let fresh = new_directory(target)?;
    fill(&target.join(&fresh), files, group)?;
    let next = target.join(DATA_NEXT);
    let _ = fs::remove_file(&next);
    symlink(&fresh, &next)?;
    fs::rename(&next, target.join(DATA))?;
    link_names(target, files)?;
    if let Some(current) = current {
        fs::remove_dir_all(target.join(current))?;
    }
    Ok(true)
}

fn holds(directory: &Path, files: &Files) -> bool {
    let mut found = BTreeSet::new();
    if list(directory, Path::new(""), &mut found).is_err() || found.len() != files.len() {
        return false;
    }
    files.iter().all(|(path, file)| {
        let at = directory.join(path);
        let same_mode = fs::metadata(&at).is_ok_and(|metadata| {
            metadata.mode() & 0o777 & file.mode == file.mode & 0o777
                && file.owner.is_none_or(|owner| owner == metadata.uid())
        });
        same_mode && fs::read(&at).is_ok_and(|data| data == file.data)
    })
}

fn list(directory: &Path, prefix: &Path, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(directory.join(prefix))? {
        let entry = entry?;
        let path = prefix.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            list(directory, &path, found)?;
        } else {
            found.insert(path);
        }
    }
    Ok(())
}

fn new_directory(target: &Path) -> io::Result<PathBuf> {
    let stamp = jiff::Timestamp::now().strftime("%Y_%m_%d_%H_%M_%S").to_string();
    for attempt in 0..1000u32 {
        let seed = format!("{}{stamp}{attempt}{}", target.display(), std::process::id());
        let name = PathBuf::from(format!("..{stamp}.{}", crate::labels::fnv32a(seed.as_bytes())));
        match fs::DirBuilder::new().mode(0o755).create(target.join(&name)) {
            Ok(()) => return Ok(name),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::other("no free directory name"))
}

fn fill(directory: &Path, files: &Files, group: Option<u32>) -> io::Result<()> {
    // The umask must not take away what the mode grants.
    fs::set_permissions(directory, fs::Permissions::from_mode(0o755))?;
    let mut directories = BTreeSet::from([directory.to_owned()]);
    for (path, file) in files {
        let at = directory.join(path);
        if let Some(parent) = at.parent() {
            fs::create_dir_all(parent)?;
            directories.extend(
                parent.ancestors().take_while(|above| above.starts_with(directory)).map(Path::to_owned),
            );
        }
        let mut handle = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&at)?;
        handle.write_all(&file.data)?;
        if file.owner.is_some() {
            std::os::unix::fs::chown(&at, file.owner, None)?;
        }
        // Files of read-only volumes are opened to the group for reading alone.
        let mode = file.mode | if group.is_some() { 0o440 } else { 0 };
        if group.is_some() {
            std::os::unix::fs::chown(&at, None, group)?;
        }
        fs::set_permissions(&at, fs::Permissions::from_mode(mode))?;
    }
    for directory in directories {
        let mode = if group.is_some() { 0o2775 } else { 0o755 };
        std::os::unix::fs::chown(&directory, None, group)?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(mode))?;
    }
    Ok(())
}

/// Makes the names that users see, and takes away those that no longer exist.
fn link_names(target: &Path, files: &Files) -> io::Result<()> {
    let wanted: BTreeSet<_> = files.keys().filter_map(|path| path.iter().next().map(PathBuf::from)).collect();
    for name in &wanted {
        let link = target.join(name);
        let aim = Path::new(DATA).join(name);
        if fs::read_link(&link).ok().as_ref() != Some(&aim) {
            let _ = fs::remove_file(&link);
            symlink(&aim, &link)?;
        }
    }
    for entry in fs::read_dir(target)? {
        let name = PathBuf::from(entry?.file_name());
        if !name.to_string_lossy().starts_with("..") && !wanted.contains(&name) {
            fs::remove_file(target.join(&name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Files {
        list.iter()
            .map(|(path, data)| {
                (PathBuf::from(path), File { data: data.as_bytes().to_vec(), mode: 0o644, owner: None })
            })
            .collect()
    }

    #[test]
    fn names_follow_the_content() {
        let dir = tempfile::tempdir().expect("dir");
        let at = dir.path();
        assert!(write(at, &files(&[("a", "1"), ("d/b", "2")]), None).expect("first"));
        assert_eq!(fs::read_to_string(at.join("a")).expect("a"), "1");
        assert_eq!(fs::read_to_string(at.join("d/b")).expect("b"), "2");
        assert!(!write(at, &files(&[("a", "1"), ("d/b", "2")]), None).expect("same"));
        assert!(write(at, &files(&[("a", "3")]), None).expect("changed"));
        assert_eq!(fs::read_to_string(at.join("a")).expect("a"), "3");
        assert!(!at.join("d").exists());
        let dated = fs::read_dir(at).expect("list").filter(|entry| {
            entry.as_ref().is_ok_and(|entry| entry.file_name().to_string_lossy().starts_with("..2"))
        });
        assert_eq!(dated.count(), 1);
    }

    #[test]
    fn paths_cannot_leave_the_volume() {
        let dir = tempfile::tempdir().expect("dir");
        for bad in ["../x", "/x", "..data", "a/../../b", ""] {
            assert!(write(dir.path(), &files(&[(bad, "")]), None).is_err(), "{bad}");
        }
    }
}
