//! Watches of the embedded store, built over loom: every order in which a writer, readers and those who ask for
//! progress can meet at their locks, in place of those that a run happens to show. A wake-up that is lost is a deadlock
//! here.

use std::sync::{Arc, PoisonError};

use futures::StreamExt;
use loom::sync::{RwLock, RwLockReadGuard};
use loom::thread;
use storage::{Error, Event, KeyValue, PrefixMap, Progress, Revision, WatchBatch};

mod sync {
    pub(super) use loom::sync::{Mutex, MutexGuard, RwLockReadGuard};

    /// loom's waker, called as that of `futures` is.
    pub(super) struct AtomicWaker(loom::future::AtomicWaker);

    impl AtomicWaker {
        pub(super) fn new() -> Self {
            Self(loom::future::AtomicWaker::new())
        }

        pub(super) fn register(&self, waker: &std::task::Waker) {
            self.0.register_by_ref(waker);
        }

        pub(super) fn wake(&self) {
            self.0.wake();
        }
    }
}

#[path = "../../src/embedded/watch.rs"]
mod watch;

use watch::{Batches, Watchers};

/// So small that watches fall behind at once.
const WATCH_BUFFER: usize = 2;
/// What a thread may be interrupted by others; more orders than these find nothing more, and take long.
const PREEMPTIONS: usize = 3;

/// Stands for the real index: every event since the last compaction.
struct Index {
    events: Vec<Arc<Event>>,
    compacted: u64,
}

impl Index {
    fn revision(&self) -> u64 {
        self.events.last().map_or(1, |event| event.revision.0)
    }

    fn compacted(&self) -> u64 {
        self.compacted
    }

    fn events(&self, after: u64, prefix: &str, _: usize) -> Result<(Vec<Arc<Event>>, u64), Error> {
        if after < self.compacted {
            return Err(Error::Compacted { requested: Revision(after), compacted: Revision(self.compacted) });
        }
        let wanted = |event: &&Arc<Event>| event.revision.0 > after && event.key.starts_with(prefix);
        Ok((self.events.iter().filter(wanted).cloned().collect(), after.max(self.revision())))
    }
}

struct Shared {
    index: RwLock<Index>,
    watchers: Watchers,
}

impl Shared {
    fn new() -> Arc<Self> {
        let index = RwLock::new(Index { events: Vec::new(), compacted: 1 });
        Arc::new(Self { index, watchers: Watchers::default() })
    }

    fn index(&self) -> RwLockReadGuard<'_, Index> {
        self.index.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the writer does with a group that has become durable.
    fn show(&self, keys: &[&str], compact: u64) {
        let mut woken = Vec::new();
        let mut index = self.index.write().unwrap_or_else(PoisonError::into_inner);
        let mut events = Vec::new();
        for key in keys {
            let event = event(index.revision() + 1, key);
            index.events.push(Arc::new(event.clone()));
            events.push(event);
        }
        self.watchers.publish(events, &mut woken);
        index.compacted = index.compacted.max(compact);
        drop(index);
        watch::wake(woken);
    }
}

fn event(revision: u64, key: &str) -> Event {
    let kv = KeyValue {
        key: key.into(),
        value: bytes::Bytes::new(),
        create_revision: Revision(revision),
        mod_revision: Revision(revision),
        version: 1,
        lease: None,
    };
    Event { revision: Revision(revision), key: key.into(), kv: Some(kv), prev_kv: None }
}

fn explore(model: impl Fn() + Send + Sync + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.check(model);
}

fn begin(shared: &Arc<Shared>, prefix: &str, after: u64) -> Batches {
    Batches::new(shared.clone(), prefix, Revision(after)).expect("not compacted")
}

/// Reads up to a revision: each event once, in order, and no batch that goes back.
fn read(watch: &mut Batches, after: u64, until: u64) -> Vec<u64> {
    loom::future::block_on(async {
        let (mut seen, mut reached) = (Vec::new(), after);
        while reached < until {
            let batch = watch.next().await.expect("goes on").expect("healthy");
            for event in &batch.events {
                assert!(event.revision.0 > seen.last().copied().unwrap_or(after), "none twice, none late");
                assert!(event.revision <= batch.revision, "a batch reaches its last event");
                seen.push(event.revision.0);
            }
            assert!(batch.revision.0 >= reached, "revisions never go back");
            reached = batch.revision.0;
        }
        seen
    })
}

