//! The stores from outside, in one binary.

mod crash;
mod directory;
mod etcd;
mod fuzzed;
mod image;
mod interleavings;
mod kill;
mod model;
mod readonly;

use std::sync::Arc;

use storage::{Embedded, Options, Storage};

/// Without sync: what these tests kill is a process, not the machine.
fn quick() -> Options {
    Options { sync: false, ..Options::default() }
}

/// A directory in memory, where there is one: for tests of what files hold, in hundreds of steps, rather than of a disk.
fn memory() -> tempfile::TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a directory")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_passes_the_suite() {
    let root = tempfile::tempdir().expect("a directory");
    let number = std::sync::atomic::AtomicU32::new(0);
    storage::suite::run(|| async {
        let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let store = Embedded::open(root.path().join(number.to_string()), quick()).expect("open");
        Arc::new(store) as Arc<dyn Storage>
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_store_passes_the_suite_with_syncs_and_tiny_snapshots() {
    let root = tempfile::tempdir().expect("a directory");
    let number = std::sync::atomic::AtomicU32::new(0);
    storage::suite::run(|| async {
        let number = number.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let options = Options { snapshot_bytes: 512, ..Options::default() };
        let store = Embedded::open(root.path().join(number.to_string()), options).expect("open");
        Arc::new(store) as Arc<dyn Storage>
    })
    .await;
}
