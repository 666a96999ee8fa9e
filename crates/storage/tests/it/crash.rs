//! What a crash may leave: a log that ends anywhere, a process that is gone in the middle of anything.

use std::fs;

use bytes::Bytes;
use proptest::prelude::*;
use storage::{Embedded, Expect, Storage, WriteOutcome};

use crate::quick;

/// The unit that a disk writes whole or not at all.
const SECTOR: usize = 512;

async fn put(store: &Embedded, key: &str, value: &str) -> u64 {
    match store.put(key, Bytes::copy_from_slice(value.as_bytes()), Expect::Any, None).await {
        Ok(WriteOutcome::Done(kv)) => kv.mod_revision.0,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_log_cut_anywhere_opens_with_what_came_before() {
    let dir = crate::memory();
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
    let dir = crate::memory();
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
    let dir = crate::memory();
    drop(Embedded::open(dir.path(), quick()).expect("open"));
    let half = dir.path().join("0000000000000002.snapshot.tmp");
    fs::write(&half, "half").expect("write");
    drop(Embedded::open(dir.path(), quick()).expect("open again"));
    assert!(!half.exists());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 150, failure_persistence: None, ..ProptestConfig::default() })]

    /// The power fails while the last group is on its way: the disk has written any of its sectors, in any order, the
    /// others are as they were (zero, or the remains of another file), and the file may have any length.
    #[test]
    fn a_power_cut_leaves_the_last_group_absent_or_whole(
        sizes in proptest::collection::vec(0..3000_usize, 1..5),
        last in 0..6000_usize,
        written in proptest::collection::vec(any::<bool>(), 16),
        old in any::<u8>(),
        lost in 0..7000_usize,
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(power_cut(sizes, last, written, old, lost));
    }
}

async fn power_cut(sizes: Vec<usize>, last: usize, written: Vec<bool>, old: u8, lost: usize) {
    let dir = crate::memory();
    let log = dir.path().join("0000000000000001.log");
    let store = Embedded::open(dir.path(), quick()).expect("open");
    for (number, size) in sizes.iter().enumerate() {
        put(&store, &format!("/{number}"), &"s".repeat(*size)).await;
    }
    let synced = fs::metadata(&log).expect("metadata").len() as usize;
    put(&store, "/last", &"l".repeat(last)).await;
    drop(store);
    let whole = fs::read(&log).expect("read");
    let mut found = whole.clone();
    for (number, start) in (synced / SECTOR * SECTOR..whole.len()).step_by(SECTOR).enumerate() {
        if !written[number % written.len()] {
            let from = start.max(synced);
            let to = (start + SECTOR).min(whole.len());
            found[from..to].fill(old);
        }
    }
    found.truncate(whole.len().saturating_sub(lost).max(synced));
    fs::write(&log, &found).expect("write");
    let before = sizes.len() as u64 + 1;
    let expected = if found == whole { before + 1 } else { before };
    for again in 0..2 {
        let store = Embedded::open(dir.path(), quick()).expect("opens by itself");
        assert_eq!(store.stats().revision.0, expected + again);
        for (number, size) in sizes.iter().enumerate() {
            let (kv, _) = store.get(&format!("/{number}"), None).await.expect("get");
            assert_eq!(kv.expect("acknowledged").value.len(), *size);
        }
        let (kv, _) = store.get("/last", None).await.expect("get");
        assert_eq!(kv.map(|kv| kv.value.len()), (found == whole).then_some(last));
        assert_eq!(put(&store, "/after", "x").await, expected + again + 1);
    }
}
