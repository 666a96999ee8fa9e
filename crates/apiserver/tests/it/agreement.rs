//! Several servers over one etcd are equal: none gives away what another gave away, none shows the past.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};
use storage::real_etcd::{self, Network, Proxy, RealEtcd, Setup};
use tokio::time::timeout;

use crate::servers::{PATIENCE, Server, trust, version};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

fn service(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name},
        "spec": {"type": "NodePort", "selector": {"a": "b"}, "ports": [{"port": 80}]},
    })
}

fn map(name: &str, value: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"v": value}})
}

fn names(list: &Value) -> Vec<(String, u64)> {
    let items = list["items"].as_array().expect("items");
    items.iter().map(|i| (i["metadata"]["name"].as_str().unwrap_or("").to_owned(), version(i))).collect()
}

/// What live Services hold, each once.
async fn held(server: &Server) -> (BTreeSet<String>, BTreeSet<u64>) {
    let list = server.must(Method::GET, SERVICES, None).await;
    let (mut ips, mut ports) = (BTreeSet::new(), BTreeSet::new());
    for service in list["items"].as_array().expect("items") {
        let ip = service["spec"]["clusterIP"].as_str().expect("an IP").to_owned();
        assert!(ips.insert(ip.clone()), "{ip} was given twice");
        for port in service["spec"]["ports"].as_array().expect("ports") {
            if let Some(port) = port["nodePort"].as_u64() {
                assert!(ports.insert(port), "{port} was given twice");
            }
        }
    }
    (ips, ports)
}

