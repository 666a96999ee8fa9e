//! Killed, frozen and unreachable members under concurrent writers and watchers: nothing acknowledged is lost, no
//! watch has a gap or sees anything twice, and no answer is stale.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use storage::etcd::Options;
use storage::real_etcd::{self, Network, Proxy, RealEtcd};
use storage::{Error, Etcd, Event, Revision, Storage};
use tokio::time::{sleep, timeout};

use super::history::{self, Told};
use super::{PATIENCE, options};

/// Reads a watch up to a revision, resuming where the trait says so.
async fn read(store: Arc<dyn Storage>, prefix: &str, after: Revision, until: Revision) -> Vec<Arc<Event>> {
    let mut events = Vec::new();
    let mut resume = after;
    let mut watch = store.watch(prefix, after).await.expect("watch");
    while resume < until {
        watch.progress().request();
        match watch.next_batch().await.expect("the watch goes on") {
            Ok(batch) => {
                resume = batch.revision;
                events.extend(batch.events);
            }
            Err(Error::Lagged) => watch = store.watch(prefix, resume).await.expect("resume"),
            Err(error) => panic!("the watch ends with {error}"),
        }
    }
    events.retain(|event| event.revision <= until);
    events
}

/// A watch that runs from the beginning, over all faults, until it is told where to end.
struct Watching {
    until: tokio::sync::watch::Sender<Revision>,
    task: tokio::task::JoinHandle<Vec<Arc<Event>>>,
}

impl Watching {
    fn begin(store: Arc<dyn Storage>, prefix: &'static str, after: Revision) -> Self {
        let (until, mut end) = tokio::sync::watch::channel(Revision(u64::MAX));
        let task = tokio::spawn(async move {
            let mut events: Vec<Arc<Event>> = Vec::new();
            let mut resume = after;
            let mut watch = store.watch(prefix, after).await.expect("watch");
            loop {
                let until = *end.borrow_and_update();
                if resume >= until {
                    break;
                }
                tokio::select! {
                    changed = end.changed() => {
                        changed.expect("the test goes on");
                        watch.progress().request();
                    }
                    batch = watch.next_batch() => match batch.expect("the watch goes on") {
                        Ok(batch) => {
                            assert!(batch.events.iter().all(|event| event.revision > resume), "none twice");
                            resume = batch.revision;
                            events.extend(batch.events);
                        }
                        Err(Error::Lagged) => watch = store.watch(prefix, resume).await.expect("resume"),
                        Err(error) => panic!("the watch ends with {error}"),
                    }
                }
            }
            let until = *end.borrow();
            events.retain(|event| event.revision <= until);
            events
        });
        Self { until, task }
    }

    async fn end(self, at: Revision) -> Vec<Arc<Event>> {
        self.until.send_replace(at);
        timeout(PATIENCE, self.task).await.expect("the watch comes to the end").expect("no panic")
    }
}

/// Runs clients and watches on several stores during `faults`, and checks what they did and saw.
pub(crate) async fn under<F: Future<Output = ()>>(stores: Vec<Arc<Etcd>>, faults: F) {
    let etcds = stores;
    let stores: Vec<Arc<dyn Storage>> = etcds.iter().map(|store| store.clone() as Arc<dyn Storage>).collect();
    let before = stores[0].now().await.expect("now");
    let watching: Vec<_> = stores
        .iter()
        .flat_map(|store| {
            ["/w/", "/w/1"].map(|prefix| (prefix, Watching::begin(store.clone(), prefix, before)))
        })
        .collect();
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..6)
        .map(|name| {
            let store = stores[name % stores.len()].clone();
            tokio::spawn(history::client(store, name, 4, stop.clone()))
        })
        .collect();
    faults.await;
    // The last fault is over: everything works again.
    for store in &etcds {
        timeout(PATIENCE, async {
            while store.now().await.is_err() || store.healthy().is_err() {
                sleep(Duration::from_millis(20)).await;
            }
        })
        .await
        .expect("the store is healthy again");
    }
    sleep(Duration::from_millis(500)).await;
    stop.store(true, Ordering::Relaxed);
    let mut operations = Vec::new();
    for client in clients {
        let done = timeout(PATIENCE, client).await.expect("the client ends").expect("no panic");
        assert!(
            done.iter().rev().take(4).any(|o| matches!(o.told, Told::Written(_) | Told::State(..))),
            "a client does not recover"
        );
        operations.extend(done);
    }
    let now = stores[0].now().await.expect("now");
    let all = timeout(PATIENCE, read(stores[0].clone(), "/w/", before, now)).await.expect("in time");
    history::check(&operations, &all);
    for (prefix, watching) in watching {
        let seen = watching.end(now).await;
        let expected: Vec<_> = all.iter().filter(|event| event.key.starts_with(prefix)).cloned().collect();
        assert_eq!(seen.len(), expected.len(), "a watch of {prefix} missed events or saw some twice");
        assert!(seen == expected, "a watch of {prefix} saw something else");
    }
    let count = |test: fn(&Told) -> bool| operations.iter().filter(|o| test(&o.told)).count();
    println!(
        "{} events; {} operations: {} written, {} unknown, {} not done",
        all.len(),
        operations.len(),
        count(|told| matches!(told, Told::Written(_))),
        count(|told| matches!(told, Told::Unknown)),
        count(|told| matches!(told, Told::Nothing)),
    );
    assert!(all.len() > 100, "too little happened to tell anything");
}

