//! A bounded run of what the fuzzer runs, from files that are nearly right.

use std::fs;

use bytes::Bytes;
use proptest::prelude::*;
use storage::embedded::fuzzing::read_anything;
use storage::{Embedded, Expect, Storage};

use crate::quick;

/// A log, a snapshot and a backup as they should be.
fn whole() -> [Vec<u8>; 3] {
    let root = tempfile::tempdir().expect("a directory");
    let dir = root.path().join("db");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let write = |value: &'static [u8]| {
        runtime.block_on(async {
            let store = Embedded::open(&dir, quick()).expect("open");
            let lease = store.grant(std::time::Duration::from_secs(9)).await.expect("grant");
            for round in 0..4 {
                let lease = (round == 2).then_some(lease);
                store
                    .put(&format!("/{}", round % 3), Bytes::from_static(value), Expect::Any, lease)
                    .await
                    .expect("put");
            }
            store.delete("/0", Expect::Any).await.expect("delete");
            store.snapshot().await.expect("snapshot");
            store.put("/0", Bytes::from_static(value), Expect::Any, None).await.expect("put");
        });
    };
    write(b"value");
    let backup = root.path().join("backup");
    storage::Image::read(&dir).expect("read").0.write_backup(&backup, false, &mut |_| {}).expect("backup");
    let read = |path| fs::read(path).expect("read");
    let mut files =
        [read(dir.join("0000000000000002.log")), read(dir.join("0000000000000002.snapshot")), read(backup)];
    for file in &mut files {
        // The reader expects the number 0, and a log that begins at 0; the checksum of the header follows.
        file[16..32].fill(0);
        let sum = crc32fast::hash(&file[..32]);
        file[32..36].copy_from_slice(&sum.to_le_bytes());
    }
    files
}

/// How the payloads of a file are laid into frames by `read_anything`: the bytes behind the frame's header.
fn payload(file: &[u8]) -> Vec<u8> {
    file.get(56..).unwrap_or_default().to_vec()
}

#[derive(Clone, Debug)]
enum Change {
    Set(usize, u8),
    Cut(usize),
    Repeat(usize, usize),
    Number(usize, u64),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        (any::<usize>(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        any::<usize>().prop_map(Change::Cut),
        (any::<usize>(), any::<usize>()).prop_map(|(from, to)| Change::Repeat(from, to)),
        (any::<usize>(), prop_oneof![Just(0), Just(u64::MAX), Just(i64::MAX as u64), any::<u64>()])
            .prop_map(|(at, number)| Change::Number(at, number)),
    ]
}

fn changed(mut bytes: Vec<u8>, changes: &[Change]) -> Vec<u8> {
    for change in changes {
        let length = bytes.len().max(1);
        match *change {
            Change::Set(at, byte) => {
                if let Some(found) = bytes.get_mut(at % length) {
                    *found = byte;
                }
            }
            Change::Cut(at) => bytes.truncate(at % length),
            Change::Repeat(from, to) => {
                let (from, to) = ((from % length).min(to % length), (from % length).max(to % length));
                let part = bytes.get(from..to).unwrap_or_default().to_vec();
                bytes.extend(part);
            }
            Change::Number(at, number) => {
                let at = at % length;
                if let Some(found) = bytes.get_mut(at..at + 8) {
                    found.copy_from_slice(&number.to_le_bytes());
                }
            }
        }
    }
    bytes
}

#[test]
fn any_bytes_are_read_or_refused() {
    let files = whole();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases: 6000,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let input = (0..3_usize, 0..3_u8, proptest::collection::vec(change(), 0..4));
    runner
        .run(&input, |(kind, framed, changes)| {
            let bytes = if framed == 0 { files[kind].clone() } else { payload(&files[kind]) };
            let bytes = changed(bytes, &changes);
            read_anything(&[&[kind as u8 + 3 * framed][..], &bytes].concat());
            Ok(())
        })
        .expect("no panic");
    let noise = proptest::collection::vec(any::<u8>(), 0..300);
    runner
        .run(&noise, |bytes| {
            read_anything(&bytes);
            Ok(())
        })
        .expect("no panic");
}
