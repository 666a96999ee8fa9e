//! What a crash may leave: a log that ends anywhere, a process that is gone in the middle of anything.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::process::{Command, Stdio};

use bytes::Bytes;
use storage::{Embedded, Expect, Options, Storage, WriteOutcome};

use crate::quick;

/// Tells the test binary, started again by itself, to be the process that gets killed.
const CHILD: &str = "STORAGE_TEST_CRASH_DIR";

async fn put(store: &Embedded, key: &str, value: &str) -> u64 {
    match store.put(key, Bytes::copy_from_slice(value.as_bytes()), Expect::Any, None).await {
        Ok(WriteOutcome::Done(kv)) => kv.mod_revision.0,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_log_cut_anywhere_opens_with_what_came_before() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("0000000000000001.log");
    let store = Embedded::open(dir.path(), quick()).expect("open");
    // The length of the log after each write.
    let mut lengths = vec![fs::metadata(&log).expect("metadata").len()];
    for round in 0..8 {
        put(&store, &format!("/{}", round % 3), &"x".repeat(round * 9)).await;
        lengths.push(fs::metadata(&log).expect("metadata").len());
    }
    drop(store);
    let whole = fs::read(&log).expect("read");
    for cut in 0..=whole.len() {
        fs::write(&log, &whole[..cut]).expect("write");
        let store =
            Embedded::open(dir.path(), quick()).unwrap_or_else(|error| panic!("cut at {cut}: {error}"));
        let kept = lengths.iter().filter(|length| **length <= cut as u64).count().max(1) as u64;
        assert_eq!(store.stats().revision.0, kept, "cut at {cut}");
        assert_eq!(put(&store, "/after", "y").await, kept + 1, "cut at {cut}");
        drop(store);
        let store =
            Embedded::open(dir.path(), quick()).unwrap_or_else(|error| panic!("after cut at {cut}: {error}"));
        assert_eq!(store.stats().revision.0, kept + 1, "after cut at {cut}");
        drop(store);
    }
}

#[tokio::test]
async fn a_torn_last_group_is_cut_whatever_its_bytes_are() {
    let dir = tempfile::tempdir().expect("a directory");
    let log = dir.path().join("0000000000000001.log");
    let store = Embedded::open(dir.path(), quick()).expect("open");
    put(&store, "/a", "kept").await;
    let end = fs::metadata(&log).expect("metadata").len() as usize;
    put(&store, "/b", "torn torn torn").await;
    drop(store);
    let whole = fs::read(&log).expect("read");
    for offset in end..whole.len() {
        // Blocks reach the disk in any order: any part of the group may be old, or zero.
        for damaged in [whole[offset] ^ 0xFF, 0] {
            let mut bytes = whole.clone();
            bytes[offset] = damaged;
            if bytes == whole {
                continue;
            }
            fs::write(&log, &bytes).expect("write");
            let store =
                Embedded::open(dir.path(), quick()).unwrap_or_else(|error| panic!("{offset}: {error}"));
            assert_eq!(store.stats().revision.0, 2, "{offset}");
        }
    }
}

#[tokio::test]
async fn what_was_half_made_is_removed() {
    let dir = tempfile::tempdir().expect("a directory");
    drop(Embedded::open(dir.path(), quick()).expect("open"));
    let half = dir.path().join("0000000000000002.snapshot.tmp");
    fs::write(&half, "half").expect("write");
    drop(Embedded::open(dir.path(), quick()).expect("open again"));
    assert!(!half.exists());
}

/// The process that gets killed; does nothing in an ordinary run of the tests.
#[test]
fn child() {
    let Some(dir) = std::env::var_os(CHILD) else { return };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let options = Options { snapshot_bytes: 4000, ..quick() };
        let store = std::sync::Arc::new(Embedded::open(dir, options).expect("open"));
        let began = store.stats().revision.0;
        let writers: Vec<_> = (0..4)
            .map(|writer| {
                let store = store.clone();
                tokio::spawn(async move {
                    for round in 0.. {
                        let key = format!("/{writer}/{}", round % 5);
                        let value = format!("{began}.{round}");
                        let revision = put(&store, &key, &value).await;
                        let line = format!("ack {revision} {key} {value}\n");
                        // One write each: a line is whole or not there. The reader kills us, so it may be gone first.
                        if std::io::stderr().write_all(line.as_bytes()).is_err() {
                            return;
                        }
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.await.expect("no panic");
        }
    });
}

#[tokio::test]
async fn a_killed_process_loses_nothing_acknowledged() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("data");
    let mut last = 1;
    for round in 0..12_usize {
        let mut child = Command::new(std::env::current_exe().expect("this binary"))
            .args(["crash::child", "--exact", "--nocapture", "--test-threads=1"])
            .env(CHILD, &path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("start");
        let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
        let mut acknowledged = Vec::new();
        let enough = 50 + round * 37;
        while acknowledged.len() < enough {
            let line = lines.next().expect("the child goes on").expect("a line");
            acknowledged.extend(line.strip_prefix("ack ").map(str::to_owned));
        }
        child.kill().expect("kill -9");
        // What it had acknowledged before it died counts too; its last line may be cut.
        acknowledged.extend(
            lines.map_while(Result::ok).filter_map(|line| Some(line.strip_prefix("ack ")?.to_owned())),
        );
        child.wait().expect("wait");

        let store = Embedded::open(&path, quick()).expect("opens by itself");
        let revision = store.stats().revision.0;
        for line in &acknowledged {
            let words: Vec<_> = line.split(' ').collect();
            let [written, key, value] = words[..] else { continue };
            let Ok(written) = written.parse::<u64>() else { continue };
            assert!(written > last, "revisions go on: {written} after {last}");
            assert!(written <= revision, "acknowledged {written} but the store is at {revision}");
            let (kv, _) = store.get(key, None).await.expect("get");
            let kv = kv.expect("acknowledged and never deleted");
            assert!(kv.mod_revision.0 >= written, "{key} went back to {}", kv.mod_revision);
            if kv.mod_revision.0 == written {
                assert_eq!(&kv.value[..], value.as_bytes());
            }
        }
        last = revision;
    }
}
