//! Group commit, step by step: a disk that syncs only when it is told to shows what is written together, what is
//! shown when, and what a failure takes with it.

use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use futures::future::{BoxFuture, join_all};
use futures::poll;
use tokio::task::unconstrained;

use super::writer::GROUP;
use super::*;

type Pending<'a> = Vec<Pin<Box<dyn Future<Output = Result<WriteOutcome, Error>> + Send + 'a>>>;

fn open() -> (tempfile::TempDir, Embedded) {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options { sync: false, ..Options::default() };
    let store = Embedded::open(dir.path(), options).expect("open");
    (dir, store)
}

/// Queues puts one after the other: each has reached the writer's queue before the next.
async fn queue<'a>(store: &'a Embedded, keys: impl Iterator<Item = String>, expect: Expect) -> Pending<'a> {
    let mut pending: Pending<'a> = Vec::new();
    for key in keys {
        let mut put: BoxFuture<'a, _> =
            Box::pin(unconstrained(
                async move { store.put(&key, Bytes::from_static(b"x"), expect, None).await },
            ));
        assert!(poll!(&mut put).is_pending(), "nothing is answered before it is durable");
        pending.push(put);
    }
    pending
}

/// Has the writer sync one write, and queues others behind it.
async fn behind_a_sync<'a>(
    store: &'a Embedded,
    keys: impl Iterator<Item = String>,
) -> (Pending<'a>, Pending<'a>) {
    store.faults.hold_syncs();
    let first = queue(store, ["/first".to_owned()].into_iter(), Expect::Any).await;
    store.faults.until_syncing();
    let rest = queue(store, keys, Expect::Any).await;
    (first, rest)
}

