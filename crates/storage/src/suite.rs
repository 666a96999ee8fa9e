//! What every backend must do. A backend's tests call [`run`] with a way to make an empty store.

// A failed expectation ends the test that runs the suite.
#![allow(clippy::missing_panics_doc)]

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::{
    DeleteOutcome, Error, Event, Expect, KeyValue, RangeRequest, Revision, SharedLeases, Storage,
    WatchStream, WriteOutcome,
};

/// A store as the cases get it.
type Store = Arc<dyn Storage>;

/// Longer than anything here takes; a case that waits so long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Runs every case against a fresh store.
pub async fn run<F, Made>(fresh: F)
where
    F: Fn() -> Made,
    Made: Future<Output = Store>,
{
    macro_rules! cases {
        ($($case:ident),* $(,)?) => {$(
            tokio::time::timeout(PATIENCE, $case(fresh().await))
                .await
                .unwrap_or_else(|_| panic!("{} took too long", stringify!($case)));
        )*};
    }
    cases![
        versions_count_up,
        guards_decide_in_order,
        failed_writes_tell_the_present_state,
        reads_at_a_revision_do_not_change,
        ranges_continue_at_their_revision,
        the_future_cannot_be_read,
        bad_keys_are_refused,
        watches_begin_after_any_revision,
        watches_see_their_prefix_only,
        watches_tell_progress_without_a_write,
        compacted_history_is_refused,
        leases_take_their_keys_along,
        leases_expire,
        leases_tell_what_is_left,
        a_put_without_the_lease_keeps_the_key,
        shared_leases_are_shared,
        waiting_for_a_revision_ends_when_it_comes,
        concurrent_counters_lose_nothing,
        concurrent_watchers_see_one_history,
        slow_watchers_miss_nothing,
    ];
}

/// Puts and expects success.
pub async fn put(store: &Store, key: &str, value: &str) -> KeyValue {
    match store.put(key, Bytes::copy_from_slice(value.as_bytes()), Expect::Any, None).await {
        Ok(WriteOutcome::Done(kv)) => kv,
        other => panic!("put {key}: {other:?}"),
    }
}

/// Deletes and expects success.
pub async fn delete(store: &Store, key: &str) -> Revision {
    match store.delete(key, Expect::Any).await {
        Ok(DeleteOutcome::Deleted { revision, .. }) => revision,
        other => panic!("delete {key}: {other:?}"),
    }
}

/// The value of a key.
pub async fn value(store: &Store, key: &str, at: Option<Revision>) -> Option<String> {
    let (kv, _) = store.get(key, at).await.expect("get");
    kv.map(|kv| String::from_utf8_lossy(&kv.value).into_owned())
}

/// The next `count` events of a watch; more of them are a failure.
pub async fn events(watch: &mut WatchStream, count: usize) -> Vec<Arc<Event>> {
    let mut events = Vec::new();
    while events.len() < count {
        let batch = watch.next_batch().await.expect("the watch goes on").expect("the watch is healthy");
        if let Some(last) = batch.events.last() {
            assert!(batch.revision >= last.revision, "a batch reaches its last event");
        }
        events.extend(batch.events);
    }
    assert_eq!(events.len(), count, "more events than writes: {events:?}");
    events
}

async fn versions_count_up(store: Store) {
    let first = put(&store, "/a", "1").await;
    assert_eq!((first.version, first.create_revision), (1, first.mod_revision));
    let second = put(&store, "/a", "2").await;
    assert_eq!((second.version, second.create_revision), (2, first.create_revision));
    assert!(second.mod_revision > first.mod_revision);
    let deleted = delete(&store, "/a").await;
    assert!(deleted > second.mod_revision);
    let again = put(&store, "/a", "3").await;
    assert_eq!((again.version, again.create_revision), (1, again.mod_revision));
    let (kv, revision) = store.get("/a", None).await.expect("get");
    assert_eq!((kv.as_ref(), revision), (Some(&again), again.mod_revision));
    assert_eq!(store.now().await.expect("now"), again.mod_revision);
}

