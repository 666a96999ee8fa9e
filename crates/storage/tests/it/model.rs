//! Random operations on the store and on a plain map must agree, over restarts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use storage::{
    DeleteOutcome, Embedded, Error, Expect, Image, LeaseId, Options, RangeRequest, Revision, Storage,
    WriteOutcome,
};

#[derive(Clone, Debug)]
enum Step {
    Put { key: u8, size: u16, guard: Guard, lease: Option<u8> },
    Delete { key: u8, guard: Guard },
    Get { key: u8, back: u8 },
    Range { start: u8, end: u8, limit: u8, back: u8, count_only: bool },
    Watch { prefix: u8, back: u8 },
    Grant,
    Revoke { lease: u8 },
    Compact { back: u8 },
    Snapshot,
    Look,
    Restore { bump: u8 },
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
    let lease = proptest::option::weighted(0.2, 0..4_u8);
    prop_oneof![
        12 => (0..6_u8, 0..600_u16, guard.clone(), lease)
            .prop_map(|(key, size, guard, lease)| Step::Put { key, size, guard, lease }),
        6 => (0..6_u8, guard).prop_map(|(key, guard)| Step::Delete { key, guard }),
        2 => (0..7_u8, 0..9_u8).prop_map(|(key, back)| Step::Get { key, back }),
        2 => (0..7_u8, 0..7_u8, 0..5_u8, 0..9_u8, any::<bool>()).prop_map(
            |(start, end, limit, back, count_only)| Step::Range { start, end, limit, back, count_only }
        ),
        2 => (0..7_u8, 0..9_u8).prop_map(|(prefix, back)| Step::Watch { prefix, back }),
        2 => Just(Step::Grant),
        1 => (0..4_u8).prop_map(|lease| Step::Revoke { lease }),
        2 => (0..8_u8).prop_map(|back| Step::Compact { back }),
        1 => Just(Step::Snapshot),
        1 => Just(Step::Look),
        1 => (0..5_u8).prop_map(|bump| Step::Restore { bump }),
        1 => Just(Step::Reopen),
    ]
}

/// A key of the model: value, create revision, mod revision, version, lease.
type Entry = (Bytes, u64, u64, u64, Option<LeaseId>);

fn entry(kv: &storage::KeyValue) -> Entry {
    (kv.value.clone(), kv.create_revision.0, kv.mod_revision.0, kv.version, kv.lease)
}

fn key_of(number: u8) -> String {
    format!("/{number}")
}

#[derive(Default)]
struct Model {
    now: BTreeMap<String, Entry>,
    /// The whole state at every revision, from 1.
    then: Vec<BTreeMap<String, Entry>>,
    /// Those that were granted, and whether they still live.
    leases: Vec<(LeaseId, bool)>,
}

impl Model {
    fn lease(&self, number: u8) -> Option<(LeaseId, bool)> {
        self.leases.get(usize::from(number) % self.leases.len().max(1)).copied()
    }

    fn delete(&mut self, key: &str) {
        self.now.remove(key);
        self.then.push(self.now.clone());
    }

    fn at(&self, back: u8) -> u64 {
        self.revision().saturating_sub(back.into()).max(1)
    }

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
        let found: BTreeMap<String, Entry> =
            read.kvs.into_iter().map(|kv| (kv.key.to_string(), entry(&kv))).collect();
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
                Some(kv) => state.insert(kv.key.to_string(), entry(kv)),
                None => state.remove(&*event.key),
            };
            assert_eq!(before, event.prev_kv.as_ref().map(entry));
        }
    }
    assert_eq!(state, model.now);
}

/// What a read at a revision may say: the state of then, or that it is gone.
fn readable<T>(read: Result<T, Error>, at: u64, oldest: u64) -> Option<T> {
    match read {
        Ok(read) => {
            assert!(at >= oldest);
            Some(read)
        }
        Err(Error::Compacted { .. }) => {
            assert!(at < oldest);
            None
        }
        Err(error) => panic!("{error}"),
    }
}