fn revision(outcome: Result<WriteOutcome, Error>) -> u64 {
    match outcome {
        Ok(WriteOutcome::Done(kv)) => kv.mod_revision.0,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_queued_during_a_sync_shares_the_next() {
    let (_dir, store) = open();
    let before = store.faults.syncs.load(Ordering::Relaxed);
    let (first, rest) = behind_a_sync(&store, (0..500).map(|n| format!("/{n}"))).await;
    assert_eq!(store.stats().revision, Revision(1), "nothing is shown before it is durable");
    assert!(store.get("/first", None).await.expect("get").0.is_none());
    store.faults.finish_syncs();
    assert_eq!(join_all(first).await.into_iter().map(revision).collect::<Vec<_>>(), [2]);
    let revisions: Vec<_> = join_all(rest).await.into_iter().map(revision).collect();
    assert_eq!(revisions, (3..503).collect::<Vec<_>>(), "in the order in which they came");
    assert_eq!(store.faults.syncs.load(Ordering::Relaxed) - before, 2, "one sync for all of them");
}

#[tokio::test]
async fn a_group_is_bounded() {
    let (_dir, store) = open();
    let before = store.faults.syncs.load(Ordering::Relaxed);
    let (first, rest) = behind_a_sync(&store, (0..GROUP + 1).map(|n| format!("/{n}"))).await;
    store.faults.finish_syncs();
    assert_eq!(join_all(first.into_iter().chain(rest)).await.into_iter().map(revision).count(), GROUP + 2);
    assert_eq!(store.faults.syncs.load(Ordering::Relaxed) - before, 3);
}

#[tokio::test]
async fn guards_in_one_group_see_each_other() {
    let (_dir, store) = open();
    store.faults.hold_syncs();
    let first = queue(&store, ["/first".to_owned()].into_iter(), Expect::Any).await;
    store.faults.until_syncing();
    let rest = queue(&store, (0..10).map(|_| "/one".to_owned()), Expect::Absent).await;
    store.faults.finish_syncs();
    join_all(first).await;
    let outcomes = join_all(rest).await;
    let done = |outcome: &Result<WriteOutcome, Error>| matches!(outcome, Ok(WriteOutcome::Done(_)));
    assert!(done(&outcomes[0]));
    assert!(!outcomes[1..].iter().any(done), "one of ten can create a key");
    for outcome in &outcomes[1..] {
        let Ok(WriteOutcome::Mismatch { current: Some(kv), revision }) = outcome else {
            panic!("{outcome:?}")
        };
        assert_eq!((kv.mod_revision, *revision), (Revision(3), Revision(3)));
    }
}

#[tokio::test]
async fn a_failed_sync_fails_all_of_its_group_and_shows_none() {
    let (dir, store) = open();
    let (first, rest) = behind_a_sync(&store, (0..20).map(|n| format!("/{n}"))).await;
    store.faults.sync_fails.store(true, Ordering::Relaxed);
    store.faults.finish_syncs();
    for outcome in join_all(first.into_iter().chain(rest)).await {
        assert!(matches!(outcome, Err(Error::Failed(_))), "{outcome:?}");
    }
    assert_eq!((store.stats().revision, store.stats().keys), (Revision(1), 0));
    drop(store);
    let store = Embedded::open(dir.path(), Options::default()).expect("opens by itself");
    assert!(store.stats().revision.0 <= 2, "the group behind the failed one was never written");
}

#[tokio::test]
async fn a_full_disk_refuses_all_of_a_group_and_takes_the_next() {
    let (dir, store) = open();
    let (first, rest) = behind_a_sync(&store, (0..20).map(|n| format!("/{n}"))).await;
    store.faults.full.store(true, Ordering::Relaxed);
    store.faults.finish_syncs();
    assert_eq!(join_all(first).await.into_iter().map(revision).collect::<Vec<_>>(), [2]);
    for outcome in join_all(rest).await {
        assert!(matches!(outcome, Err(Error::NoSpace)), "{outcome:?}");
    }
    assert_eq!((store.stats().revision, store.stats().keys), (Revision(2), 1));
    let next = store.put("/next", Bytes::from_static(b"x"), Expect::Any, None).await;
    assert_eq!(revision(next), 3);
    drop(store);
    let store = Embedded::open(dir.path(), Options::default()).expect("open again");
    assert_eq!((store.stats().revision, store.stats().keys), (Revision(3), 2));
}

#[tokio::test]
async fn who_gives_up_waiting_takes_nobody_along() {
    let (_dir, store) = open();
    let (first, mut rest) = behind_a_sync(&store, (0..10).map(|n| format!("/{n}"))).await;
    drop(rest.remove(4));
    store.faults.finish_syncs();
    assert_eq!(join_all(first.into_iter().chain(rest)).await.into_iter().map(revision).count(), 10);
    assert_eq!(store.stats().keys, 11, "it was queued, so it was written");
}

#[tokio::test]
async fn a_snapshot_does_not_make_writers_wait() {
    let (_dir, store) = open();
    for _ in 0..3 {
        let mut snapshot = Box::pin(store.snapshot());
        // The snapshot has begun, or is about to, when the next command is taken.
        assert!(poll!(&mut snapshot).is_pending());
        let put = store.put("/a", Bytes::from_static(b"x"), Expect::Any, None).await;
        revision(put);
        snapshot.await.expect("a snapshot");
    }
    assert_eq!(store.stats().revision, Revision(4));
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    /// A writer queues its next write.
    Queue(usize),
    /// The sync that is under way ends.
    Sync,
}

/// Every order in which two writers can queue these numbers of writes while syncs begin and end.
fn schedules(left: [usize; 2]) -> Vec<Vec<Step>> {
    fn go(left: [usize; 2], syncing: bool, queued: bool, now: &mut Vec<Step>, all: &mut Vec<Vec<Step>>) {
        for writer in 0..2 {
            if left[writer] > 0 {
                let mut left = left;
                left[writer] -= 1;
                now.push(Step::Queue(writer));
                // Where no sync is under way, the write begins one.
                go(left, true, syncing, now, all);
                now.pop();
            }
        }
        if syncing {
            now.push(Step::Sync);
            go(left, queued, false, now, all);
            now.pop();
        } else if left == [0, 0] {
            all.push(now.clone());
        }
    }
    let mut all = Vec::new();
    go(left, false, false, &mut Vec::new(), &mut all);
    all
}

/// A store, and what has to be true of it.
struct Script<'a> {
    store: &'a Embedded,
    watch: WatchStream,
    /// Writes in the order they were queued: the key, and whether it is acknowledged.
    syncing: Pending<'a>,
    queued: Pending<'a>,
    keys: Vec<(usize, String)>,
    /// How many of them are durable.
    durable: usize,
    base: u64,
    seen: usize,
}

impl<'a> Script<'a> {
    async fn new(store: &'a Embedded) -> Self {
        store.faults.hold_syncs();
        let base = store.now().await.expect("now");
        Self {
            store,
            watch: store.watch("/", base).await.expect("watch"),
            syncing: Vec::new(),
            queued: Vec::new(),
            keys: Vec::new(),
            durable: 0,
            base: base.0,
            seen: 0,
        }
    }

    async fn queue(&mut self, writer: usize) {
        // Both write one key, and each one of its own.
        let key = if self.keys.len().is_multiple_of(2) { "/both".to_owned() } else { format!("/{writer}") };
        self.keys.push((writer, key.clone()));
        let more = queue(self.store, [key].into_iter(), Expect::Any).await;
        if self.syncing.is_empty() {
            self.syncing = more;
            self.store.faults.until_syncing();
        } else {
            self.queued.extend(more);
        }
    }

    async fn sync(&mut self) -> Vec<Result<WriteOutcome, Error>> {
        self.store.faults.finish_one_sync();
        let told = join_all(std::mem::take(&mut self.syncing)).await;
        self.syncing = std::mem::take(&mut self.queued);
        if !self.syncing.is_empty() {
            self.store.faults.until_syncing();
        }
        told
    }

    /// Exactly what is durable is shown: to readers, to watches, to those who wait.
    async fn check(&mut self, schedule: &[Step]) {
        for waiting in self.syncing.iter_mut().chain(&mut self.queued) {
            assert!(poll!(waiting).is_pending(), "{schedule:?}: answered before it is durable");
        }
        let now = self.base + self.durable as u64;
        assert_eq!(self.store.stats().revision, Revision(now), "{schedule:?}");
        for key in ["/both", "/0", "/1"] {
            let last = self.keys[..self.durable].iter().rposition(|(_, other)| other == key);
            let expected = last.map(|at| self.base + 1 + at as u64);
            let found = self.store.get(key, None).await.expect("get").0.map(|kv| kv.mod_revision.0);
            assert!(
                found == expected || (expected.is_none() && found <= Some(self.base)),
                "{schedule:?}: {key}"
            );
        }
        while self.seen < self.durable {
            let batch = self.watch.next_batch().await.expect("goes on").expect("healthy");
            for event in batch.events {
                assert_eq!(&*event.key, self.keys[self.seen].1, "{schedule:?}");
                self.seen += 1;
                assert_eq!(event.revision.0, self.base + self.seen as u64, "{schedule:?}");
            }
        }
        assert!(poll!(Box::pin(self.watch.next_batch())).is_pending(), "{schedule:?}: more than is durable");
    }
}

#[tokio::test]
async fn whatever_the_order_of_writes_and_syncs_only_what_is_durable_is_shown() {
    let (_dir, store) = open();
    let schedules = schedules([3, 2]);
    assert!(schedules.len() > 300, "{}", schedules.len());
    for schedule in &schedules {
        let mut script = Script::new(&store).await;
        for step in schedule {
            match step {
                Step::Queue(writer) => script.queue(*writer).await,
                Step::Sync => {
                    let first = script.base + 1 + script.durable as u64;
                    let told: Vec<_> = script.sync().await.into_iter().map(revision).collect();
                    assert_eq!(told, (first..).take(told.len()).collect::<Vec<_>>(), "{schedule:?}");
                    script.durable += told.len();
                }
            }
            script.check(schedule).await;
        }
        assert_eq!(script.durable, 5, "{schedule:?}");
    }
}

#[tokio::test]
async fn whichever_sync_fails_nothing_of_it_or_behind_it_is_shown() {
    for schedule in schedules([2, 1]) {
        let syncs = schedule.iter().filter(|step| **step == Step::Sync).count();
        for failing in 0..syncs {
            let (dir, store) = open();
            let mut script = Script::new(&store).await;
            let mut done = 0;
            for step in &schedule {
                match step {
                    Step::Queue(writer) if done <= failing => script.queue(*writer).await,
                    Step::Queue(_) => {
                        let late = store.put("/late", Bytes::new(), Expect::Any, None).await;
                        assert!(matches!(late, Err(Error::Failed(_))), "{schedule:?}: {late:?}");
                        continue;
                    }
                    Step::Sync if done < failing => {
                        script.durable += script.sync().await.into_iter().map(revision).count();
                        done += 1;
                    }
                    Step::Sync if done == failing => {
                        store.faults.sync_fails.store(true, Ordering::Relaxed);
                        store.faults.finish_one_sync();
                        // Those behind it fail without a sync of their own.
                        let both = script.syncing.drain(..).chain(script.queued.drain(..));
                        for told in join_all(both).await {
                            assert!(matches!(told, Err(Error::Failed(_))), "{schedule:?}: {told:?}");
                        }
                        done += 1;
                    }
                    Step::Sync => continue,
                }
                script.check(&schedule).await;
            }
            let durable = script.durable as u64;
            drop(script);
            drop(store);
            let store = Embedded::open(dir.path(), Options::default()).expect("opens by itself");
            let revision = store.stats().revision.0;
            assert!(revision > durable, "{schedule:?}: what was acknowledged is there");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_that_race_with_the_end_are_done_or_refused() {
    for round in 0..40_u32 {
        let (dir, store) = open();
        let store = Arc::new(store);
        let writers: Vec<_> = (0..8)
            .map(|writer| {
                let store = store.clone();
                tokio::spawn(async move {
                    for number in 0.. {
                        match store.put(&format!("/{writer}/{number}"), Bytes::new(), Expect::Any, None).await
                        {
                            Ok(_) => {}
                            Err(Error::Closed) => return number,
                            Err(error) => panic!("{error}"),
                        }
                    }
                    0
                })
            })
            .collect();
        while store.stats().keys < u64::from(round) * 3 {
            tokio::task::yield_now().await;
        }
        let closing = store.clone();
        tokio::task::spawn_blocking(move || closing.close()).await.expect("no panic");
        let mut done = 0;
        for writer in writers {
            done += writer.await.expect("no panic");
        }
        drop(store);
        let store = Embedded::open(dir.path(), Options::default()).expect("open again");
        assert_eq!(store.stats().keys, done, "acknowledged is there, refused is not");
    }
}
