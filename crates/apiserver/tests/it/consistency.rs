//! Concurrent clients of one and of three servers, while servers and members die: what they were told has to be the
//! history of one register for each object.
//!
//! Each answer names a resource version, so the order is told and only has to be checked: against the store's own
//! history, and against real time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use http::Method;
use serde_json::{Value, json};
use storage::real_etcd::{self, Hosts, RealEtcd, Setup};
use storage::{Revision, Storage};
use tokio::sync::RwLock;
use tokio::time::{sleep, timeout};

use crate::killed::{Killed, open};
use crate::servers::{Calls, PATIENCE, Server, trust, version};

const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// A server that may be away.
type Place = Arc<RwLock<Option<Arc<dyn Calls>>>>;

struct Seen {
    name: String,
    began: Instant,
    ended: Instant,
    /// The object's version that was read or written.
    version: u64,
    value: String,
    wrote: bool,
}

#[derive(Default)]
struct Record {
    seen: Vec<Seen>,
    /// Values whose write failed, so that it certainly did not happen.
    refused: Vec<String>,
    lists: Vec<(Instant, Instant, Value)>,
    unknown: usize,
}

async fn client(places: Vec<Place>, number: usize, stop: Arc<AtomicBool>) -> Record {
    let mut record = Record::default();
    let mut round = 0;
    while !stop.load(Ordering::Relaxed) {
        round += 1;
        let Some(server) = places[(number + round) % places.len()].read().await.clone() else {
            sleep(Duration::from_millis(5)).await;
            continue;
        };
        let name = format!("r{}", round % 3);
        let path = format!("{MAPS}/{name}");
        let began = Instant::now();
        let (status, mut object) = server.call(Method::GET, &path, None).await;
        if status != 200 {
            assert!(status >= 500 || status == 404, "{status} {object}");
            continue;
        }
        let value = object["data"]["v"].as_str().unwrap_or("").to_owned();
        let (ended, at) = (Instant::now(), version(&object));
        record.seen.push(Seen { name: name.clone(), began, ended, version: at, value, wrote: false });

        let value = format!("{number}.{round}");
        object["data"]["v"] = json!(value);
        let began = Instant::now();
        let (status, answer) = server.call(Method::PUT, &path, Some(object)).await;
        let ended = Instant::now();
        match status {
            200 => {
                record.seen.push(Seen { name, began, ended, version: version(&answer), value, wrote: true })
            }
            409 | 503 | 429 => record.refused.push(value),
            _ => record.unknown += 1,
        }
        if round % 5 == 0 {
            let began = Instant::now();
            let (status, list) = server.call(Method::GET, MAPS, None).await;
            if status == 200 {
                record.lists.push((began, Instant::now(), list));
            }
        }
    }
    record
}

fn value_of(bytes: &[u8]) -> String {
    let object: Value = serde_json::from_slice(bytes).expect("our own JSON");
    object["data"]["v"].as_str().unwrap_or("").to_owned()
}