async fn guards_decide_in_order(store: Store) {
    let write = |expect| store.put("/a", Bytes::from_static(b"x"), expect, None);
    let WriteOutcome::Done(made) = write(Expect::Absent).await.expect("put") else {
        panic!("the key was absent")
    };
    assert!(matches!(write(Expect::Absent).await, Ok(WriteOutcome::Mismatch { current: Some(_), .. })));
    let WriteOutcome::Done(next) = write(Expect::At(made.mod_revision)).await.expect("put") else {
        panic!("the revision was right")
    };
    assert!(matches!(write(Expect::At(made.mod_revision)).await, Ok(WriteOutcome::Mismatch { .. })));
    assert!(matches!(
        store.delete("/a", Expect::At(made.mod_revision)).await,
        Ok(DeleteOutcome::Mismatch { current: Some(current), .. }) if current == next
    ));
    assert!(matches!(
        store.delete("/a", Expect::At(next.mod_revision)).await,
        Ok(DeleteOutcome::Deleted { prev, revision }) if prev == next && revision > next.mod_revision
    ));
    assert!(matches!(
        write(Expect::At(next.mod_revision)).await,
        Ok(WriteOutcome::Mismatch { current: None, .. })
    ));
    assert!(matches!(
        store.delete("/a", Expect::Any).await,
        Ok(DeleteOutcome::Mismatch { current: None, .. })
    ));
}

async fn failed_writes_tell_the_present_state(store: Store) {
    let kv = put(&store, "/a", "1").await;
    let before = store.now().await.expect("now");
    let Ok(WriteOutcome::Mismatch { current, revision }) =
        store.put("/a", Bytes::from_static(b"2"), Expect::At(Revision(1)), None).await
    else {
        panic!("the guard cannot hold")
    };
    assert_eq!((current, revision), (Some(kv), before));
    assert_eq!(store.now().await.expect("now"), before, "a refused write makes no revision");
}

async fn reads_at_a_revision_do_not_change(store: Store) {
    let one = put(&store, "/a", "1").await.mod_revision;
    let two = put(&store, "/a", "2").await.mod_revision;
    let gone = delete(&store, "/a").await;
    let three = put(&store, "/a", "3").await.mod_revision;
    for (at, expected) in [(one, Some("1")), (two, Some("2")), (gone, None), (three, Some("3"))] {
        assert_eq!(value(&store, "/a", Some(at)).await.as_deref(), expected, "at {at}");
        let range = store.range(RangeRequest::prefix("/").at(at)).await.expect("range");
        let values: Vec<_> = range.kvs.iter().map(|kv| String::from_utf8_lossy(&kv.value)).collect();
        assert_eq!(values, expected.into_iter().collect::<Vec<_>>(), "at {at}");
        assert_eq!(range.revision, three, "a range tells the present revision");
    }
}

async fn ranges_continue_at_their_revision(store: Store) {
    for at in 0..10 {
        put(&store, &format!("/p/{at}"), "old").await;
    }
    put(&store, "/q", "other").await;
    let first = store.range(RangeRequest::prefix("/p/").limit(4)).await.expect("range");
    assert_eq!((first.kvs.len(), first.more, first.count), (4, true, 10));
    put(&store, "/p/55", "late").await;
    put(&store, "/p/7", "late").await;
    delete(&store, "/p/8").await;
    let next = RangeRequest::prefix("/p/").after(&first.kvs[3].key).at(first.revision).limit(4);
    let second = store.range(next).await.expect("range");
    assert_eq!((second.kvs.len(), second.more, second.count), (4, true, 6));
    let last = RangeRequest::prefix("/p/").after(&second.kvs[3].key).at(first.revision);
    let third = store.range(last).await.expect("range");
    assert_eq!((third.kvs.len(), third.more, third.count), (2, false, 2));
    let all: Vec<_> = [first.kvs, second.kvs, third.kvs].concat();
    assert!(all.iter().all(|kv| &kv.value[..] == b"old"));
    assert_eq!(
        all.iter().map(|kv| kv.key.to_string()).collect::<Vec<_>>(),
        (0..10).map(|at| format!("/p/{at}")).collect::<Vec<_>>()
    );
    let counted =
        store.range(RangeRequest { count_only: true, ..RangeRequest::prefix("/p/") }).await.expect("count");
    assert_eq!((counted.kvs.len(), counted.count, counted.more), (0, 10, false));
    let everything = store.range(RangeRequest::default()).await.expect("range");
    assert_eq!(everything.count, 11, "a range without an end has all keys");
    let backwards = RangeRequest { start: "b".into(), end: "a".into(), ..RangeRequest::default() };
    assert_eq!(store.range(backwards).await.expect("range").count, 0);
}

async fn the_future_cannot_be_read(store: Store) {
    let now = put(&store, "/a", "1").await.mod_revision;
    let future = Revision(now.0 + 1);
    assert!(matches!(store.get("/a", Some(future)).await, Err(Error::FutureRevision { .. })));
    assert!(matches!(
        store.range(RangeRequest::prefix("/").at(future)).await,
        Err(Error::FutureRevision { .. })
    ));
    assert!(matches!(store.compact(future).await, Err(Error::FutureRevision { .. })));
}

