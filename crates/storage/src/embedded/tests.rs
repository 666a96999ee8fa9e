//! The embedded store under faults that need a look inside: a failing sync, a full disk, small limits.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::*;

fn small() -> Options {
    Options { sync: false, snapshot_bytes: 1 << 12, ..Options::default() }
}

async fn put(store: &Embedded, key: &str, value: &[u8]) -> Result<WriteOutcome, Error> {
    store.put(key, Bytes::copy_from_slice(value), Expect::Any, None).await
}

async fn value(store: &Embedded, key: &str) -> Option<Bytes> {
    store.get(key, None).await.expect("get").0.map(|kv| kv.value)
}

#[tokio::test]
async fn a_full_disk_refuses_one_write_and_keeps_the_others() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(dir.path(), small()).expect("open");
    put(&store, "/a", b"1").await.expect("put");
    store.faults.full.store(true, Ordering::Relaxed);
    assert!(matches!(put(&store, "/a", b"2").await, Err(Error::NoSpace)));
    assert!(store.stats().full);
    assert_eq!(value(&store, "/a").await.as_deref(), Some(&b"1"[..]));
    let WriteOutcome::Done(kv) = put(&store, "/b", b"3").await.expect("there is space again") else {
        panic!("no guard")
    };
    assert_eq!(kv.mod_revision, Revision(3), "the refused write made no revision");
    assert!(!store.stats().full);
    drop(store);
    let store = Embedded::open(dir.path(), small()).expect("open again");
    assert_eq!(value(&store, "/a").await.as_deref(), Some(&b"1"[..]));
    assert_eq!(value(&store, "/b").await.as_deref(), Some(&b"3"[..]));
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_acknowledged_until_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(dir.path(), small()).expect("open");
    put(&store, "/a", b"1").await.expect("put");
    store.faults.sync_fails.store(true, Ordering::Relaxed);
    assert!(matches!(put(&store, "/a", b"2").await, Err(Error::Failed(_))));
    assert!(
        matches!(put(&store, "/a", b"3").await, Err(Error::Failed(_))),
        "the disk works again, but who knows"
    );
    assert_eq!(value(&store, "/a").await.as_deref(), Some(&b"1"[..]), "reads go on");
    drop(store);
    let store = Embedded::open(dir.path(), small()).expect("open again");
    let found = value(&store, "/a").await;
    assert!(
        matches!(found.as_deref(), Some(b"1" | b"2")),
        "an unacknowledged write is absent or whole: {found:?}"
    );
    put(&store, "/a", b"4").await.expect("writes work again");
}

#[tokio::test]
async fn history_stays_within_its_memory() {
    let dir = tempfile::tempdir().expect("a directory");
    // No snapshot: while one is written, what it reads is kept.
    let options = Options { history_bytes: 100_000, snapshot_bytes: u64::MAX, ..small() };
    let store = Arc::new(Embedded::open(dir.path(), options.clone()).expect("open"));
    let written = 2000;
    for round in 0..written {
        put(&store, &format!("/k{}", round % 10), &[7; 1000]).await.expect("put");
    }
    let stats = store.stats();
    assert!(stats.history_bytes <= 110_000, "{stats:?}");
    assert!(stats.compacted > Revision(1) && stats.keys == 10, "{stats:?}");
    // Asking again makes the writer answer after it has nothing left to do.
    store.compact(stats.revision).await.expect("compact");
    put(&store, "/k0", b"").await.expect("put");
    drop(store);
    let store = Embedded::open(dir.path(), options).expect("open again");
    let stats = store.stats();
    assert_eq!((stats.revision, stats.keys), (Revision(1 + written + 1), 10), "{stats:?}");
    assert!(stats.history_bytes <= 110_000, "{stats:?}");
}

#[tokio::test]
async fn history_is_forgotten_by_age() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = Options { history: Duration::from_millis(30), ..small() };
    let store = Embedded::open(dir.path(), options).expect("open");
    put(&store, "/a", b"1").await.expect("put");
    let began = Instant::now();
    while store.stats().compacted < Revision(2) {
        put(&store, "/a", b"2").await.expect("put");
        assert!(began.elapsed() < Duration::from_secs(60), "never compacted");
    }
    assert!(matches!(store.get("/a", Some(Revision(1))).await, Err(Error::Compacted { .. })));
}

