//! The cache over the real embedded storage.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use storage::{
    DeleteOutcome, Embedded, Expect, KeyValue, LeaseId, Options, RangeRequest, RangeResponse, Revision,
    Storage, WatchStream, WriteOutcome,
};

use super::*;

const PODS: &str = "/registry/pods/";

/// Values are `node=X` or more such words; the first is a selectable field, the object is made around it.
fn decoder() -> Arc<dyn Decode> {
    Arc::new(|kv: &KeyValue| {
        let text = std::str::from_utf8(&kv.value).map_err(|error| DecodeError(error.to_string()))?;
        let Some(node) = text.strip_prefix("node=") else { return Err(DecodeError("not a pod".into())) };
        let (namespace, name) = kv.key[PODS.len()..].split_once('/').unwrap_or_default();
        let value = format!(r#"{{"metadata":{{"name":"{name}"}},"node":"{node}"}}"#);
        Ok(Decoded {
            splice: find_splice(value.as_bytes()).ok_or_else(|| DecodeError("no metadata".into()))?,
            value: value.into(),
            facts: Facts {
                namespace: namespace.into(),
                name: name.into(),
                fields: vec![("spec.nodeName".into(), node.to_owned())],
                ..Facts::default()
            },
        })
    })
}

struct World {
    _dir: tempfile::TempDir,
    storage: Arc<Embedded>,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let options = Options { sync: false, ..Options::default() };
        let storage = Arc::new(Embedded::open(dir.path(), options).expect("open"));
        Self { _dir: dir, storage }
    }

    async fn cache(&self, limits: Limits) -> Cache {
        let cache = Cache::start(self.storage.clone(), PODS, decoder(), limits);
        cache.ready().await.expect("ready");
        cache
    }

    async fn put(&self, key: &str, value: &str) -> Revision {
        put(&*self.storage, key, value).await
    }

    async fn delete(&self, key: &str) -> Revision {
        match self.storage.delete(&format!("{PODS}{key}"), Expect::Any).await {
            Ok(DeleteOutcome::Deleted { revision, .. }) => revision,
            other => panic!("{other:?}"),
        }
    }
}

async fn put(storage: &dyn Storage, key: &str, value: &str) -> Revision {
    let value = Bytes::copy_from_slice(value.as_bytes());
    match storage.put(&format!("{PODS}{key}"), value, Expect::Any, None).await {
        Ok(WriteOutcome::Done(kv)) => kv.mod_revision,
        other => panic!("{other:?}"),
    }
}

fn keys(snapshot: &Snapshot) -> Vec<String> {
    snapshot
        .objects
        .iter()
        .map(|object| format!("{}@{}", &object.key[PODS.len()..], object.revision))
        .collect()
}

async fn events(watch: &mut Watch, count: usize) -> Vec<Arc<CacheEvent>> {
    let mut events = Vec::new();
    while events.len() < count {
        let batch =
            tokio::time::timeout(Duration::from_secs(60), watch.next_batch()).await.expect("events come");
        events.extend(batch.expect("healthy"));
    }
    assert_eq!(events.len(), count, "{events:?}");
    events
}

fn all() -> Scope {
    Scope::prefix(PODS)
}

