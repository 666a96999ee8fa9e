//! What concurrent clients did and saw, and whether it can be the history of one store.
//!
//! The store tells a revision with each answer, so the order of everything is told, and only has to be checked:
//! against what watches saw, against what each client was told, and against real time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::Bytes;
use storage::{Error, Event, Expect, KeyValue, Revision, Storage, WriteOutcome};

/// What became of an operation.
#[derive(Clone, Debug)]
pub(crate) enum Told {
    /// The key as it was at a revision.
    State(Option<KeyValue>, Revision),
    /// Written.
    Written(KeyValue),
    /// Nothing was written.
    Nothing,
    /// It may have been written.
    Unknown,
}

/// One operation.
#[derive(Clone, Debug)]
pub(crate) struct Operation {
    pub(crate) key: String,
    pub(crate) value: Option<String>,
    pub(crate) began: Instant,
    pub(crate) ended: Instant,
    pub(crate) told: Told,
}

/// Reads and writes a few keys by compare-and-swap until it is told to stop.
pub(crate) async fn client(
    store: Arc<dyn Storage>,
    name: usize,
    keys: usize,
    stop: Arc<AtomicBool>,
) -> Vec<Operation> {
    let mut done = Vec::new();
    let mut round = name;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let key = format!("/w/{}", round % keys);
        let began = Instant::now();
        let read = store.get(&key, None).await;
        let told = match &read {
            Ok((kv, revision)) => Told::State(kv.clone(), *revision),
            Err(error) => {
                assert!(error.retryable(), "a read fails with {error:?}");
                Told::Nothing
            }
        };
        done.push(Operation { key: key.clone(), value: None, began, ended: Instant::now(), told });
        let Ok((kv, _)) = read else { continue };
        let expect = kv.map_or(Expect::Absent, |kv| Expect::At(kv.mod_revision));
        let value = format!("{name}.{round}");
        let began = Instant::now();
        let told = match store.put(&key, Bytes::from(value.clone()), expect, None).await {
            Ok(WriteOutcome::Done(kv)) => Told::Written(kv),
            Ok(WriteOutcome::Mismatch { current, revision }) => Told::State(current, revision),
            Err(Error::Unreachable(_)) => Told::Nothing,
            Err(Error::Indeterminate(_)) => Told::Unknown,
            Err(other) => panic!("a write fails with {other:?}"),
        };
        done.push(Operation { key, value: Some(value), began, ended: Instant::now(), told });
    }
    done
}

/// Whether events are a history without gaps: each key's versions follow one another.
pub(crate) fn check_events(events: &[Arc<Event>]) {
    let mut last: BTreeMap<&str, &KeyValue> = BTreeMap::new();
    let mut revision = Revision::ZERO;
    for event in events {
        assert!(event.revision > revision, "{} after {revision}", event.revision);
        revision = event.revision;
        let kv = event.kv.as_ref().expect("nobody deletes");
        let before = last.insert(&event.key, kv);
        assert_eq!(event.prev_kv.as_ref(), before, "the version before {} of {}", event.revision, event.key);
        assert_eq!(kv.version, before.map_or(0, |kv| kv.version) + 1);
    }
}

/// Whether what clients were told fits the history that a watch saw.
pub(crate) fn check(operations: &[Operation], events: &[Arc<Event>]) {
    check_events(events);
    let mut by_key: BTreeMap<&str, Vec<&KeyValue>> = BTreeMap::new();
    let mut written: BTreeMap<String, Revision> = BTreeMap::new();
    for event in events {
        let kv = event.kv.as_ref().expect("nobody deletes");
        by_key.entry(&event.key).or_default().push(kv);
        written.insert(String::from_utf8_lossy(&kv.value).into_owned(), kv.mod_revision);
    }
    let state = |key: &str, at: Revision| {
        let versions = by_key.get(key).map_or(&[][..], Vec::as_slice);
        let count = versions.partition_point(|kv| kv.mod_revision <= at);
        count.checked_sub(1).map(|at| versions[at])
    };
    let mut points: Vec<(Instant, Instant, Revision)> = Vec::new();
    for operation in operations {
        let at = match &operation.told {
            Told::State(kv, revision) => {
                assert_eq!(kv.as_ref(), state(&operation.key, *revision), "{operation:?}");
                *revision
            }
            Told::Written(kv) => {
                assert_eq!(Some(kv), state(&operation.key, kv.mod_revision), "{operation:?}");
                kv.mod_revision
            }
            Told::Nothing => {
                let found = operation.value.as_ref().and_then(|value| written.get(value));
                assert!(found.is_none(), "what was not written was found: {operation:?}");
                continue;
            }
            Told::Unknown => continue,
        };
        points.push((operation.began, operation.ended, at));
    }
    // Whatever began after another had ended was not told less.
    let mut ends: Vec<(Instant, Revision)> = points.iter().map(|(_, ended, at)| (*ended, *at)).collect();
    ends.sort();
    points.sort();
    let (mut next, mut highest) = (0, Revision::ZERO);
    for (began, _, at) in points {
        while next < ends.len() && ends[next].0 < began {
            highest = highest.max(ends[next].1);
            next += 1;
        }
        assert!(at >= highest, "a stale answer: {at} after {highest}");
    }
}