async fn bad_keys_are_refused(store: Store) {
    assert!(matches!(
        store.put("", Bytes::new(), Expect::Any, None).await,
        Err(Error::KeySize { len: 0, .. })
    ));
    let huge = Bytes::from(vec![0; 32 << 20]);
    assert!(matches!(store.put("/a", huge, Expect::Any, None).await, Err(Error::ValueTooLarge { .. })));
    let empty = store.put("/a", Bytes::new(), Expect::Any, None).await;
    assert!(matches!(empty, Ok(WriteOutcome::Done(_))), "an empty value is a value");
    assert_eq!(value(&store, "/a", None).await.as_deref(), Some(""));
}

async fn watches_begin_after_any_revision(store: Store) {
    let before = store.now().await.expect("now");
    let mut live = store.watch("/w/", before).await.expect("watch");
    let mut written = Vec::new();
    for round in 0..20 {
        let key = format!("/w/{}", round % 3);
        if round % 5 == 4 {
            written.push((delete(&store, &key).await, key, None));
        } else {
            let kv = put(&store, &key, &round.to_string()).await;
            written.push((kv.mod_revision, key, Some(kv)));
        }
    }
    let told = |events: Vec<Arc<Event>>| -> Vec<_> {
        events.iter().map(|event| (event.revision, event.key.to_string(), event.kv.clone())).collect()
    };
    assert_eq!(told(events(&mut live, 20).await), written);
    for skipped in 0..20 {
        let after = if skipped == 0 { before } else { written[skipped - 1].0 };
        let mut watch = store.watch("/w/", after).await.expect("watch");
        let seen = events(&mut watch, 20 - skipped).await;
        let mut last: BTreeMap<&str, Option<KeyValue>> = BTreeMap::new();
        for (_, key, kv) in &written[..skipped] {
            last.insert(key, kv.clone());
        }
        for event in &seen {
            let before = last.insert(&event.key, event.kv.clone()).flatten();
            assert_eq!(event.prev_kv, before, "the version before {}", event.revision);
        }
        assert_eq!(told(seen.clone()), written[skipped..]);
    }
    let now = store.now().await.expect("now");
    let mut future = store.watch("/w/", Revision(now.0 + 1)).await.expect("watch");
    put(&store, "/w/0", "skipped").await;
    let seen = put(&store, "/w/0", "seen").await;
    assert_eq!(events(&mut future, 1).await[0].kv, Some(seen));
}

async fn watches_see_their_prefix_only(store: Store) {
    let before = store.now().await.expect("now");
    let mut all = store.watch("", before).await.expect("watch");
    let mut pods = store.watch("/pods/", before).await.expect("watch");
    let mut one = store.watch("/pods/a/x", before).await.expect("watch");
    for key in ["/nodes/a", "/pods/a/w", "/pods/a/x", "/pods0", "/pods/b/x", "/services"] {
        put(&store, key, "1").await;
    }
    let keys = |events: Vec<Arc<Event>>| events.iter().map(|event| event.key.to_string()).collect::<Vec<_>>();
    assert_eq!(keys(events(&mut one, 1).await), ["/pods/a/x"]);
    assert_eq!(keys(events(&mut pods, 3).await), ["/pods/a/w", "/pods/a/x", "/pods/b/x"]);
    assert_eq!(events(&mut all, 6).await.len(), 6);
    drop(pods);
    put(&store, "/pods/a/x", "2").await;
    assert_eq!(events(&mut one, 1).await[0].prev_kv.as_ref().map(|kv| kv.version), Some(1));
}

async fn watches_tell_progress_without_a_write(store: Store) {
    let before = store.now().await.expect("now");
    let mut watch = store.watch("/mine/", before).await.expect("watch");
    let other = put(&store, "/other", "1").await.mod_revision;
    watch.progress().request();
    let batch = watch.next_batch().await.expect("a batch").expect("healthy");
    assert!(batch.events.is_empty());
    assert_eq!(batch.revision, other);
    let mine = put(&store, "/mine/a", "1").await;
    let other = put(&store, "/other", "2").await.mod_revision;
    watch.progress().request();
    let batch = watch.next_batch().await.expect("a batch").expect("healthy");
    assert_eq!(batch.events[0].kv, Some(mine), "progress does not overtake events");
    let mut revision = batch.revision;
    while revision < other {
        let batch = watch.next_batch().await.expect("a batch").expect("healthy");
        assert!(batch.events.is_empty() && batch.revision > revision);
        revision = batch.revision;
    }
    let progress = watch.progress();
    let ask = tokio::spawn(async move {
        tokio::task::yield_now().await;
        progress.request();
    });
    assert!(
        watch.next_batch().await.expect("a batch").expect("healthy").events.is_empty(),
        "asked while waiting"
    );
    ask.await.expect("asked");
}