#[tokio::test]
async fn readers_see_the_writes_acknowledged_before_they_ask() {
    let world = World::new();
    let before = world.put("a/one", "node=x").await;
    let cache = world.cache(Limits::default()).await;
    assert_eq!(keys(&cache.snapshot()), [format!("a/one@{before}")]);
    for _ in 0..50 {
        let written = world.put("a/two", "node=y").await;
        let revision = cache.refresh().await.expect("refresh");
        assert_eq!(revision, written);
        let object = cache.get("/registry/pods/a/two").expect("there");
        assert_eq!(object.revision, written);
        assert_eq!(
            object.json(),
            format!(r#"{{"metadata":{{"resourceVersion":"{written}","name":"two"}},"node":"y"}}"#)
        );
        // A write elsewhere moves the revision too, without an event here.
        world.storage.put("/registry/nodes/n", Bytes::new(), Expect::Any, None).await.expect("put");
        assert_eq!(cache.refresh().await.expect("refresh").0, written.0 + 1);
        assert_eq!(cache.revision().0, written.0 + 1);
    }
    world.delete("a/two").await;
    cache.refresh().await.expect("refresh");
    assert!(cache.get("/registry/pods/a/two").is_none());
    assert!(cache.get("/registry/pods/a/one").is_some());
}

#[tokio::test]
async fn waiting_before_the_first_list_works() {
    let world = World::new();
    let written = world.put("a/one", "node=x").await;
    let cache = Cache::start(world.storage.clone(), PODS, decoder(), Limits::default());
    cache.wait_until(written).await.expect("reached");
    assert_eq!(keys(&cache.snapshot()), [format!("a/one@{written}")]);
}

#[tokio::test]
async fn watchers_get_each_event_once_with_what_was_before() {
    let world = World::new();
    let first = world.put("a/one", "node=x").await;
    let cache = world.cache(Limits::default()).await;
    let (snapshot, mut watch) = cache.watch_initial(all());
    assert_eq!(keys(&snapshot), [format!("a/one@{first}")]);
    world.put("a/one", "node=y").await;
    let gone = world.delete("a/one").await;
    world.put("b/two", "node=x").await;
    let seen = events(&mut watch, 3).await;
    let kinds: Vec<_> = seen.iter().map(|event| event.kind).collect();
    assert_eq!(kinds, [EventKind::Modified, EventKind::Deleted, EventKind::Added]);
    assert_eq!(seen[0].previous.as_ref().map(|object| object.revision), Some(first));
    assert_eq!(
        seen[1].frame(),
        &format!(
            "{{\"type\":\"DELETED\",\"object\":{{\"metadata\":{{\"resourceVersion\":\"{gone}\",\"name\":\"one\"}},\"node\":\"y\"}}}}\n"
        )
    );
    assert!(std::ptr::eq(seen[1].frame().as_ptr(), seen[1].frame().as_ptr()), "encoded once");
    assert!(seen[2].previous.is_none());
    let mut resumed = cache.watch_after(gone, all()).expect("recent");
    let again = events(&mut resumed, 1).await;
    assert!(Arc::ptr_eq(&again[0], &seen[2]), "all watchers share an event");
}

#[tokio::test]
async fn a_watch_from_the_future_begins_there() {
    let world = World::new();
    let cache = world.cache(Limits::default()).await;
    let now = cache.refresh().await.expect("refresh");
    let mut watch = cache.watch_after(Revision(now.0 + 1), all()).expect("watch");
    world.put("a/one", "node=x").await;
    let wanted = world.put("a/one", "node=y").await;
    assert_eq!(events(&mut watch, 1).await[0].revision, wanted);
}

#[tokio::test]
async fn scopes_select_by_key_and_by_field_before_or_after() {
    let world = World::new();
    let cache = world.cache(Limits::default()).await;
    let (_, mut namespace) = cache.watch_initial(Scope::prefix("/registry/pods/a/"));
    let (_, mut node) = cache.watch_initial(all().field("spec.nodeName", "x"));
    let (_, mut both) = cache.watch_initial(Scope::prefix("/registry/pods/a/").field("spec.nodeName", "x"));
    world.put("a/one", "node=").await;
    world.put("b/two", "node=x").await;
    world.put("a/one", "node=x").await;
    world.put("a/one", "node=x").await;
    world.put("a/one", "node=y").await;
    world.put("a/one", "node=z").await;
    cache.refresh().await.expect("refresh");
    let told = |events: Vec<Arc<CacheEvent>>| -> Vec<String> {
        events
            .iter()
            .map(|event| format!("{} {}", event.object.facts.name, event.object.facts.fields[0].1))
            .collect()
    };
    assert_eq!(told(events(&mut namespace, 5).await), ["one ", "one x", "one x", "one y", "one z"]);
    assert_eq!(told(events(&mut node, 4).await), ["two x", "one x", "one x", "one y"]);
    assert_eq!(told(events(&mut both, 3).await), ["one x", "one x", "one y"]);
    assert_eq!(node.bookmark(), Some(cache.revision()));
}

#[tokio::test]
async fn bookmarks_never_overtake_events() {
    let world = World::new();
    let cache = world.cache(Limits::default()).await;
    let (snapshot, mut watch) = cache.watch_initial(all());
    assert_eq!(watch.bookmark(), Some(snapshot.revision));
    world.put("a/one", "node=x").await;
    cache.refresh().await.expect("refresh");
    assert_eq!(watch.bookmark(), None);
    let seen = events(&mut watch, 1).await;
    assert_eq!(watch.bookmark(), Some(seen[0].revision));
    world.storage.put("/registry/nodes/n", Bytes::new(), Expect::Any, None).await.expect("put");
    let now = cache.refresh().await.expect("refresh");
    assert_eq!(watch.bookmark(), Some(now));
}

#[tokio::test]
async fn a_slow_reader_goes_on_from_the_ring_and_ends_when_that_is_past() {
    let world = World::new();
    let limits = Limits { events: 200, buffer: 10, ..Limits::default() };
    let cache = world.cache(limits).await;
    let (snapshot, mut slow) = cache.watch_initial(all());
    for round in 0..150 {
        world.put(&format!("a/{}", round % 7), "node=x").await;
    }
    cache.refresh().await.expect("refresh");
    let seen = events(&mut slow, 150).await;
    assert!(
        seen.iter().zip(1..).all(|(event, at)| event.revision.0 == snapshot.revision.0 + at),
        "none lost"
    );
    for round in 0..300 {
        world.put(&format!("a/{}", round % 7), "node=x").await;
    }
    cache.refresh().await.expect("refresh");
    let error = slow.next_batch().await.expect_err("the ring has 200 events");
    assert!(matches!(error, Error::Expired { oldest } if oldest == cache.oldest()), "{error:?}");
    assert!(slow.next_batch().await.is_err() && slow.bookmark().is_none());
    assert!(matches!(cache.watch_after(snapshot.revision, all()), Err(Error::Expired { .. })));
    let mut resumed =
        cache.watch_after(cache.oldest(), all()).expect("the oldest revision can be resumed from");
    events(&mut resumed, 200).await;
}

#[tokio::test]
async fn a_rarely_concerned_watch_does_not_expire_over_what_does_not_concern_it() {
    let world = World::new();
    let cache = world.cache(Limits { events: 50, buffer: 4, ..Limits::default() }).await;
    let (_, mut watch) = cache.watch_initial(all().field("spec.nodeName", "mine"));
    for _ in 0..300 {
        world.put("a/other", "node=other").await;
    }
    for _ in 0..20 {
        world.put("a/mine", "node=mine").await;
    }
    cache.refresh().await.expect("refresh");
    events(&mut watch, 20).await;
}

#[tokio::test]
async fn snapshots_of_the_past_are_what_they_were() {
    let world = World::new();
    let mut then = Vec::new();
    let limits = Limits { events: 20, ..Limits::default() };
    world.put("a/0", "node=x").await;
    let cache = world.cache(limits).await;
    for round in 0..60_u32 {
        let key = format!("a/{}", round % 5);
        if round % 4 == 3 && cache.get(&format!("{PODS}{key}")).is_some() {
            world.delete(&key).await;
        } else {
            world.put(&key, &format!("node={round}")).await;
        }
        cache.refresh().await.expect("refresh");
        let snapshot = cache.snapshot();
        then.push((snapshot.revision, keys(&snapshot), snapshot));
    }
    assert!(cache.oldest() > then[0].0, "some come from the ring, some from the storage");
    for (revision, expected, held) in &then {
        assert_eq!(&keys(held), expected, "a snapshot does not change");
        let rebuilt = cache.snapshot_at(*revision).await.expect("kept");
        assert_eq!((rebuilt.revision, &keys(&rebuilt)), (*revision, expected));
        let values =
            |snapshot: &Snapshot| snapshot.objects.iter().map(|object| object.json()).collect::<Vec<_>>();
        assert_eq!(values(&rebuilt), values(held));
    }
    let last = then[then.len() - 1].0;
    world.storage.compact(last).await.expect("compact");
    let early = cache.snapshot_at(then[0].0).await;
    assert!(matches!(early, Err(Error::Expired { oldest }) if oldest == last), "{early:?}");
    cache.snapshot_at(last).await.expect("still there");
}

#[tokio::test]
async fn what_cannot_be_decoded_is_not_served() {
    let world = World::new();
    world.put("a/bad", "garbage").await;
    world.put("a/good", "node=x").await;
    let cache = world.cache(Limits::default()).await;
    assert_eq!(cache.snapshot().objects.len(), 1);
    let (_, mut watch) = cache.watch_initial(all());
    world.put("a/good", "garbage").await;
    world.put("a/bad", "node=x").await;
    let seen = events(&mut watch, 2).await;
    assert_eq!((seen[0].kind, seen[1].kind), (EventKind::Deleted, EventKind::Added));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_watchers_agree_under_load() {
    let world = World::new();
    let cache = Arc::new(world.cache(Limits::default()).await);
    let read = |mut watch: Watch, count| tokio::spawn(async move { events(&mut watch, count).await });
    let (_, first) = cache.watch_initial(all());
    let first = read(first, 800);
    let start = cache.revision();
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let storage = world.storage.clone();
            tokio::spawn(async move {
                for round in 0..200 {
                    put(&*storage, &format!("{writer}/{}", round % 9), "node=x").await;
                }
            })
        })
        .collect();
    let mut others = Vec::new();
    for _ in 0..20 {
        others.push(read(cache.watch_after(start, all()).expect("recent"), 800));
        tokio::task::yield_now().await;
    }
    for writer in writers {
        writer.await.expect("no panic");
    }
    let first = first.await.expect("no panic");
    assert!(first.windows(2).all(|pair| pair[0].revision < pair[1].revision));
    for other in others {
        let other = other.await.expect("no panic");
        assert!(
            first.iter().zip(&other).all(|(a, b)| Arc::ptr_eq(a, b)),
            "the same events in the same order"
        );
    }
    // What the events say is what is there.
    cache.refresh().await.expect("refresh");
    let stored = world.storage.range(RangeRequest::prefix(PODS)).await.expect("range");
    let stored: Vec<_> = stored.kvs.iter().map(|kv| (kv.key.clone(), kv.mod_revision)).collect();
    let cached: Vec<_> =
        cache.snapshot().objects.iter().map(|object| (object.key.clone(), object.revision)).collect();
    assert_eq!(stored, cached);
}