/// Stores that ask the members in different orders.
async fn stores(etcd: &RealEtcd, endpoints: &[String]) -> Vec<Arc<Etcd>> {
    let mut stores = Vec::new();
    for first in 0..endpoints.len() {
        let mut order = endpoints.to_vec();
        order.rotate_left(first);
        stores.push(Arc::new(etcd.open(options(order)).await));
    }
    stores
}

/// The other two of three members.
pub(crate) fn others(member: usize) -> [usize; 2] {
    [(member + 1) % 3, (member + 2) % 3]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_leaders_lose_nothing() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let mut etcd = RealEtcd::start(&program, root.path(), 3, None);
    let stores = stores(&etcd, &etcd.endpoints()).await;
    under(stores, async {
        for _ in 0..3 {
            sleep(Duration::from_millis(500)).await;
            let leader = tokio::task::block_in_place(|| etcd.leader());
            etcd.kill(leader);
            tokio::task::block_in_place(|| etcd.leader_among(&others(leader)));
            sleep(Duration::from_millis(300)).await;
            etcd.restart(leader);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lone_member_that_restarts_loses_nothing() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let mut etcd = RealEtcd::start(&program, root.path(), 1, None);
    let stores = stores(&etcd, &[etcd.endpoint(0), etcd.endpoint(0)]).await;
    under(stores, async {
        for _ in 0..4 {
            sleep(Duration::from_millis(600)).await;
            etcd.kill(0);
            sleep(Duration::from_millis(300)).await;
            etcd.restart(0);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_leader_tells_nothing_stale() {
    // Three members of the other release, where it is.
    let Some(program) = real_etcd::other_program().or_else(real_etcd::program) else { return };
    let root = tempfile::tempdir().expect("a directory");
    let etcd = RealEtcd::start(&program, root.path(), 3, None);
    let stores = stores(&etcd, &etcd.endpoints()).await;
    under(stores, async {
        for _ in 0..2 {
            sleep(Duration::from_millis(500)).await;
            let leader = tokio::task::block_in_place(|| etcd.leader());
            etcd.freeze(leader);
            // It thaws into a world that has gone on without it.
            tokio::task::block_in_place(|| etcd.leader_among(&others(leader)));
            sleep(Duration::from_secs(1)).await;
            etcd.thaw(leader);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cut_networks_lose_nothing() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let etcd = RealEtcd::start(&program, root.path(), 3, None);
    let mut proxies = Vec::new();
    for number in 0..3 {
        proxies.push(Proxy::start(etcd.port(number)).await);
    }
    let endpoints: Vec<String> = proxies.iter().map(Proxy::endpoint).collect();
    let stores = stores(&etcd, &endpoints).await;
    under(stores, async {
        // Each member for a while, as long as it takes to try another one.
        for (number, network) in [(0, Network::Refusing), (1, Network::Silent), (2, Network::Refusing)] {
            sleep(Duration::from_millis(300)).await;
            proxies[number].set(network);
            sleep(Duration::from_secs(1)).await;
            proxies[number].set(Network::Whole);
        }
        // Everything at once.
        for network in [Network::Refusing, Network::Silent] {
            sleep(Duration::from_millis(500)).await;
            proxies.iter().for_each(|proxy| proxy.set(network));
            sleep(Duration::from_secs(2)).await;
            proxies.iter().for_each(|proxy| proxy.set(Network::Whole));
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_etcd_without_a_majority_is_told_unhealthy_and_recovers() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let mut etcd = RealEtcd::start(&program, root.path(), 3, None);
    // Whoever asks is told soon that nobody can answer.
    let options = Options { retry: Duration::from_secs(2), ..Options::default() };
    let store = Arc::new(etcd.open(options).await);
    let dynamic = store.clone() as Arc<dyn Storage>;
    storage::suite::put(&dynamic, "/a", "1").await;
    etcd.kill(0);
    etcd.kill(1);
    timeout(PATIENCE, async {
        while store.healthy().is_ok() {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("the loss is noticed");
    let error = store.get("/a", None).await.expect_err("nobody can answer");
    assert!(matches!(&error, Error::Unreachable(why) if why.contains("http://127.0.0.1")), "{error}");
    etcd.restart(0);
    timeout(PATIENCE, async {
        while store.healthy().is_err() {
            sleep(Duration::from_millis(50)).await;
        }
    })
    .await
    .expect("it recovers");
    assert_eq!(storage::suite::value(&dynamic, "/a", None).await.as_deref(), Some("1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_watch_that_was_away_for_too_long_is_told_so() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let etcd = RealEtcd::start(&program, root.path(), 1, None);
    let proxy = Proxy::start(etcd.port(0)).await;
    let away = Arc::new(etcd.open(options(vec![proxy.endpoint()])).await);
    let here: Arc<dyn Storage> = super::open(&etcd).await;
    let before = away.now().await.expect("now");
    let mut watch = away.watch("/a", before).await.expect("watch");
    proxy.set(Network::Refusing);
    for round in 0..5 {
        storage::suite::put(&here, "/a", &round.to_string()).await;
    }
    let now = here.now().await.expect("now");
    here.compact(now).await.expect("compact");
    proxy.set(Network::Whole);
    let told = timeout(PATIENCE, watch.next_batch()).await.expect("in time").expect("not the end");
    assert!(matches!(told, Err(Error::Compacted { .. })), "{told:?}");
    assert!(watch.next_batch().await.is_none());
    // The next one works.
    let mut watch = away.watch("/a", now).await.expect("watch");
    storage::suite::put(&here, "/a", "seen").await;
    let seen = timeout(PATIENCE, storage::suite::events(&mut watch, 1)).await.expect("in time");
    assert_eq!(seen[0].kv.as_ref().map(|kv| &kv.value[..]), Some(&b"seen"[..]));
}