#[tokio::test]
async fn snapshots_bound_the_log_and_a_watch_goes_on_over_them() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(dir.path(), small()).expect("open");
    let mut watch = store.watch("/", Revision(1)).await.expect("watch");
    for round in 0..2000_u32 {
        put(&store, &format!("/k{}", round % 10), &round.to_le_bytes()).await.expect("put");
    }
    let mut seen = 0;
    while seen < 2000 {
        seen += watch.next_batch().await.expect("a batch").expect("healthy").events.len();
    }
    // The snapshot is written aside; each of them lets the log before it go.
    let (began, mut last) = (Instant::now(), 0_u32);
    while store.stats().log_bytes > 20_000 {
        assert!(began.elapsed() < Duration::from_secs(60), "the log only grows: {:?}", store.stats());
        last += 1;
        put(&store, "/last", &last.to_le_bytes()).await.expect("put");
    }
    drop(store);
    let files: Vec<_> =
        std::fs::read_dir(dir.path()).expect("list").map(|entry| entry.expect("entry")).collect();
    assert!(
        files.iter().any(|file| file.path().extension().is_some_and(|end| end == "snapshot")),
        "{files:?}"
    );
    let store = Embedded::open(dir.path(), small()).expect("open again");
    assert_eq!(store.stats().revision, Revision(2001 + u64::from(last)));
    for key in 0..10_u32 {
        assert_eq!(
            value(&store, &format!("/k{key}")).await.as_deref(),
            Some(&(1990 + key).to_le_bytes()[..])
        );
    }
}

#[tokio::test]
async fn leases_survive_snapshots_and_restarts() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(dir.path(), small()).expect("open");
    let long = store.grant(Duration::from_secs(3600)).await.expect("grant");
    let short = store.grant(Duration::from_secs(1)).await.expect("grant");
    for (key, lease) in [("/long", long), ("/short", short)] {
        store.put(key, Bytes::from_static(b"x"), Expect::Any, Some(lease)).await.expect("put");
    }
    for _ in 0..200 {
        put(&store, "/k", &[0; 100]).await.expect("put");
    }
    drop(store);
    let store = Embedded::open(dir.path(), small()).expect("open again");
    let revision = store.now().await.expect("now");
    let mut watch = store.watch("/short", revision).await.expect("watch");
    if value(&store, "/short").await.is_some() {
        let batch = watch.next_batch().await.expect("a batch").expect("healthy");
        assert!(batch.events.iter().all(|event| event.is_delete()));
    }
    assert!(value(&store, "/short").await.is_none());
    let next = store.grant(Duration::from_secs(3600)).await.expect("grant");
    assert!(next > short && next > long, "an id is never given twice");
    store.revoke(long).await.expect("the lease is known");
    assert!(value(&store, "/long").await.is_none());
}

#[tokio::test]
async fn a_restart_does_not_give_a_lease_its_time_again() {
    let root = tempfile::tempdir().expect("a directory");
    let dir = root.path().join("db");
    let (id, ttl, minute) = (LeaseId(1), Duration::from_secs(3600), Duration::from_secs(60));
    let image = Image::of(Revision(5), Vec::new(), vec![LeaseInfo { id, ttl, left: minute }]);
    image.restore(&dir, 1, &mut |_| {}).expect("restore");
    // Without a history, what leases have left is written with every group.
    let options = Options { history: Duration::ZERO, ..small() };
    for round in 0..4 {
        let store = Embedded::open(&dir, options.clone()).expect("open");
        let found = store.lease(id).await.expect("the lease is there");
        assert!(found.ttl == ttl && found.left <= minute && found.left > minute / 2, "{found:?}");
        if round % 2 == 0 {
            store.snapshot().await.expect("a snapshot");
        }
        let next = store.grant(ttl).await.expect("grant");
        assert!(next > id, "an id is never given twice");
        put(&store, "/a", b"1").await.expect("put");
        assert!(matches!(store.lease(LeaseId(77)).await, Err(Error::LeaseNotFound(LeaseId(77)))));
    }
    // The log alone says it too.
    let log = tempfile::tempdir().expect("a directory");
    let store = Embedded::open(log.path(), options.clone()).expect("open");
    let lease = store.grant(ttl).await.expect("grant");
    put(&store, "/a", b"1").await.expect("put");
    let before = store.lease(lease).await.expect("lease").left;
    put(&store, "/a", b"2").await.expect("put");
    drop(store);
    let store = Embedded::open(log.path(), options).expect("open again");
    assert!(store.lease(lease).await.expect("lease").left <= before);
}