/// A storage whose watches break when told to, with the error given.
struct Breaking {
    storage: Arc<Embedded>,
    cut: tokio::sync::watch::Receiver<Option<storage::Error>>,
    /// Each list and each watch needs a permit: while there is none, the world goes on.
    open: tokio::sync::Semaphore,
    /// Lists and watches that were asked for.
    asked: AtomicUsize,
}

#[async_trait]
impl Storage for Breaking {
    async fn get(
        &self,
        key: &str,
        at: Option<Revision>,
    ) -> Result<(Option<KeyValue>, Revision), storage::Error> {
        self.storage.get(key, at).await
    }
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, storage::Error> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.open.acquire().await.map_err(|_| storage::Error::Closed)?.forget();
        self.storage.range(request).await
    }
    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
        lease: Option<LeaseId>,
    ) -> Result<WriteOutcome, storage::Error> {
        self.storage.put(key, value, expect, lease).await
    }
    async fn delete(&self, key: &str, expect: Expect) -> Result<DeleteOutcome, storage::Error> {
        self.storage.delete(key, expect).await
    }
    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, storage::Error> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.open.acquire().await.map_err(|_| storage::Error::Closed)?.forget();
        let watch = self.storage.watch(prefix, after).await?;
        let progress = watch.progress();
        let mut cut = self.cut.clone();
        cut.mark_unchanged();
        let broken = async move {
            let error = cut.wait_for(Option::is_some).await.ok().and_then(|error| error.clone());
            Err(error.unwrap_or(storage::Error::Closed))
        };
        let batches = futures::stream::select(watch, futures::stream::once(broken)).boxed();
        Ok(WatchStream::new(batches, progress))
    }
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, storage::Error> {
        self.storage.grant(ttl).await
    }
    async fn revoke(&self, lease: LeaseId) -> Result<(), storage::Error> {
        self.storage.revoke(lease).await
    }
    async fn compact(&self, at: Revision) -> Result<(), storage::Error> {
        self.storage.compact(at).await
    }
    async fn now(&self) -> Result<Revision, storage::Error> {
        self.storage.now().await
    }
    async fn wait_for(&self, revision: Revision) -> Result<(), storage::Error> {
        self.storage.wait_for(revision).await
    }
}

