//! Random operations on the store and on a plain map must agree, over restarts.

use std::collections::BTreeMap;

use bytes::Bytes;
use proptest::prelude::*;
use storage::{
    DeleteOutcome, Embedded, Error, Expect, Options, RangeRequest, Revision, Storage, WriteOutcome,
};

#[derive(Clone, Debug)]
enum Step {
    Put { key: u8, size: u16, guard: Guard },
    Delete { key: u8, guard: Guard },
    Compact { back: u8 },
    Reopen,
}

#[derive(Clone, Copy, Debug)]
enum Guard {
    Any,
    Absent,
    Right,
    Wrong,
}

fn step() -> impl Strategy<Value = Step> {
    let guard = prop_oneof![Just(Guard::Any), Just(Guard::Absent), Just(Guard::Right), Just(Guard::Wrong)];
    prop_oneof![
        6 => (0..6_u8, 0..600_u16, guard.clone()).prop_map(|(key, size, guard)| Step::Put { key, size, guard }),
        3 => (0..6_u8, guard).prop_map(|(key, guard)| Step::Delete { key, guard }),
        1 => (0..8_u8).prop_map(|back| Step::Compact { back }),
        1 => Just(Step::Reopen),
    ]
}

/// A key of the model: value, create revision, mod revision, version.
type Entry = (Bytes, u64, u64, u64);

#[derive(Default)]
struct Model {
    now: BTreeMap<String, Entry>,
    /// The whole state at every revision, from 1.
    then: Vec<BTreeMap<String, Entry>>,
}

impl Model {
    fn revision(&self) -> u64 {
        self.then.len() as u64
    }

    fn expect(&self, key: &str, guard: Guard) -> (Expect, bool) {
        let current = self.now.get(key).map(|entry| entry.2);
        match guard {
            Guard::Any => (Expect::Any, true),
            Guard::Absent => (Expect::Absent, current.is_none()),
            Guard::Right => (Expect::At(Revision(current.unwrap_or(1))), current.is_some()),
            Guard::Wrong => (Expect::At(Revision(current.map_or(7, |revision| revision + 1))), false),
        }
    }
}

async fn check(store: &Embedded, model: &Model) {
    let oldest = store.stats().compacted.0;
    assert_eq!(store.now().await.expect("now").0, model.revision());
    for at in 1..=model.revision() {
        let read = store.range(RangeRequest::prefix("/").at(Revision(at))).await;
        if at < oldest {
            assert!(matches!(read, Err(Error::Compacted { .. })), "{at} < {oldest}: {read:?}");
            continue;
        }
        let read = read.expect("kept");
        let found: BTreeMap<String, Entry> = read
            .kvs
            .into_iter()
            .map(|kv| (kv.key.to_string(), (kv.value, kv.create_revision.0, kv.mod_revision.0, kv.version)))
            .collect();
        assert_eq!(found, model.then[at as usize - 1], "at {at}");
    }
    // Replaying the events over the oldest state gives the newest.
    let mut state = model.then[oldest as usize - 1].clone();
    let mut watch = store.watch("/", Revision(oldest)).await.expect("watch");
    let mut seen = oldest;
    while seen < model.revision() {
        let batch = watch.next_batch().await.expect("a batch").expect("healthy");
        for event in &batch.events {
            assert_eq!(event.revision.0, seen + 1, "no gap, none twice");
            seen = event.revision.0;
            let before = match &event.kv {
                Some(kv) => state.insert(
                    kv.key.to_string(),
                    (kv.value.clone(), kv.create_revision.0, kv.mod_revision.0, kv.version),
                ),
                None => state.remove(&*event.key),
            };
            assert_eq!(before.map(|entry| entry.2), event.prev_kv.as_ref().map(|kv| kv.mod_revision.0));
        }
    }
    assert_eq!(state, model.now);
}

async fn run(steps: Vec<Step>) {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options { sync: false, snapshot_bytes: 700, history_bytes: 20_000, ..Options::default() };
    let mut store = Embedded::open(dir.path(), options.clone()).expect("open");
    let mut model = Model::default();
    model.then.push(BTreeMap::new());
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Put { key, size, guard } => {
                let key = format!("/{key}");
                let value = Bytes::from(vec![number as u8; size as usize]);
                let (expect, holds) = model.expect(&key, guard);
                match store.put(&key, value.clone(), expect, None).await.expect("put") {
                    WriteOutcome::Done(kv) => {
                        assert!(holds);
                        let revision = model.revision() + 1;
                        let (create, version) =
                            model.now.get(&key).map_or((revision, 1), |entry| (entry.1, entry.3 + 1));
                        assert_eq!(
                            (kv.create_revision.0, kv.mod_revision.0, kv.version),
                            (create, revision, version)
                        );
                        model.now.insert(key, (value, create, revision, version));
                        model.then.push(model.now.clone());
                    }
                    WriteOutcome::Mismatch { .. } => assert!(!holds),
                }
            }
            Step::Delete { key, guard } => {
                let key = format!("/{key}");
                let (expect, holds) = model.expect(&key, guard);
                match store.delete(&key, expect).await.expect("delete") {
                    DeleteOutcome::Deleted { prev, revision } => {
                        assert!(holds);
                        let entry = model.now.remove(&key).expect("the model has it");
                        model.then.push(model.now.clone());
                        assert_eq!((prev.mod_revision.0, revision.0), (entry.2, model.revision()));
                    }
                    DeleteOutcome::Mismatch { current, .. } => {
                        assert!(!holds || !model.now.contains_key(&key));
                        assert_eq!(current.is_some(), model.now.contains_key(&key));
                    }
                }
            }
            Step::Compact { back } => {
                let at = model.revision().saturating_sub(back.into()).max(1);
                store.compact(Revision(at)).await.expect("compact");
                assert!(store.stats().compacted.0 >= at);
            }
            Step::Reopen => {
                check(&store, &model).await;
                drop(store);
                store = Embedded::open(dir.path(), options.clone()).expect("open again");
                check(&store, &model).await;
            }
        }
    }
    check(&store, &model).await;
    drop(store);
    check(&Embedded::open(dir.path(), options).expect("open at last"), &model).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_store_agrees_with_a_map(steps in proptest::collection::vec(step(), 1..120)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(run(steps));
    }
}