async fn compacted_history_is_refused(store: Store) {
    let one = put(&store, "/a", "1").await.mod_revision;
    let two = put(&store, "/a", "2").await.mod_revision;
    put(&store, "/b", "1").await;
    let gone = delete(&store, "/b").await;
    let last = put(&store, "/a", "3").await.mod_revision;
    store.compact(two).await.expect("compact");
    assert!(matches!(store.get("/a", Some(one)).await, Err(Error::Compacted { .. })));
    assert!(matches!(store.range(RangeRequest::prefix("/").at(one)).await, Err(Error::Compacted { .. })));
    assert!(matches!(first_error(&store, one).await, Error::Compacted { .. }));
    assert_eq!(value(&store, "/a", Some(two)).await.as_deref(), Some("2"));
    let mut watch = store.watch("/", two).await.expect("watch at the oldest revision");
    let seen = events(&mut watch, 3).await;
    assert_eq!(
        seen[1].prev_kv.as_ref().map(|kv| &kv.value[..]),
        Some(&b"1"[..]),
        "a delete tells what it deleted"
    );
    store.compact(last).await.expect("compact");
    assert!(matches!(store.get("/b", Some(gone)).await, Err(Error::Compacted { .. })));
    assert_eq!(value(&store, "/a", None).await.as_deref(), Some("3"));
    assert_eq!(value(&store, "/b", None).await, None);
}

/// The error a watch begins or goes on with.
async fn first_error(store: &Store, after: Revision) -> Error {
    match store.watch("/", after).await {
        Err(error) => error,
        Ok(mut watch) => loop {
            match watch.next_batch().await.expect("an error before the end") {
                Ok(batch) => assert!(batch.events.is_empty(), "history that is gone was delivered"),
                Err(error) => break error,
            }
        },
    }
}

async fn leases_take_their_keys_along(store: Store) {
    let lease = store.grant(Duration::from_secs(3600)).await.expect("grant");
    let before = store.now().await.expect("now");
    for key in ["/e/1", "/e/2"] {
        let put = store.put(key, Bytes::from_static(b"x"), Expect::Absent, Some(lease)).await;
        assert!(matches!(put, Ok(WriteOutcome::Done(kv)) if kv.lease == Some(lease)));
    }
    put(&store, "/e/3", "stays").await;
    let mut watch = store.watch("/e/", before).await.expect("watch");
    events(&mut watch, 3).await;
    store.revoke(lease).await.expect("revoke");
    let gone = events(&mut watch, 2).await;
    assert!(gone.iter().all(|event| event.is_delete() && event.prev_kv.is_some()));
    assert_eq!(store.range(RangeRequest::prefix("/e/")).await.expect("range").count, 1);
    assert!(matches!(store.revoke(lease).await, Err(Error::LeaseNotFound(id)) if id == lease));
    let late = store.put("/e/4", Bytes::new(), Expect::Any, Some(lease)).await;
    assert!(matches!(late, Err(Error::LeaseNotFound(id)) if id == lease));
}

async fn leases_expire(store: Store) {
    let lease = store.grant(Duration::from_secs(1)).await.expect("grant");
    let before = store.now().await.expect("now");
    let mut watch = store.watch("/e/", before).await.expect("watch");
    store.put("/e/1", Bytes::from_static(b"x"), Expect::Any, Some(lease)).await.expect("put");
    let seen = events(&mut watch, 1).await;
    assert!(seen[0].is_create());
    let seen = events(&mut watch, 1).await;
    assert!(seen[0].is_delete());
    assert_eq!(value(&store, "/e/1", None).await, None);
}

async fn leases_tell_what_is_left(store: Store) {
    let hour = Duration::from_secs(3600);
    let lease = store.grant(hour).await.expect("grant");
    let info = store.lease(lease).await.expect("lease");
    assert!(info.id == lease && info.ttl == hour && info.left <= hour && info.left > hour / 2, "{info:?}");
    store.revoke(lease).await.expect("revoke");
    assert!(matches!(store.lease(lease).await, Err(Error::LeaseNotFound(id)) if id == lease));
}