/// A cache over a storage whose watch has just broken with an error, and the way to let it watch again.
async fn broken(world: &World, error: storage::Error) -> (Arc<Breaking>, Cache, Watch, Revision) {
    let (cut, receiver) = tokio::sync::watch::channel(None);
    let open = tokio::sync::Semaphore::new(2);
    let storage = Arc::new(Breaking {
        storage: world.storage.clone(),
        cut: receiver,
        open,
        asked: AtomicUsize::new(0),
    });
    for key in ["a/changed", "a/gone", "a/replaced", "a/same"] {
        world.put(key, "node=x").await;
    }
    let cache = Cache::start(storage.clone(), PODS, decoder(), Limits::default());
    cache.refresh().await.expect("refresh");
    let (snapshot, watch) = cache.watch_initial(all());
    while storage.open.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    cut.send_replace(Some(error));
    // Only then has the cache seen that its watch broke, and nothing that happens from now on comes through it.
    while storage.asked.load(Ordering::Relaxed) < 3 {
        tokio::task::yield_now().await;
    }
    (storage, cache, watch, snapshot.revision)
}

#[tokio::test]
async fn a_lagging_feed_resumes_without_a_loss() {
    let world = World::new();
    let (storage, cache, mut watch, start) = broken(&world, storage::Error::Lagged).await;
    world.put("a/changed", "node=y").await;
    world.put("a/changed", "node=z").await;
    // From now on every watch breaks at once, and each goes on where the one before ended.
    storage.open.add_permits(1000);
    let seen = events(&mut watch, 2).await;
    assert!(seen.iter().zip(1..).all(|(event, at)| event.revision.0 == start.0 + at));
    assert!(cache.watch_after(start, all()).is_ok(), "nothing was lost for those who resume either");
}

