//! A quota holds exactly, however many take from it at once, through however many servers.
use std::sync::Arc;

use http::Method;
use serde_json::json;
use storage::{Embedded, Options, Storage};

use crate::servers::{PATIENCE, Server, trust};

/// Clients, what each of them wants, and how much there is.
const CLIENTS: usize = 64;
const EACH: usize = 2;
const HARD: usize = 50;

const QUOTAS: &str = "/api/v1/namespaces/default/resourcequotas";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";

/// Makes a ConfigMap, as a client does that tries again where it is told to; whether it could.
async fn take(server: &Server, name: &str) -> bool {
    let map = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}});
    loop {
        let (status, answer) = server.call(Method::POST, MAPS, Some(map.clone())).await;
        match status {
            201 => return true,
            403 => {
                let why = answer["message"].as_str().unwrap_or_default();
                assert!(why.contains("exceeded quota: q, requested: count/configmaps=1, used: "), "{why}");
                return false;
            }
            // Others were quicker too often.
            409 => {}
            _ => panic!("{status} {answer}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_clients_of_two_servers_take_no_more_than_there_is() {
    let dir = tempfile::tempdir().expect("a directory");
    let pki = trust(dir.path());
    let options = Options { sync: false, ..Options::default() };
    let store = Embedded::open(dir.path().join("db"), options).expect("a store");
    let store: Arc<dyn Storage> = Arc::new(store);
    let one = Server::start(store.clone(), &pki, 1, true).await;
    let two = Server::start(store, &pki, 2, true).await;
    let servers = Arc::new([one, two]);

    let quota = json!({"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"},
        "spec": {"hard": {"count/configmaps": HARD.to_string()}}});
    servers[0].must(Method::POST, QUOTAS, Some(quota)).await;
    // What the quota controller writes at first.
    let status = json!({"status": {"hard": {"count/configmaps": HARD.to_string()}, "used": {"count/configmaps": "0"}}});
    servers[0].must(Method::PATCH, &format!("{QUOTAS}/q/status"), Some(status)).await;
    // Both have heard of it: a consistent list waits for the cache that admission reads.
    servers[1].must(Method::GET, QUOTAS, None).await;

    let clients = (0..CLIENTS).map(|client| {
        let servers = servers.clone();
        tokio::spawn(async move {
            let mut took = 0;
            for i in 0..EACH {
                took += usize::from(take(&servers[(client + i) % 2], &format!("m-{client}-{i}")).await);
            }
            took
        })
    });
    let all = tokio::time::timeout(PATIENCE, futures::future::join_all(clients)).await.expect("an end");
    let took: usize = all.into_iter().map(|client| client.expect("no panic")).sum();
    assert_eq!(took, HARD);
    let maps = servers[1].must(Method::GET, MAPS, None).await;
    let made = maps["items"].as_array().expect("items").iter();
    let made = made.filter(|m| m["metadata"]["name"].as_str().is_some_and(|n| n.starts_with("m-"))).count();
    assert_eq!(made, HARD);
    let quota = servers[0].must(Method::GET, &format!("{QUOTAS}/q"), None).await;
    assert_eq!(quota["status"]["used"]["count/configmaps"], HARD.to_string());
    for server in Arc::into_inner(servers).expect("nobody else uses them") {
        server.stop().await;
    }
}
