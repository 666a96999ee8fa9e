//! The data directory: who may open it, what is refused, what a full disk does.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use bytes::Bytes;
use storage::{Embedded, Error, Expect, OpenError, Options, Storage, WriteOutcome};

use crate::quick;

async fn put(store: &Embedded, key: &str, value: Vec<u8>) -> Result<WriteOutcome, Error> {
    store.put(key, Bytes::from(value), Expect::Any, None).await
}

fn refusal(path: &Path) -> OpenError {
    match Embedded::open(path, quick()) {
        Ok(_) => panic!("opened"),
        Err(error) => error,
    }
}

fn files(dir: &Path, end: &str) -> Vec<PathBuf> {
    let mut files: Vec<_> = fs::read_dir(dir)
        .expect("list")
        .map(|entry| entry.expect("entry").path())
        .filter(|path| path.extension().is_some_and(|found| found == end))
        .collect();
    files.sort();
    files
}

#[tokio::test]
async fn a_second_process_is_told_who_holds_the_directory() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(dir.path(), quick()).expect("open");
    let error = refusal(dir.path());
    assert!(
        matches!(error, OpenError::Locked { pid: Some(pid), .. } if pid == std::process::id()),
        "{error}"
    );
    assert!(error.to_string().contains(&format!("in use by process {}", std::process::id())), "{error}");
    drop(store);
    Embedded::open(dir.path(), quick()).expect("free again");
}

#[tokio::test]
async fn a_directory_of_another_version_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(Embedded::open(dir.path(), quick()).expect("open"));
    fs::write(dir.path().join("FORMAT"), "coxswain-storage 9\n").expect("write");
    let error = refusal(dir.path());
    assert!(matches!(&error, OpenError::OtherVersion { found, .. } if found == "9"), "{error}");
    assert!(error.to_string().contains("format version 9, this program reads versions 1 to 2"), "{error}");
    fs::remove_file(dir.path().join("FORMAT")).expect("remove");
    assert!(matches!(refusal(dir.path()), OpenError::Missing { .. }));
}

#[tokio::test]
async fn nobody_else_can_read_the_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("data");
    let options = Options { snapshot_bytes: 100, ..quick() };
    let store = Embedded::open(&path, options).expect("open");
    for _ in 0..20 {
        put(&store, "/a", vec![1; 100]).await.expect("put");
    }
    drop(store);
    let mode = |path: &Path| fs::metadata(path).expect("metadata").permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    for entry in fs::read_dir(&path).expect("list") {
        let path = entry.expect("entry").path();
        assert_eq!(mode(&path), 0o600, "{}", path.display());
    }
}

#[tokio::test]
async fn damage_in_the_middle_is_an_error_and_changes_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(dir.path(), quick()).expect("open");
    for round in 0..10 {
        put(&store, &format!("/{round}"), vec![round; 50]).await.expect("put");
    }
    drop(store);
    let log = files(dir.path(), "log").pop().expect("a log");
    let whole = fs::read(&log).expect("read");
    let mut offsets: Vec<usize> = (36..whole.len() - 150).collect();
    offsets.retain(|offset| offset % 7 == 0);
    for offset in offsets {
        let mut damaged = whole.clone();
        damaged[offset] ^= 0x20;
        fs::write(&log, &damaged).expect("write");
        let error = refusal(dir.path());
        assert!(matches!(error, OpenError::Corrupt { .. }), "{offset}: {error}");
        assert!(error.to_string().contains("restore"), "{error}");
        assert_eq!(fs::read(&log).expect("read"), damaged);
    }
    let mut other = whole.clone();
    other[8] = 9;
    fs::write(&log, &other).expect("write");
    assert!(matches!(refusal(dir.path()), OpenError::OtherVersion { .. }));
    fs::write(&log, &whole).expect("write");
    Embedded::open(dir.path(), quick()).expect("whole again");
}

