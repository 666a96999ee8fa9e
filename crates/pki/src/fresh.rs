//! What is made from files, made anew when they change.

use std::{
    fmt, fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

/// How often files are looked at, at most.
const LOOK: Duration = Duration::from_secs(1);
/// The largest file that is read.
const LARGEST: u64 = 4 << 20;

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot use {}: {why}", path.display())]
pub struct FreshError {
    /// The file; the first where several make one value.
    pub path: PathBuf,
    /// Why not.
    pub why: String,
}

/// Tells one state of a file from another.
#[derive(PartialEq, Eq, Clone, Copy, Debug)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

type Make<T> = Box<dyn Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync>;

/// A value made from the contents of files. Asking for it looks at the files, at most once a second, and makes it anew
/// when one has changed; while nobody asks, nothing happens. What cannot be used is reported once, and the old value
/// stays: half of a new certificate and key must not end the service.
pub struct Fresh<T> {
    paths: Vec<PathBuf>,
    make: Make<T>,
    held: Mutex<Held<T>>,
}

struct Held<T> {
    stamps: Vec<Option<Stamp>>,
    looked: Instant,
    value: Arc<T>,
}

impl<T> fmt::Debug for Fresh<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Fresh").field("paths", &self.paths).finish_non_exhaustive()
    }
}

fn stamp(path: &Path) -> Option<Stamp> {
    let m = fs::metadata(path).ok()?;
    Some(Stamp { device: m.dev(), inode: m.ino(), size: m.size(), changed: (m.ctime(), m.ctime_nsec()) })
}

fn contents(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>, FreshError> {
    let read = |path: &PathBuf| {
        let size = fs::metadata(path).map_err(|e| e.to_string())?.len();
        if size > LARGEST {
            return Err("it is larger than 4 MiB".to_owned());
        }
        fs::read(path).map_err(|e| e.to_string())
    };
    paths.iter().map(|path| read(path).map_err(|why| FreshError { path: path.clone(), why })).collect()
}

impl<T> Fresh<T> {
    /// Reads the files and makes the first value; `make` gets their contents in the order of `paths`.
    pub fn open(
        paths: Vec<PathBuf>,
        make: impl Fn(&[Vec<u8>]) -> Result<T, String> + Send + Sync + 'static,
    ) -> Result<Self, FreshError> {
        let stamps = paths.iter().map(|p| stamp(p)).collect();
        let first = paths.first().cloned().unwrap_or_default();
        let value = make(&contents(&paths)?).map_err(|why| FreshError { path: first, why })?;
        let held = Held { stamps, looked: Instant::now(), value: Arc::new(value) };
        Ok(Self { paths, make: Box::new(make), held: Mutex::new(held) })
    }

    /// The value of now.
    pub fn get(&self) -> Arc<T> {
        let mut held = self.held.lock().unwrap_or_else(PoisonError::into_inner);
        if held.looked.elapsed() >= LOOK {
            held.looked = Instant::now();
            let stamps: Vec<Option<Stamp>> = self.paths.iter().map(|p| stamp(p)).collect();
            if stamps != held.stamps {
                held.stamps = stamps;
                self.renew(&mut held);
            }
        }
        held.value.clone()
    }

    fn renew(&self, held: &mut Held<T>) {
        let made = contents(&self.paths).map_err(|e| e.to_string()).and_then(|all| (self.make)(&all));
        let path = self.paths.first().map(|p| p.display().to_string()).unwrap_or_default();
        match made {
            Ok(value) => {
                held.value = Arc::new(value);
                tracing::info!(path, "file changed, its new content is in use");
            }
            Err(why) => tracing::warn!(path, why, "file changed and cannot be used, the old content stays in use"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_its_files_and_survives_bad_ones() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("f");
        fs::write(&path, "1").expect("written");
        let parse = |all: &[Vec<u8>]| String::from_utf8_lossy(&all[0]).parse::<i32>().map_err(|e| e.to_string());
        let fresh = Fresh::open(vec![path.clone()], parse).expect("a number");
        let look = || {
            fresh.held.lock().expect("whole").looked -= LOOK;
            *fresh.get()
        };
        assert_eq!(look(), 1);
        crate::write_private(&path, b"2").expect("written");
        assert_eq!(look(), 2);
        fs::write(&path, "no number").expect("written");
        assert_eq!(look(), 2);
        fs::remove_file(&path).expect("removed");
        assert_eq!(look(), 2);
        fs::write(&path, "3").expect("written");
        assert_eq!(look(), 3);
        assert!(Fresh::open(vec![dir.path().join("none")], parse).is_err());
    }
}