#[tokio::test]
async fn after_a_gap_watchers_are_told_the_difference_and_nobody_resumes_over_it() {
    let world = World::new();
    let gap = storage::Error::Compacted { requested: Revision(1), compacted: Revision(2) };
    let (storage, cache, mut watch, start) = broken(&world, gap).await;
    // The list after the break waits for its permit, so all this happens in the gap.
    world.put("a/changed", "node=y").await;
    world.delete("a/gone").await;
    world.delete("a/replaced").await;
    world.put("a/replaced", "node=x").await;
    let end = world.put("a/new", "node=x").await;
    storage.open.add_permits(1_000_000);
    let mut state: std::collections::BTreeMap<String, u64> = ["a/changed", "a/gone", "a/replaced", "a/same"]
        .into_iter()
        .zip(2..)
        .map(|(key, revision)| (key.to_owned(), revision))
        .collect();
    let mut last = start;
    while last < end || state.contains_key("a/gone") {
        let batch =
            tokio::time::timeout(Duration::from_secs(60), watch.next_batch()).await.expect("events come");
        for event in batch.expect("healthy") {
            assert!(event.revision >= last, "revisions do not go back");
            last = event.revision;
            let key = event.object.key[PODS.len()..].to_owned();
            match event.kind {
                EventKind::Added => assert!(state.insert(key, event.revision.0).is_none()),
                EventKind::Modified => assert!(state.insert(key, event.revision.0).is_some()),
                EventKind::Deleted => assert!(state.remove(&key).is_some()),
            }
        }
    }
    let stored = world.storage.range(RangeRequest::prefix(PODS)).await.expect("range");
    let stored: std::collections::BTreeMap<String, u64> =
        stored.kvs.iter().map(|kv| (kv.key[PODS.len()..].to_owned(), kv.mod_revision.0)).collect();
    assert_eq!(state, stored);
    assert!(
        matches!(cache.watch_after(start, all()), Err(Error::Expired { .. })),
        "history has a hole there"
    );
}

#[tokio::test]
async fn closing_the_storage_ends_the_cache_and_its_watches() {
    let world = World::new();
    let cache = world.cache(Limits::default()).await;
    let (_, mut watch) = cache.watch_initial(all());
    world.storage.close();
    assert!(matches!(watch.next_batch().await, Err(Error::Closed)));
    let (_, mut late) = cache.watch_initial(all());
    assert!(matches!(late.next_batch().await, Err(Error::Closed)));
    assert!(cache.refresh().await.is_err());
}

#[tokio::test]
async fn dropping_the_cache_ends_its_watches() {
    let world = World::new();
    let cache = world.cache(Limits::default()).await;
    let (_, mut watch) = cache.watch_initial(all());
    drop(cache);
    assert!(matches!(watch.next_batch().await, Err(Error::Closed)));
}

#[tokio::test]
async fn an_empty_cache_is_small() {
    let world = World::new();
    let cache = world.cache(Limits::default()).await;
    let feed = size_of_val(&feed::run(cache.inner_for_tests()));
    let fixed = size_of_val(&*cache.inner_for_tests());
    assert!(feed + fixed < 5_000, "task {feed}, state {fixed} bytes");
}