async fn check(store: Arc<dyn Storage>, before: Revision, records: &[Record]) {
    // The store's own history.
    let now = store.now().await.expect("now");
    let mut watch = store.watch("/registry/configmaps/default/r", before).await.expect("watch");
    let mut history: BTreeMap<String, Vec<(u64, String)>> = BTreeMap::new();
    let mut reached = before;
    while reached < now {
        watch.progress().request();
        let batch = watch.next_batch().await.expect("goes on").expect("healthy");
        reached = batch.revision;
        for event in batch.events {
            let name = event.key.rsplit('/').next().unwrap_or("").to_owned();
            let kv = event.kv.as_ref().expect("nobody deletes");
            history.entry(name).or_default().push((event.revision.0, value_of(&kv.value)));
        }
    }
    let at = |name: &str, version: u64| {
        let versions = history.get(name).map_or(&[][..], Vec::as_slice);
        let count = versions.partition_point(|(revision, _)| *revision <= version);
        count.checked_sub(1).map(|at| &versions[at])
    };
    let mut writes = 0;
    for seen in records.iter().flat_map(|record| &record.seen) {
        let found = at(&seen.name, seen.version).expect("a version of the history");
        assert_eq!(*found, (seen.version, seen.value.clone()), "{} was told what never was", seen.name);
        writes += usize::from(seen.wrote);
    }
    let all: std::collections::BTreeSet<&str> =
        history.values().flatten().map(|(_, value)| value.as_str()).collect();
    for refused in records.iter().flat_map(|record| &record.refused) {
        assert!(!all.contains(refused.as_str()), "{refused} was refused and is there");
    }
    // Real time: what ended before something began is not newer than what that saw.
    for name in history.keys() {
        let mut seen: Vec<&Seen> = records.iter().flat_map(|r| &r.seen).filter(|s| s.name == *name).collect();
        let mut ends: Vec<(Instant, u64)> = seen.iter().map(|s| (s.ended, s.version)).collect();
        ends.sort();
        seen.sort_by_key(|s| s.began);
        let (mut next, mut highest) = (0, 0);
        for seen in seen {
            while next < ends.len() && ends[next].0 < seen.began {
                highest = highest.max(ends[next].1);
                next += 1;
            }
            assert!(seen.version >= highest, "{name}: {} was told after {highest}", seen.version);
        }
    }
    let mut ends: Vec<(Instant, u64)> =
        records.iter().flat_map(|r| &r.seen).map(|s| (s.ended, s.version)).collect();
    ends.sort();
    for (began, _, list) in records.iter().flat_map(|record| &record.lists) {
        let revision = version(list);
        let before = ends.iter().take_while(|(ended, _)| ended < began).map(|(_, v)| *v).max().unwrap_or(0);
        assert!(revision >= before, "a list of {revision} after {before}");
        for item in list["items"].as_array().expect("items") {
            let name = item["metadata"]["name"].as_str().unwrap_or("");
            if !history.contains_key(name) {
                continue;
            }
            let expected = at(name, revision).map(|(v, value)| (*v, value.as_str()));
            assert_eq!(Some((version(item), item["data"]["v"].as_str().unwrap_or(""))), expected);
        }
    }
    let unknown: usize = records.iter().map(|record| record.unknown).sum();
    let lists: usize = records.iter().map(|record| record.lists.len()).sum();
    println!("{writes} writes, {unknown} of unknown outcome, {lists} lists");
    assert!(writes > 50, "too little happened to tell anything");
}

/// Clients of some servers, from the first write to the check of what they were told.
struct Clients {
    before: Revision,
    stop: Arc<AtomicBool>,
    tasks: Vec<tokio::task::JoinHandle<Record>>,
}

impl Clients {
    async fn begin(before: Revision, places: &[Place]) -> Self {
        let first = places[0].read().await.clone().expect("it runs");
        for number in 0..3 {
            let map = json!({
                "apiVersion": "v1", "kind": "ConfigMap",
                "metadata": {"name": format!("r{number}")}, "data": {"v": "first"},
            });
            let (status, answer) = first.call(Method::POST, MAPS, Some(map)).await;
            assert_eq!(status, 201, "{answer}");
        }
        let stop = Arc::new(AtomicBool::new(false));
        let tasks =
            (0..6).map(|number| tokio::spawn(client(places.to_vec(), number, stop.clone()))).collect();
        Self { before, stop, tasks }
    }

    async fn end(self, store: Arc<dyn Storage>) {
        self.stop.store(true, Ordering::Relaxed);
        let mut records = Vec::new();
        for client in self.tasks {
            records.push(timeout(PATIENCE, client).await.expect("it ends").expect("no panic"));
        }
        timeout(PATIENCE, check(store, self.before, &records)).await.expect("in time");
    }
}

/// What happens to the member that leads.
#[derive(Clone, Copy)]
enum Fault {
    Killed,
    /// Nobody reaches it.
    Unplugged,
    /// The servers reach it, and it reaches no other member.
    Parted,
}