async fn read(store: &Embedded, model: &Model, step: &Step) {
    let oldest = store.stats().compacted.0;
    match *step {
        Step::Get { key, back } => {
            let (key, at) = (key_of(key), model.at(back));
            let found = store.get(&key, Some(Revision(at))).await;
            let Some((kv, revision)) = readable(found, at, oldest) else { return };
            assert_eq!(kv.as_ref().map(entry).as_ref(), model.then[at as usize - 1].get(&key));
            assert_eq!(revision.0, model.revision());
        }
        Step::Range { start, end, limit, back, count_only } => {
            let at = model.at(back);
            let request = RangeRequest {
                start: key_of(start),
                // Without an end now and then.
                end: if end == 6 { String::new() } else { key_of(end) },
                limit: limit.into(),
                at: Some(Revision(at)),
                count_only,
            };
            let Some(found) = readable(store.range(request.clone()).await, at, oldest) else { return };
            let inside =
                |key: &String| *key >= request.start && (request.end.is_empty() || *key < request.end);
            let wanted: Vec<_> = model.then[at as usize - 1].iter().filter(|(key, _)| inside(key)).collect();
            assert_eq!(found.count, wanted.len() as u64);
            let told = if count_only {
                0
            } else if limit == 0 {
                wanted.len()
            } else {
                wanted.len().min(limit.into())
            };
            let kvs: Vec<_> = found.kvs.iter().map(|kv| (kv.key.to_string(), entry(kv))).collect();
            assert!(kvs.iter().map(|(key, entry)| (key, entry)).eq(wanted.iter().take(told).copied()));
            assert_eq!(found.more, !count_only && told < wanted.len());
            assert_eq!(found.revision.0, model.revision());
        }
        Step::Watch { prefix, back } => {
            let (prefix, after) = (key_of(prefix), model.at(back));
            let Some(mut watch) = readable(store.watch(&prefix, Revision(after)).await, after, oldest) else {
                return;
            };
            let mut state = model.then[after as usize - 1].get(&prefix).cloned();
            let mut seen = after;
            while seen < model.revision() {
                watch.progress().request();
                let batch = watch.next_batch().await.expect("a batch").expect("healthy");
                for event in &batch.events {
                    assert!(*event.key == prefix && event.revision.0 > seen);
                    assert_eq!(event.prev_kv.as_ref().map(entry), state);
                    state = event.kv.as_ref().map(entry);
                    seen = event.revision.0;
                    assert_eq!(state.as_ref(), model.then[seen as usize - 1].get(&prefix));
                }
                assert!(batch.revision.0 >= seen);
                seen = batch.revision.0;
            }
            assert_eq!(state.as_ref(), model.now.get(&prefix));
        }
        _ => unreachable!("not a read"),
    }
}

/// A look at the files is what the store says.
fn look(dir: &std::path::Path, model: &Model) -> Image {
    let (image, _) = Image::read(dir).expect("a look");
    assert_eq!(image.revision().0, model.revision());
    let found: BTreeMap<String, Entry> =
        image.prefix("").map(|kv| (kv.key.to_string(), entry(&kv))).collect();
    assert_eq!(found, model.now);
    let known: BTreeSet<LeaseId> = image.leases().iter().map(|lease| lease.id).collect();
    let live = model.leases.iter().filter(|(_, live)| *live).map(|(id, _)| *id).collect();
    assert_eq!(known, live);
    assert_eq!(image.problems(), Vec::<String>::new());
    image
}