#[test]
fn a_reader_sees_every_event_once_while_it_is_written() {
    explore(|| {
        let shared = Shared::new();
        let mut watch = begin(&shared, "/a", 1);
        let writer = thread::spawn({
            let shared = shared.clone();
            move || {
                shared.show(&["/a"], 0);
                shared.show(&["/b", "/a"], 0);
            }
        });
        assert_eq!(read(&mut watch, 1, 4), [2, 4]);
        writer.join().expect("no panic");
    });
}

#[test]
fn a_reader_that_falls_behind_goes_on_from_the_index_without_a_gap() {
    explore(|| {
        let shared = Shared::new();
        let mut watch = begin(&shared, "/a", 1);
        let writer = thread::spawn({
            let shared = shared.clone();
            move || {
                shared.show(&["/a", "/a", "/a"], 0);
                shared.show(&["/a"], 0);
            }
        });
        assert_eq!(read(&mut watch, 1, 5), [2, 3, 4, 5]);
        writer.join().expect("no panic");
    });
}

#[test]
fn a_watch_that_begins_during_a_write_misses_nothing() {
    explore(|| {
        let shared = Shared::new();
        let writer = thread::spawn({
            let shared = shared.clone();
            move || {
                shared.show(&["/a"], 0);
                shared.show(&["/a"], 0);
            }
        });
        let mut watch = begin(&shared, "/a", 1);
        assert_eq!(read(&mut watch, 1, 3), [2, 3]);
        writer.join().expect("no panic");
    });
}

#[test]
fn who_asks_for_progress_is_told_what_was_shown_before() {
    explore(|| {
        let shared = Shared::new();
        let mut watch = begin(&shared, "/a", 1);
        let progress = watch.progress();
        let asker = thread::spawn({
            let shared = shared.clone();
            move || {
                shared.show(&["/b"], 0);
                progress.request();
            }
        });
        assert_eq!(read(&mut watch, 1, 2), [0; 0], "nothing of its own was written");
        asker.join().expect("no panic");
    });
}

#[test]
fn progress_and_events_do_not_overtake_each_other() {
    explore(|| {
        let shared = Shared::new();
        let mut watch = begin(&shared, "/a", 1);
        let progress = watch.progress();
        let asker = thread::spawn(move || progress.request());
        let writer = thread::spawn({
            let shared = shared.clone();
            move || shared.show(&["/a"], 0)
        });
        assert_eq!(read(&mut watch, 1, 2), [2]);
        asker.join().expect("no panic");
        writer.join().expect("no panic");
    });
}

#[test]
fn compaction_ends_a_watch_or_finds_it_caught_up() {
    explore(|| {
        let shared = Shared::new();
        let mut watch = begin(&shared, "/a", 1);
        let writer = thread::spawn({
            let shared = shared.clone();
            move || {
                shared.show(&["/a", "/a", "/a"], 0);
                shared.show(&["/a"], 4);
            }
        });
        loom::future::block_on(async {
            let mut seen = Vec::new();
            while seen.last() != Some(&5) {
                match watch.next().await.expect("goes on") {
                    Ok(batch) => seen.extend(batch.events.iter().map(|event| event.revision.0)),
                    Err(Error::Compacted { requested, compacted }) => {
                        assert!(requested < compacted, "{requested} was not lost");
                        assert!(watch.next().await.is_none(), "an error is the end");
                        break;
                    }
                    Err(error) => panic!("{error}"),
                }
            }
            let expected: Vec<u64> = (2..).take(seen.len()).collect();
            assert_eq!(seen, expected, "no gap before the end");
        });
        writer.join().expect("no panic");
    });
}

#[test]
fn the_end_reaches_a_reader_that_waits() {
    explore(|| {
        let shared = Shared::new();
        let mut watch = begin(&shared, "/a", 1);
        let writer = thread::spawn({
            let shared = shared.clone();
            move || {
                shared.show(&["/a"], 0);
                shared.watchers.close();
            }
        });
        loom::future::block_on(async {
            loop {
                match watch.next().await {
                    Some(Ok(batch)) => assert_eq!(batch.revision, Revision(2)),
                    Some(Err(Error::Closed)) => break,
                    other => panic!("{other:?}"),
                }
            }
        });
        drop(watch);
        writer.join().expect("no panic");
    });
}

#[test]
fn a_watch_that_ends_during_a_write_disturbs_no_other() {
    explore(|| {
        let shared = Shared::new();
        let (leaving, mut staying) = (begin(&shared, "/a", 1), begin(&shared, "/a", 1));
        let writer = thread::spawn({
            let shared = shared.clone();
            move || shared.show(&["/a"], 0)
        });
        let leaver = thread::spawn(move || drop(leaving));
        assert_eq!(read(&mut staying, 1, 2), [2]);
        writer.join().expect("no panic");
        leaver.join().expect("no panic");
    });
}
