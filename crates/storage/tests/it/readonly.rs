//! A file system that turns read-only under a running store, as ext4 does by itself after an error of the disk.

use std::path::Path;
use std::process::Command;

use bytes::Bytes;
use storage::{Embedded, Error, Expect, Image, OpenError, Options, Storage, WriteOutcome};

/// An ext4 of its own, on a file; unmounted at the end.
struct Disk {
    mount: tempfile::TempDir,
    image: tempfile::NamedTempFile,
}

fn run(program: &str, words: &[&str]) -> Result<(), String> {
    let output = Command::new(program).args(words).output().map_err(|error| format!("{program}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!("{program}: {}", String::from_utf8_lossy(&output.stderr).trim()))
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

impl Disk {
    fn new() -> Result<Self, String> {
        let image = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
        image.as_file().set_len(16 << 20).map_err(|error| error.to_string())?;
        run("mkfs.ext4", &["-q", "-F", text(image.path())])?;
        let disk = Self { mount: tempfile::tempdir().map_err(|error| error.to_string())?, image };
        disk.attach()?;
        Ok(disk)
    }

    fn attach(&self) -> Result<(), String> {
        run("mount", &["-o", "loop", text(self.image.path()), text(self.mount.path())])
    }

    fn remount(&self, options: &str) {
        run("mount", &["-o", &format!("remount,{options}"), text(self.mount.path())]).expect("remount");
    }

    fn detach(&self) {
        run("umount", &[text(self.mount.path())]).expect("umount");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(self.mount.path()).output();
    }
}

async fn put(store: &Embedded, key: &str) -> Result<WriteOutcome, Error> {
    store.put(key, Bytes::from(vec![1; 2000]), Expect::Any, None).await
}

#[tokio::test]
async fn a_file_system_that_turns_read_only_loses_nothing_acknowledged() {
    let disk = match Disk::new() {
        Ok(disk) => disk,
        Err(why) => {
            eprintln!("skipped: needs root, mkfs.ext4 and a loop device: {why}");
            return;
        }
    };
    let dir = disk.mount.path().join("data");
    let store = Embedded::open(&dir, Options::default()).expect("open");
    for number in 0..50 {
        put(&store, &format!("/{number}")).await.expect("put");
    }
    // What ext4 does when it meets an error that it was told to stop at.
    disk.remount("abort");
    let refused = put(&store, "/refused").await;
    assert!(matches!(refused, Err(Error::Failed(_))), "{refused:?}");
    assert!(store.get("/49", None).await.expect("reads go on").0.is_some());
    assert!(store.get("/refused", None).await.expect("get").0.is_none());
    assert!(matches!(store.snapshot().await, Err(Error::Failed(_))));
    assert!(Image::read(&dir).expect("a look needs no writing").0.len() >= 50);
    drop(store);
    disk.detach();
    disk.attach().expect("mount again");
    let store = Embedded::open(&dir, Options::default()).expect("opens by itself");
    assert!(store.stats().keys == 50 || store.stats().keys == 51, "{:?}", store.stats());
    put(&store, "/again").await.expect("writes work again");
    let revision = store.stats().revision;
    drop(store);
    disk.remount("ro");
    let Err(error) = Embedded::open(&dir, Options::default()) else { panic!("opened read-only") };
    assert!(matches!(error, OpenError::Io { .. }), "{error}");
    assert_eq!(Image::read(&dir).expect("a look needs no writing").0.revision(), revision);
    disk.remount("rw");
    Embedded::open(&dir, Options::default()).expect("writable again");
}