async fn write(store: &Embedded, model: &mut Model, number: usize, step: Step) {
    match step {
        Step::Put { key, size, guard, lease } => {
            let key = key_of(key);
            let value = Bytes::from(vec![number as u8; size as usize]);
            let (expect, holds) = model.expect(&key, guard);
            let lease = lease.and_then(|number| model.lease(number));
            let outcome = store.put(&key, value.clone(), expect, lease.map(|lease| lease.0)).await;
            if let Some((id, false)) = lease {
                assert!(matches!(outcome, Err(Error::LeaseNotFound(found)) if found == id), "{outcome:?}");
                return;
            }
            match outcome.expect("put") {
                WriteOutcome::Done(kv) => {
                    assert!(holds);
                    let revision = model.revision() + 1;
                    let (create, version) =
                        model.now.get(&key).map_or((revision, 1), |entry| (entry.1, entry.3 + 1));
                    let made = (value, create, revision, version, lease.map(|lease| lease.0));
                    assert_eq!(entry(&kv), made);
                    model.now.insert(key, made);
                    model.then.push(model.now.clone());
                }
                WriteOutcome::Mismatch { current, revision } => {
                    assert!(!holds);
                    assert_eq!(current.as_ref().map(entry).as_ref(), model.now.get(&key));
                    assert_eq!(revision.0, model.revision());
                }
            }
        }
        Step::Delete { key, guard } => {
            let key = key_of(key);
            let (expect, holds) = model.expect(&key, guard);
            match store.delete(&key, expect).await.expect("delete") {
                DeleteOutcome::Deleted { prev, revision } => {
                    assert!(holds);
                    assert_eq!(Some(&entry(&prev)), model.now.get(&key));
                    model.delete(&key);
                    assert_eq!(revision.0, model.revision());
                }
                DeleteOutcome::Mismatch { current, .. } => {
                    assert!(!holds || !model.now.contains_key(&key));
                    assert_eq!(current.as_ref().map(entry).as_ref(), model.now.get(&key));
                }
            }
        }
        Step::Grant => {
            let id = store.grant(Duration::from_secs(36_000)).await.expect("grant");
            assert!(model.leases.iter().all(|(known, _)| *known < id), "an id is never given twice");
            model.leases.push((id, true));
        }
        Step::Revoke { lease } => {
            let Some((id, live)) = model.lease(lease) else { return };
            let revoked = store.revoke(id).await;
            if !live {
                assert!(matches!(revoked, Err(Error::LeaseNotFound(found)) if found == id), "{revoked:?}");
                return;
            }
            revoked.expect("revoke");
            model.leases.iter_mut().filter(|lease| lease.0 == id).for_each(|lease| lease.1 = false);
            // The order in which the keys of a lease go is not promised: take it from the events.
            let mut watch = store.watch("", Revision(model.revision())).await.expect("watch");
            let gone = model.now.values().filter(|entry| entry.4 == Some(id)).count();
            let mut seen = 0;
            while seen < gone {
                for event in watch.next_batch().await.expect("a batch").expect("healthy").events {
                    assert!(event.is_delete());
                    model.delete(&event.key);
                    assert_eq!(event.revision.0, model.revision());
                    seen += 1;
                }
            }
            assert!(model.now.values().all(|entry| entry.4 != Some(id)));
        }
        Step::Compact { back } => {
            let at = model.at(back);
            store.compact(Revision(at)).await.expect("compact");
            assert!(store.stats().compacted.0 >= at);
        }
        Step::Snapshot => store.snapshot().await.expect("a snapshot"),
        _ => unreachable!("not a write"),
    }
}

async fn run(steps: Vec<Step>) {
    let root = crate::memory();
    let dir = root.path().join("db");
    let options = Options { sync: false, snapshot_bytes: 700, history_bytes: 20_000, ..Options::default() };
    let mut store = Embedded::open(&dir, options.clone()).expect("open");
    let mut model = Model::default();
    model.then.push(BTreeMap::new());
    for (number, step) in steps.into_iter().enumerate() {
        match step {
            Step::Get { .. } | Step::Range { .. } | Step::Watch { .. } => read(&store, &model, &step).await,
            Step::Look => drop(look(&dir, &model)),
            Step::Restore { bump } => {
                drop(store);
                let image = look(&dir, &model);
                image.restore(&dir, bump.into(), &mut |_| {}).expect("restore");
                // Revisions that nobody ever sees.
                let last = model.revision() + u64::from(bump);
                model.then.resize(last as usize, model.now.clone());
                store = Embedded::open(&dir, options.clone()).expect("open the restored");
                assert_eq!(store.stats().compacted.0, last);
                check(&store, &model).await;
            }
            Step::Reopen => {
                check(&store, &model).await;
                drop(store);
                store = Embedded::open(&dir, options.clone()).expect("open again");
                check(&store, &model).await;
            }
            step => write(&store, &mut model, number, step).await,
        }
    }
    check(&store, &model).await;
    drop(store);
    check(&Embedded::open(&dir, options).expect("open at last"), &model).await;
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 100, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn the_store_agrees_with_a_map(steps in proptest::collection::vec(step(), 1..150)) {
        tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(run(steps));
    }
}