#[tokio::test]
async fn a_clock_that_jumps_ends_what_is_over_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let (hour, day) = (Duration::from_secs(3600), Duration::from_secs(86_400));
    let store = Embedded::open(dir.path(), small()).expect("open");
    let (short, long) =
        (store.grant(hour).await.expect("grant"), store.grant(10 * day).await.expect("grant"));
    for (key, lease) in [("/short", short), ("/long", long)] {
        store.put(key, Bytes::from_static(b"x"), Expect::Any, Some(lease)).await.expect("put");
    }
    put(&store, "/a", b"1").await.expect("put");
    let before = store.now().await.expect("now");
    let mut watch = store.watch("/", before).await.expect("watch");
    store.faults.jump(2 * hour);
    // A writer that waits looks at the clock when it is woken.
    put(&store, "/a", b"2").await.expect("writes go on");
    let mut events = Vec::new();
    while events.len() < 2 {
        events
            .extend(watch.next_batch().await.expect("a batch").expect("a watch that saw all goes on").events);
    }
    let (put_at, ended): (Vec<_>, Vec<_>) = events.into_iter().partition(|event| &*event.key == "/a");
    assert_eq!((put_at.len(), ended.len()), (1, 1));
    assert!(&*ended[0].key == "/short" && ended[0].is_delete(), "{ended:?}");
    assert!(matches!(store.lease(short).await, Err(Error::LeaseNotFound(_))));
    let left = store.lease(long).await.expect("it has time left").left;
    assert!(left < 10 * day - hour && left > 9 * day, "{left:?}");
    assert_eq!(value(&store, "/a").await.as_deref(), Some(&b"2"[..]));
    store.faults.jump(100 * day);
    put(&store, "/a", b"3").await.expect("writes go on");
    // What was old at the first jump is older than the history now.
    assert!(matches!(store.get("/a", Some(Revision(before.0 - 1))).await, Err(Error::Compacted { .. })));
    assert_eq!(value(&store, "/a").await.as_deref(), Some(&b"3"[..]));
    let deleted = loop {
        let batch = watch.next_batch().await.expect("a batch").expect("healthy");
        if let Some(event) = batch.events.iter().find(|event| event.is_delete()) {
            break event.key.clone();
        }
    };
    assert_eq!(&*deleted, "/long");
    let next = store.grant(day).await.expect("grant");
    store.put("/next", Bytes::from_static(b"x"), Expect::Any, Some(next)).await.expect("put");
    let revision = store.now().await.expect("now");
    drop(store);
    // The clock of the next life is months behind.
    let store = Embedded::open(dir.path(), small()).expect("open again");
    assert!(store.now().await.expect("now") >= revision, "revisions never go back");
    let left = store.lease(next).await.expect("it lives").left;
    assert!(left <= day && left > day - hour, "{left:?}");
    assert!(value(&store, "/next").await.is_some());
    put(&store, "/a", b"4").await.expect("writes go on");
}

#[tokio::test]
async fn closing_ends_everything_that_waits() {
    let dir = tempfile::tempdir().expect("a directory");
    let store = Arc::new(Embedded::open(dir.path(), small()).expect("open"));
    let mut watch = store.watch("/", Revision(1)).await.expect("watch");
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.wait_for(Revision(100)).await }
    });
    tokio::task::yield_now().await;
    store.close();
    assert!(matches!(watch.next_batch().await, Some(Err(Error::Closed))));
    assert!(watch.next_batch().await.is_none());
    assert!(matches!(waiting.await.expect("no panic"), Err(Error::Closed)));
    assert!(matches!(put(&store, "/a", b"1").await, Err(Error::Closed)));
    let again = Embedded::open(dir.path(), small()).expect("the directory is free");
    assert_eq!(again.stats().revision, Revision(1));
}
