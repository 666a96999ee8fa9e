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