async fn a_put_without_the_lease_keeps_the_key(store: Store) {
    let lease = store.grant(Duration::from_secs(3600)).await.expect("grant");
    store.put("/e/1", Bytes::from_static(b"x"), Expect::Any, Some(lease)).await.expect("put");
    put(&store, "/e/1", "kept").await;
    store.revoke(lease).await.expect("revoke");
    assert_eq!(value(&store, "/e/1", None).await.as_deref(), Some("kept"));
}

async fn shared_leases_are_shared(store: Store) {
    let leases = SharedLeases::new(store.clone());
    let hour = Duration::from_secs(3600);
    let first = leases.lease(hour).await.expect("lease");
    assert_eq!(leases.lease(hour).await.expect("lease"), first);
    assert_ne!(leases.lease(2 * hour).await.expect("lease"), first);
    for _ in 0..998 {
        assert_eq!(leases.lease(hour).await.expect("lease"), first);
    }
    assert_ne!(leases.lease(hour).await.expect("lease"), first, "a lease takes a thousand keys");
}

async fn waiting_for_a_revision_ends_when_it_comes(store: Store) {
    let now = put(&store, "/a", "1").await.mod_revision;
    store.wait_for(now).await.expect("already there");
    let waiting = tokio::spawn({
        let store = store.clone();
        async move { store.wait_for(Revision(now.0 + 2)).await }
    });
    put(&store, "/a", "2").await;
    put(&store, "/a", "3").await;
    waiting.await.expect("no panic").expect("the revision came");
}

async fn concurrent_counters_lose_nothing(store: Store) {
    put(&store, "/counter", "0").await;
    let add = |store: Store| async move {
        for _ in 0..25 {
            let (kv, _) = store.get("/counter", None).await.expect("get");
            let mut kv = kv.expect("the counter exists");
            loop {
                let count: u32 = String::from_utf8_lossy(&kv.value).parse().expect("a number");
                let next = Bytes::from((count + 1).to_string());
                match store.put("/counter", next, Expect::At(kv.mod_revision), None).await.expect("put") {
                    WriteOutcome::Done(_) => break,
                    WriteOutcome::Mismatch { current, .. } => kv = current.expect("the counter exists"),
                }
            }
        }
    };
    let adders: Vec<_> = (0..8).map(|_| tokio::spawn(add(store.clone()))).collect();
    for adder in adders {
        adder.await.expect("no panic");
    }
    assert_eq!(value(&store, "/counter", None).await.as_deref(), Some("200"));
}

async fn concurrent_watchers_see_one_history(store: Store) {
    let before = store.now().await.expect("now");
    let early = store.watch("/k/", before).await.expect("watch");
    let write = |store: Store, writer: usize| async move {
        for round in 0..100 {
            put(&store, &format!("/k/{}", (writer + round) % 7), &format!("{writer}.{round}")).await;
        }
    };
    let writers: Vec<_> = (0..6).map(|writer| tokio::spawn(write(store.clone(), writer))).collect();
    let read = |mut watch: WatchStream, count| tokio::spawn(async move { events(&mut watch, count).await });
    let early = read(early, 600);
    let mut late = Vec::new();
    for _ in 0..10 {
        // In the middle of the writes: half from the index, half as they come.
        late.push(read(store.watch("/k/", before).await.expect("watch"), 600));
        tokio::task::yield_now().await;
    }
    for writer in writers {
        writer.await.expect("no panic");
    }
    let early = early.await.expect("no panic");
    assert!(early.windows(2).all(|pair| pair[0].revision < pair[1].revision), "in order, none twice");
    for late in late {
        assert_eq!(late.await.expect("no panic"), early);
    }
}

async fn slow_watchers_miss_nothing(store: Store) {
    let before = store.now().await.expect("now");
    let mut watch = store.watch("/k", before).await.expect("watch");
    let mut seen = 0;
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let store = store.clone();
            tokio::spawn(async move {
                for round in 0..1000 {
                    put(&store, &format!("/k{writer}"), &round.to_string()).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("no panic");
    }
    let mut resume = before;
    while seen < 4000 {
        match watch.next_batch().await.expect("a batch") {
            Ok(batch) => {
                assert!(batch.events.iter().all(|event| event.revision > resume), "none twice");
                seen += batch.events.len();
                resume = batch.revision;
            }
            Err(Error::Lagged) => watch = store.watch("/k", resume).await.expect("resume"),
            Err(other) => panic!("{other}"),
        }
    }
    assert_eq!(seen, 4000);
}
