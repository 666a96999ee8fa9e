//! Whoever watches cannot tell which store is below.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures::StreamExt as _;
use http::Method;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams};
use kube::runtime::watcher::{self, Event, watcher};
use serde_json::{Value, json};
use storage::real_etcd::{self, RealEtcd};
use storage::{Embedded, Options};

use crate::servers::{PATIENCE, Server, trust, version};

const PODS: &str = "/api/v1/namespaces/default/pods";
const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const ACCOUNT: &str = "/api/v1/namespaces/default/serviceaccounts";

fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": name}, "finalizers": ["example.com/held"]},
        "spec": {"containers": [{"name": "c", "image": "i"}]},
    })
}

/// Does the same on any server, and tells all that its watches told.
async fn story(server: &Server) -> Vec<Value> {
    let account = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}});
    server.must(Method::POST, ACCOUNT, Some(account)).await;
    let mut told = Vec::new();
    let list = server.must(Method::GET, PODS, None).await;
    let mut pods = server.watch(&format!("{PODS}?watch=true&resourceVersion={}", version(&list))).await;
    let selected = "?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true\
         &labelSelector=app%3Da";
    let mut labelled = server.watch(&format!("{PODS}{selected}")).await;
    told.push(labelled.next().await);
    for name in ["a", "b", "c"] {
        told.push(server.must(Method::POST, PODS, Some(pod(name))).await);
    }
    let relabel = json!({"metadata": {"labels": {"app": "z"}}});
    told.push(server.must(Method::PATCH, &format!("{PODS}/a"), Some(relabel)).await);
    told.push(server.call(Method::POST, PODS, Some(pod("a"))).await.1);
    told.push(server.must(Method::DELETE, &format!("{PODS}/b?gracePeriodSeconds=0"), None).await);
    let free = json!({"metadata": {"finalizers": null}});
    told.push(server.must(Method::PATCH, &format!("{PODS}/b"), Some(free)).await);
    let stale = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": "m"}, "data": {"k": "1"},
    });
    let mut made = server.must(Method::POST, MAPS, Some(stale)).await;
    told.push(server.must(Method::PATCH, &format!("{MAPS}/m"), Some(json!({"data": {"k": "2"}}))).await);
    made["data"]["k"] = json!("3");
    let (status, conflict) = server.call(Method::PUT, &format!("{MAPS}/m"), Some(made)).await;
    assert_eq!(status, 409);
    told.push(conflict);
    told.push(server.must(Method::GET, &format!("{PODS}?limit=1"), None).await);
    told.push(
        server.must(Method::GET, &format!("{PODS}?limit=1"), None).await["metadata"]["remainingItemCount"]
            .clone(),
    );
    for _ in 0..6 {
        told.push(pods.next().await);
    }
    for _ in 0..2 {
        told.push(labelled.next().await);
    }
    told
}