/// Creates and deletes Services through all servers at once.
async fn churn(servers: &[Arc<Server>]) {
    let mut tasks = Vec::new();
    for worker in 0..6 {
        let servers = servers.to_vec();
        tasks.push(tokio::spawn(async move {
            let at = |step: usize| &servers[(worker + step) % servers.len()];
            for round in 0..3 {
                for number in 0..8 {
                    let (status, answer) = at(number)
                        .call(Method::POST, SERVICES, Some(service(&format!("s{worker}-{number}"))))
                        .await;
                    assert_eq!(status, 201, "{answer}");
                }
                if round < 2 {
                    for number in 0..8 {
                        let path = format!("{SERVICES}/s{worker}-{number}");
                        at(number + 1).must(Method::DELETE, &path, None).await;
                    }
                }
            }
        }));
    }
    for task in tasks {
        timeout(PATIENCE, task).await.expect("in time").expect("no panic");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_then_three_servers_agree() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let etcd = RealEtcd::start(&program, root.path(), 1, None);
    let pki = trust(root.path());
    // Both begin at the same time, on an empty store.
    let (one, two) = tokio::join!(Server::on(&etcd, &pki, 1), Server::on(&etcd, &pki, 2));
    let mut servers = vec![Arc::new(one), Arc::new(two)];
    churn(&servers).await;
    let (ips, ports) = held(&servers[0]).await;
    assert_eq!((ips.len(), ports.len()), (49, 48), "48 Services and that of the API");
    for worker in 0..6 {
        for number in 0..8 {
            servers[1].must(Method::DELETE, &format!("{SERVICES}/s{worker}-{number}"), None).await;
        }
    }

    servers.push(Arc::new(Server::on(&etcd, &pki, 3).await));
    churn(&servers).await;
    let (ips, ports) = held(&servers[2]).await;
    assert_eq!((ips.len(), ports.len()), (49, 48));
    let addresses = servers[1].must(Method::GET, "/apis/networking.k8s.io/v1/ipaddresses", None).await;
    let marked: BTreeSet<String> = names(&addresses).into_iter().map(|(name, _)| name).collect();
    assert_eq!(marked, ips, "what is marked as taken is what Services hold");

    // All of them tell the same.
    let lists =
        [&servers[0], &servers[1], &servers[2]].map(|server| server.must(Method::GET, SERVICES, None));
    let lists = futures::future::join_all(lists).await;
    assert_eq!(names(&lists[0]), names(&lists[1]));
    assert_eq!(names(&lists[0]), names(&lists[2]));

    // The API is where all of them are, and where the rest is after one has gone.
    let endpoints = "/api/v1/namespaces/default/endpoints/kubernetes";
    let told = servers[0].must(Method::GET, endpoints, None).await;
    let told: Vec<&str> = told["subsets"][0]["addresses"]
        .as_array()
        .expect("addresses")
        .iter()
        .filter_map(|a| a["ip"].as_str())
        .collect();
    assert_eq!(told, ["192.0.2.1", "192.0.2.2", "192.0.2.3"]);
    let Ok(last) = Arc::try_unwrap(servers.pop().expect("three servers")) else { panic!("nobody holds it") };
    timeout(PATIENCE, last.stop()).await.expect("it stops");
    let told = servers[0].must(Method::GET, endpoints, None).await;
    assert_eq!(told["subsets"][0]["addresses"].as_array().map(Vec::len), Some(2), "{told}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_server_wrote_another_shows_at_once() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let election = std::time::Duration::from_secs(3);
    let etcd = RealEtcd::with(&program, root.path(), Setup { members: 3, election, ..Setup::default() });
    let pki = trust(root.path());
    let mut servers = Vec::new();
    for number in 1..=3 {
        servers.push(Server::on(&etcd, &pki, number).await);
    }
    for round in 0..60 {
        let (writer, reader) = (&servers[round % 3], &servers[(round + 1) % 3]);
        let name = format!("m{}", round % 7);
        let path = format!("{MAPS}/{name}");
        let value = round.to_string();
        let written = if round < 7 {
            writer.must(Method::POST, MAPS, Some(map(&name, &value))).await
        } else {
            writer.must(Method::PATCH, &path, Some(json!({"data": {"v": value}}))).await
        };
        let list = reader.must(Method::GET, MAPS, None).await;
        assert!(version(&list) >= version(&written), "a stale list");
        let found =
            list["items"].as_array().expect("items").iter().find(|i| i["metadata"]["name"] == name.as_str());
        assert_eq!(found.expect("it is in the list")["data"]["v"], value.as_str());
        let got = reader.must(Method::GET, &path, None).await;
        assert_eq!((version(&got), &got["data"]["v"]), (version(&written), &json!(value)));
        // A list of something that nobody writes is not older either.
        let other = reader.must(Method::GET, "/api/v1/namespaces/default/secrets", None).await;
        assert!(version(&other) >= version(&written), "a stale list");
    }
    let gone = format!("{MAPS}/m0");
    servers[0].must(Method::DELETE, &gone, None).await;
    assert_eq!(servers[1].call(Method::GET, &gone, None).await.0, 404);
    assert_eq!(servers[2].call(Method::GET, &gone, None).await.0, 404);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn watches_of_all_servers_tell_one_history() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let etcd = RealEtcd::start(&program, root.path(), 1, None);
    let pki = trust(root.path());
    let mut servers = Vec::new();
    for number in 1..=3 {
        servers.push(Arc::new(Server::on(&etcd, &pki, number).await));
    }
    let list = servers[0].must(Method::GET, MAPS, None).await;
    let path = format!("{MAPS}?watch=true&resourceVersion={}", version(&list));
    let mut watches = Vec::new();
    for server in &servers {
        watches.push(server.watch(&path).await);
    }
    let mut tasks = Vec::new();
    for worker in 0..6_usize {
        let server = servers[worker % 3].clone();
        tasks.push(tokio::spawn(async move {
            for round in 0..20 {
                let name = format!("w{worker}");
                if round == 0 {
                    server.must(Method::POST, MAPS, Some(map(&name, "0"))).await;
                } else {
                    let patch = json!({"data": {"v": round.to_string()}});
                    server.must(Method::PATCH, &format!("{MAPS}/{name}"), Some(patch)).await;
                }
            }
        }));
    }
    for task in tasks {
        timeout(PATIENCE, task).await.expect("in time").expect("no panic");
    }
    servers[1].must(Method::POST, MAPS, Some(map("last", ""))).await;
    let mut histories = Vec::new();
    for watch in &mut watches {
        let mut history = Vec::new();
        loop {
            let event = watch.next().await;
            let last = event["object"]["metadata"]["name"] == "last";
            history.push(event);
            if last {
                break;
            }
        }
        histories.push(history);
    }
    assert_eq!(histories[0].len(), 121);
    assert!(histories[0].windows(2).all(|pair| version(&pair[0]["object"]) < version(&pair[1]["object"])));
    assert!(histories[0] == histories[1] && histories[0] == histories[2]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_cut_off_shows_no_past() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let etcd = RealEtcd::start(&program, root.path(), 1, None);
    let pki = trust(root.path());
    let here = Server::on(&etcd, &pki, 1).await;
    let way = Proxy::start(etcd.port(0)).await;
    let away = Arc::new(Server::by(&etcd, vec![way.endpoint()], &pki, 2).await);
    here.must(Method::POST, MAPS, Some(map("m", "0"))).await;
    let path = format!("{MAPS}/m");
    let mut watch = away.watch(&format!("{MAPS}?watch=true&resourceVersion=0")).await;
    assert_eq!(watch.next().await["object"]["data"]["v"], "0");
    for (round, network) in [(1, Network::Silent), (2, Network::Refusing)] {
        way.set(network);
        let value = round.to_string();
        let written = here.must(Method::PATCH, &path, Some(json!({"data": {"v": value}}))).await;
        // Asked while it is cut off, and told once it is not.
        let asked = [MAPS.to_owned(), path.clone()].map(|path| {
            let away = away.clone();
            tokio::spawn(async move { away.call(Method::GET, &path, None).await })
        });
        let (status, old) = away.call(Method::GET, &format!("{MAPS}?resourceVersion=0"), None).await;
        assert_eq!(status, 200, "whoever takes any state gets one: {old}");
        assert!(version(&old) < version(&written), "the network is not cut");
        tokio::time::sleep(std::time::Duration::from_secs(2)).await;
        way.set(Network::Whole);
        for asked in asked {
            let (status, told) = timeout(PATIENCE, asked).await.expect("in time").expect("no panic");
            assert!(status >= 500 || version(&told) >= version(&written), "the past was shown: {told}");
        }
        let event = watch.next().await;
        assert_eq!((version(&event["object"]), &event["type"]), (version(&written), &json!("MODIFIED")));
    }
    // A write that reaches nobody is refused, and did not happen.
    way.set(Network::Refusing);
    let (status, told) = away.call(Method::PATCH, &path, Some(json!({"data": {"v": "never"}}))).await;
    assert!(status == 503 || status == 500, "{status} {told}");
    let found = here.must(Method::GET, &path, None).await;
    assert_eq!(found["data"]["v"], "2");
}