#[tokio::test]
async fn damaged_and_missing_files_are_found() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options { snapshot_bytes: 2000, ..quick() };
    let store = Embedded::open(dir.path(), options).expect("open");
    let began = Instant::now();
    while files(dir.path(), "snapshot").is_empty() {
        for round in 0..100 {
            put(&store, &format!("/{}", round % 5), vec![round; 50]).await.expect("put");
        }
        assert!(began.elapsed() < Duration::from_secs(60), "no snapshot is written");
    }
    drop(store);
    let snapshot = files(dir.path(), "snapshot").pop().expect("a snapshot");
    let whole = fs::read(&snapshot).expect("read");
    for cut in [0, 20, 36, 40, whole.len() / 2, whole.len() - 1] {
        fs::write(&snapshot, &whole[..cut]).expect("write");
        assert!(matches!(refusal(dir.path()), OpenError::Corrupt { .. }), "cut at {cut}");
    }
    for offset in (36..whole.len()).step_by(11) {
        let mut damaged = whole.clone();
        damaged[offset] ^= 1;
        fs::write(&snapshot, &damaged).expect("write");
        assert!(matches!(refusal(dir.path()), OpenError::Corrupt { .. }), "damaged at {offset}");
    }
    fs::write(&snapshot, &whole).expect("write");
    let log = snapshot.with_extension("log");
    let bytes = fs::read(&log).expect("read");
    fs::write(&log, b"").expect("write");
    assert!(matches!(refusal(dir.path()), OpenError::Corrupt { .. }), "a log that has lost its header");
    fs::remove_file(&log).expect("remove");
    assert!(matches!(refusal(dir.path()), OpenError::Missing { .. }), "a log that is gone");
    fs::write(&log, &bytes).expect("write");
    Embedded::open(dir.path(), quick()).expect("whole again");
}

#[tokio::test]
async fn values_and_keys_have_limits() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options { key_limit: 10, value_limit: 100, ..quick() };
    let store = Embedded::open(dir.path(), options).expect("open");
    assert!(matches!(put(&store, "/0123456789", vec![]).await, Err(Error::KeySize { len: 11, limit: 10 })));
    assert!(matches!(
        put(&store, "/a", vec![0; 101]).await,
        Err(Error::ValueTooLarge { len: 101, limit: 100 })
    ));
    put(&store, "/012345678", vec![0; 100]).await.expect("put");
}

/// A file system of a given size, unmounted at the end.
struct Small(tempfile::TempDir);

impl Small {
    fn new(kilobytes: u32) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let status = std::process::Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kilobytes}k"), "storage-test"])
            .arg(dir.path())
            .status()
            .expect("mount");
        assert!(status.success(), "mount: {status}");
        Self(dir)
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(self.0.path()).status();
    }
}

#[tokio::test]
async fn a_full_disk_loses_nothing_acknowledged() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root to mount a small file system");
        return;
    }
    let small = Small::new(512);
    let dir = small.0.path().join("data");
    let store = Embedded::open(&dir, Options::default()).expect("open");
    let mut written = 0;
    loop {
        match put(&store, &format!("/{written}"), vec![1; 10_000]).await {
            Ok(_) => written += 1,
            Err(Error::NoSpace) => break,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(written > 10, "{written}");
    assert!(matches!(put(&store, "/again", vec![1; 10_000]).await, Err(Error::NoSpace)));
    drop(store);
    let store = Embedded::open(&dir, Options::default()).expect("opens on a full disk");
    assert_eq!(store.stats().keys, written);
    let status = std::process::Command::new("mount")
        .args(["-o", "remount,size=2048k"])
        .arg(small.0.path())
        .status()
        .expect("remount");
    assert!(status.success());
    put(&store, "/again", vec![1; 10_000]).await.expect("there is space");
    assert!(!store.stats().full);
    drop(store);
    assert_eq!(Embedded::open(&dir, Options::default()).expect("open").stats().keys, written + 1);
}