/// Puts names in place of what no two runs have in common.
fn normalise(value: &mut Value, known: &mut BTreeMap<String, String>) {
    match value {
        Value::Object(fields) => {
            for (key, value) in fields.iter_mut() {
                match (key.as_str(), &*value) {
                    ("continue", _) => *value = json!("a token"),
                    (
                        "uid" | "resourceVersion" | "creationTimestamp" | "deletionTimestamp" | "time"
                        | "lastTransitionTime",
                        Value::String(text),
                    ) => {
                        // Times may or may not differ: only that there is one counts.
                        let number = known.len();
                        let name = if key.ends_with("ime") || key.ends_with("tamp") {
                            "a time".to_owned()
                        } else {
                            known.entry(text.clone()).or_insert_with(|| format!("{key} {number}")).clone()
                        };
                        *value = json!(name);
                    }
                    _ => normalise(value, known),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| normalise(item, known)),
        Value::String(text) if text.contains("kube-api-access-") => *text = "a volume".into(),
        _ => {}
    }
}

/// What informers written with kube-rs are told, of a list and of what follows, in both ways of listing.
async fn informed(server: &Server) -> Vec<Value> {
    let maps: Api<ConfigMap> = Api::namespaced(server.client(), "default");
    let map = |name: &str| -> ConfigMap {
        let value = json!({"metadata": {"name": name, "labels": {"app": "a"}}, "data": {"k": "1"}});
        serde_json::from_value(value).expect("a config map")
    };
    let mut told = Vec::new();
    for (name, config) in [
        ("listed", watcher::Config::default().page_size(2)),
        ("streamed", watcher::Config::default().streaming_lists()),
        ("selected", watcher::Config::default().labels("app=a").page_size(2)),
    ] {
        for n in 0..5 {
            maps.create(&PostParams::default(), &map(&format!("{name}-{n}"))).await.expect("create");
        }
        let mut events = std::pin::pin!(watcher(maps.clone(), config));
        let mut next = async || -> (&'static str, Value) {
            let event = tokio::time::timeout(PATIENCE, events.next()).await.expect("an event in time");
            let object = |map: ConfigMap| serde_json::to_value(map).expect("an object");
            match event.expect("the stream goes on").expect("the watch is healthy") {
                Event::Init => ("init", Value::Null),
                Event::InitApply(map) => ("init apply", object(map)),
                Event::InitDone => ("init done", Value::Null),
                Event::Apply(map) => ("apply", object(map)),
                Event::Delete(map) => ("delete", object(map)),
            }
        };
        loop {
            let (kind, object) = next().await;
            told.push(json!([name, kind, object]));
            if kind == "init done" {
                break;
            }
        }
        let first = format!("{name}-0");
        for patch in [
            json!({"data": {"k": "2"}}),
            json!({"metadata": {"labels": {"app": "b"}}}),
            json!({"metadata": {"labels": {"app": "a"}}}),
        ] {
            maps.patch(&first, &PatchParams::default(), &Patch::Merge(patch)).await.expect("patch");
        }
        maps.create(&PostParams::default(), &map(&format!("{name}-late"))).await.expect("create");
        for n in 0..5 {
            maps.delete(&format!("{name}-{n}"), &DeleteParams::default()).await.expect("delete");
        }
        maps.delete(&format!("{name}-late"), &DeleteParams::default()).await.expect("delete");
        for _ in 0..10 {
            let (kind, object) = next().await;
            told.push(json!([name, kind, object]));
        }
    }
    told
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn informers_of_kube_rs_see_the_same_on_embedded_and_etcd() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let pki = trust(root.path());
    let embedded = Embedded::open(root.path().join("db"), Options { sync: false, ..Options::default() });
    let embedded = Server::start(Arc::new(embedded.expect("open")), &pki, 1, false).await;
    let etcd = RealEtcd::start(&program, root.path(), 1, None);
    let etcd_server = Server::on(&etcd, &pki, 1).await;
    let mut stories = Vec::new();
    for server in [&embedded, &etcd_server] {
        let mut known = BTreeMap::new();
        let mut told = informed(server).await;
        told.iter_mut().for_each(|value| normalise(value, &mut known));
        stories.push(told);
    }
    assert!(stories[0].len() >= 3 * (7 + 10), "{}", stories[0].len());
    assert_eq!(stories[0], stories[1]);
    let ends = |kind: &str| stories[0].iter().filter(|event| event[1] == kind).count();
    // Three times six go, and one ceases to match and comes back.
    assert_eq!((ends("init done"), ends("delete")), (3, 19));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn informers_see_the_same_on_embedded_and_etcd() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let pki = trust(root.path());
    let embedded = Embedded::open(root.path().join("db"), Options { sync: false, ..Options::default() });
    let embedded = Server::start(Arc::new(embedded.expect("open")), &pki, 1, false).await;
    let etcd = RealEtcd::start(&program, root.path(), 1, None);
    let etcd_server = Server::on(&etcd, &pki, 1).await;
    let mut stories = Vec::new();
    for server in [&embedded, &etcd_server] {
        let mut known = BTreeMap::new();
        let mut told = story(server).await;
        told.iter_mut().for_each(|value| normalise(value, &mut known));
        stories.push(told);
    }
    for (number, (a, b)) in stories[0].iter().zip(&stories[1]).enumerate() {
        assert_eq!(a, b, "number {number} differs");
    }
    assert_eq!(stories[0].len(), stories[1].len());
}