async fn under_faults(servers: u8, members: usize, hosts: Option<Arc<Hosts>>, faults: [Fault; 3]) {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let setup = Setup { members, hosts: hosts.clone(), ..Setup::default() };
    let mut etcd = RealEtcd::with(&program, root.path(), setup);
    let pki = trust(root.path());
    let mut places: Vec<Place> = Vec::new();
    for number in 1..=servers {
        let server = Server::on(&etcd, &pki, number).await;
        places.push(Arc::new(RwLock::new(Some(Arc::new(server)))));
    }
    let store: Arc<dyn Storage> = Arc::new(etcd.open(Default::default()).await);
    let clients = Clients::begin(store.now().await.expect("now"), &places).await;
    for (round, fault) in faults.into_iter().enumerate() {
        sleep(Duration::from_millis(700)).await;
        // A server dies, or all there is.
        let number = round % places.len();
        let gone = places[number].write().await.take();
        drop(gone);
        // And the leader is lost, with others beside it or not.
        let leader = tokio::task::block_in_place(|| etcd.leader());
        let others: Vec<usize> = (0..members).filter(|member| *member != leader).collect();
        let hosts = || hosts.as_ref().expect("members on hosts of their own");
        match fault {
            Fault::Killed => etcd.kill(leader),
            Fault::Unplugged => hosts().unplug(leader),
            Fault::Parted => others.iter().for_each(|other| hosts().part(leader, *other)),
        }
        if !others.is_empty() {
            tokio::task::block_in_place(|| etcd.leader_among(&others));
        }
        sleep(Duration::from_millis(400)).await;
        match fault {
            Fault::Killed => etcd.restart(leader),
            Fault::Unplugged => hosts().plug(leader),
            Fault::Parted => others.iter().for_each(|other| hosts().unite(leader, *other)),
        }
        let again = u8::try_from(number + 1).expect("few servers");
        let server = timeout(PATIENCE, Server::on(&etcd, &pki, again)).await.expect("it starts again");
        *places[number].write().await = Some(Arc::new(server));
    }
    sleep(Duration::from_millis(700)).await;
    clients.end(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_over_one_member_is_linearizable() {
    under_faults(1, 1, None, [Fault::Killed; 3]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn three_servers_over_three_members_are_linearizable() {
    under_faults(3, 3, None, [Fault::Killed; 3]).await;
}

#[test]
fn three_servers_over_members_that_the_kernel_cuts_off_are_linearizable() {
    let Some(hosts) = Hosts::new(3) else { return };
    let faults = [Fault::Parted, Fault::Unplugged, Fault::Parted];
    hosts.clone().run(move || under_faults(3, 3, Some(hosts), faults));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_over_the_embedded_store_is_linearizable() {
    let root = tempfile::tempdir().expect("a directory");
    let pki = trust(root.path());
    let open = || open(root.path());
    let mut store = open();
    let server = Server::start(store.clone(), &pki, 1, false).await;
    let place: Place = Arc::new(RwLock::new(Some(Arc::new(server))));
    let clients = Clients::begin(store.now().await.expect("now"), std::slice::from_ref(&place)).await;
    for _ in 0..4 {
        sleep(Duration::from_millis(400)).await;
        // The store ends below a server that has requests under way, then the server.
        let ending = store.clone();
        tokio::task::spawn_blocking(move || ending.close()).await.expect("no panic");
        drop(place.write().await.take());
        store = open();
        let server = timeout(PATIENCE, Server::start(store.clone(), &pki, 1, false)).await;
        *place.write().await = Some(Arc::new(server.expect("it starts again")));
    }
    sleep(Duration::from_millis(400)).await;
    clients.end(store).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_over_the_embedded_store_is_linearizable() {
    let root = tempfile::tempdir().expect("a directory");
    let before = {
        let store = open(root.path());
        store.now().await.expect("now")
    };
    let mut server = Killed::start(root.path()).await;
    let place: Place = Arc::new(RwLock::new(Some(server.client())));
    let clients = Clients::begin(before, std::slice::from_ref(&place)).await;
    for _ in 0..6 {
        sleep(Duration::from_millis(500)).await;
        // In the middle of whatever it does; its clients notice by themselves.
        server.kill();
        server = Killed::start(root.path()).await;
        *place.write().await = Some(server.client());
    }
    sleep(Duration::from_millis(500)).await;
    server.kill();
    clients.end(open(root.path())).await;
}
