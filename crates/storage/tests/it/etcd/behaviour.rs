//! What is particular to etcd: compaction in turns, prefixes, sizes, several processes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use storage::etcd::Options;
use storage::real_etcd::{self, RealEtcd};
use storage::suite::{put, value};
use storage::{Error, Expect, RangeRequest, Revision, Storage, WriteOutcome};
use tokio::time::{sleep, timeout};

use super::{PATIENCE, open, options};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn several_servers_take_turns_at_compaction() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let etcd = RealEtcd::start(&program, root.path(), 1, None);
    let interval = Duration::from_millis(600);
    let mut stores = Vec::new();
    for _ in 0..3 {
        let options = Options { compaction: Some(interval), ..options(etcd.endpoints()) };
        stores.push(Arc::new(etcd.open(options).await) as Arc<dyn Storage>);
    }
    let store = stores[0].clone();
    let first = put(&store, "/a", "1").await.mod_revision;
    let mut last = first;
    timeout(PATIENCE, async {
        while store.get("/a", Some(first)).await.is_ok() {
            last = put(&store, "/a", "2").await.mod_revision;
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("history is forgotten");
    assert!(matches!(store.get("/a", Some(first)).await, Err(Error::Compacted { .. })));
    assert_eq!(value(&store, "/a", Some(last)).await.as_deref(), Some("2"), "what is young stays");
    let (before, _) = store.get("compact_rev_key", None).await.expect("get");
    let before = before.expect("upstream's key");
    std::str::from_utf8(&before.value).expect("text").parse::<u64>().expect("a revision");
    sleep(interval * 4).await;
    let (after, _) = store.get("compact_rev_key", None).await.expect("get");
    let turns = after.expect("upstream's key").version - before.version;
    assert!((2..=6).contains(&turns), "three servers compacted {turns} times in four intervals");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn clusters_with_prefixes_of_their_own_do_not_meet() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let etcd = RealEtcd::start(&program, root.path(), 1, None);
    let one: Arc<dyn Storage> = open(&etcd).await;
    let moved = Options { prefix: "/two".into(), ..options(etcd.endpoints()) };
    let two: Arc<dyn Storage> = Arc::new(etcd.open(moved).await);
    let before = two.now().await.expect("now");
    let mut watch = two.watch("/registry/pods/", before).await.expect("watch");
    put(&one, "/registry/pods/a", "one").await;
    put(&two, "/registry/pods/b", "two").await;
    assert_eq!(etcd.ctl(&[0], &["get", "/two/pods/b", "--print-value-only"]).trim(), "two");
    let seen = storage::suite::events(&mut watch, 1).await;
    assert_eq!(&*seen[0].key, "/registry/pods/b");
    let listed = two.range(RangeRequest::prefix("/registry/pods/")).await.expect("range");
    assert_eq!(listed.kvs.iter().map(|kv| &*kv.key).collect::<Vec<_>>(), ["/registry/pods/b"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_long_range_is_one_revision_though_it_is_read_in_pages() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let etcd = RealEtcd::start(&program, root.path(), 1, None);
    let store: Arc<dyn Storage> = open(&etcd).await;
    let count = 1700;
    let mut writers = Vec::new();
    for writer in 0..10 {
        let store = store.clone();
        writers.push(tokio::spawn(async move {
            for at in (writer..count).step_by(10) {
                put(&store, &format!("/l/{at:05}"), &"x".repeat(if at % 7 == 0 { 20_000 } else { 10 })).await;
            }
        }));
    }
    for writer in writers {
        writer.await.expect("no panic");
    }
    // Meanwhile a writer moves a mark between the first and the last key: both have to be of one revision.
    let moving = tokio::spawn({
        let store = store.clone();
        async move {
            for round in 0_u32.. {
                put(&store, "/l/00000", &round.to_string()).await;
                put(&store, "/l/99999", &round.to_string()).await;
            }
        }
    });
    for _ in 0..10 {
        let all = store.range(RangeRequest::prefix("/l/")).await.expect("range");
        let number = |at: usize| String::from_utf8_lossy(&all.kvs[at].value).parse::<i64>().unwrap_or(-1);
        if &*all.kvs[all.kvs.len() - 1].key == "/l/99999" && number(0) >= 0 {
            let ahead = number(0) - number(all.kvs.len() - 1);
            assert!(ahead == 0 || ahead == 1, "two revisions in one range: {ahead}");
        }
        assert!(all.count >= 1700 && all.kvs.len() as u64 == all.count && !all.more);
        assert!(all.kvs.windows(2).all(|pair| pair[0].key < pair[1].key));
    }
    moving.abort();
    let limited = store.range(RangeRequest::prefix("/l/").limit(1200)).await.expect("range");
    assert_eq!((limited.kvs.len(), limited.more), (1200, true));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_etcd_finds_too_large_is_told_so() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let etcd = RealEtcd::start(&program, root.path(), 1, None);
    let store = open(&etcd).await;
    for size in [1600 << 10, 3 << 20, 65 << 20] {
        let told = store.put("/a", Bytes::from(vec![7; size]), Expect::Any, None).await;
        assert!(matches!(told, Err(Error::ValueTooLarge { len, .. }) if len == size), "{told:?}");
    }
    let fits = store.put("/a", Bytes::from(vec![7; 1400 << 10]), Expect::Any, None).await;
    assert!(matches!(fits, Ok(WriteOutcome::Done(_))));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_through_one_process_is_seen_through_another() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let etcd = super::steady(&program, root.path());
    let mut stores = Vec::new();
    for number in 0..3 {
        let options = options(vec![etcd.endpoint(number)]);
        stores.push(Arc::new(etcd.open(options).await) as Arc<dyn Storage>);
    }
    for round in 0..60 {
        let (writer, reader) = (&stores[round % 3], &stores[(round + 1) % 3]);
        let written = put(writer, "/a", &round.to_string()).await.mod_revision;
        let now = reader.now().await.expect("now");
        assert!(now >= written, "the present of another process is older: {now} < {written}");
        let mut watch = reader.watch("/b", Revision(now.0 - 1)).await.expect("watch");
        reader.wait_for(now).await.expect("reached");
        watch.progress().request();
        let batch =
            timeout(PATIENCE, watch.next_batch()).await.expect("in time").expect("goes on").expect("healthy");
        assert!(batch.revision >= now && batch.events.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_that_was_replaced_is_not_used() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let (first, second) = (root.path().join("1"), root.path().join("2"));
    std::fs::create_dir(&first).expect("a directory");
    std::fs::create_dir(&second).expect("a directory");
    let mut etcd = RealEtcd::start(&program, &first, 1, None);
    let other = RealEtcd::start(&program, &second, 1, None);
    drop(open(&other).await);
    let store = etcd.open(options(vec![etcd.endpoint(0), other.endpoint(0)])).await;
    store.now().await.expect("now");
    etcd.kill(0);
    let told = timeout(PATIENCE, async {
        loop {
            match store.now().await {
                Err(error @ Error::Failed(_)) => break error,
                _ => sleep(Duration::from_millis(50)).await,
            }
        }
    })
    .await
    .expect("it is noticed");
    assert!(told.to_string().contains("another cluster"), "{told}");
    assert!(store.healthy().is_err());
}
