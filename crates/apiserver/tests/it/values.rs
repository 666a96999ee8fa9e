//! What upstream's API server wrote to etcd is served; what is ours has upstream's keys.

use std::sync::Arc;

use bytes::Bytes;
use http::Method;
use serde_json::json;
use storage::real_etcd::{self, RealEtcd};
use storage::{Expect, Storage, WriteOutcome};

use crate::servers::{Server, trust};

async fn open(etcd: &RealEtcd) -> Arc<dyn Storage> {
    Arc::new(etcd.open(Default::default()).await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_as_upstream_wrote_them_are_served_and_updated() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let etcd = RealEtcd::start(&program, root.path(), 1, None);
    let pki = trust(root.path());
    let store = open(&etcd).await;
    let object = |name: &str| {
        json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {
                "name": name, "namespace": "default", "uid": "5fbc4a2e-0000-4000-8000-000000000001",
                "creationTimestamp": "2026-01-02T03:04:05Z", "labels": {"from": "upstream"},
            },
            "data": {"k": "v"},
        })
    };
    let put = |key: String, value: Vec<u8>| {
        let store = store.clone();
        async move {
            let put = store.put(&key, Bytes::from(value), Expect::Absent, None).await;
            assert!(matches!(put, Ok(WriteOutcome::Done(_))), "{put:?}");
        }
    };
    let sealed = |name: &str| {
        let object = object(name);
        api::proto::encode_object(object.as_object().expect("an object")).expect("it has a protobuf form")
    };
    let key = |name: &str| format!("/registry/configmaps/default/{name}");
    // Before the server starts, and while it runs; protobuf, and JSON in upstream's order with its newline.
    put(key("before"), sealed("before")).await;
    let server = Server::on(&etcd, &pki, 1).await;
    put(key("during"), sealed("during")).await;
    let go = br#"{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"go","namespace":"default","uid":"x","labels":{"from":"upstream"}},"data":{"k":"v"}}"#;
    put(key("go"), [&go[..], b"\n"].concat()).await;
    put(key("broken"), b"k8s\0\x0a\xff".to_vec()).await;

    let maps = "/api/v1/namespaces/default/configmaps";
    let selected = format!("{maps}?labelSelector=from%3Dupstream");
    // What cannot be read makes a list wrong, so it fails, until somebody deletes it unread.
    let (status, told) = server.call(Method::GET, &selected, None).await;
    assert_eq!(status, 500, "{told}");
    let why = told["message"].as_str().unwrap_or_default();
    assert!(why.contains("unable to decode key \"/registry/configmaps/default/broken\""), "{why}");
    let unread = "ignoreStoreReadErrorWithClusterBreakingPotential=true";
    server.must(Method::DELETE, &format!("{maps}/broken?{unread}"), None).await;
    let list = server.must(Method::GET, &selected, None).await;
    let names: Vec<&str> = list["items"]
        .as_array()
        .expect("items")
        .iter()
        .filter_map(|i| i["metadata"]["name"].as_str())
        .collect();
    assert_eq!(names, ["before", "during", "go"]);
    for name in names {
        let found = server.must(Method::GET, &format!("{maps}/{name}"), None).await;
        assert_eq!((&found["kind"], &found["data"]["k"]), (&json!("ConfigMap"), &json!("v")));
        let patched =
            server.must(Method::PATCH, &format!("{maps}/{name}"), Some(json!({"data": {"k": "2"}}))).await;
        assert_eq!(patched["data"]["k"], "2");
        let (kv, _) = store.get(&key(name), None).await.expect("get");
        let value = kv.expect("it is there").value;
        assert!(value.starts_with(br#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"#), "laid out anew");
    }
    // The rest of what a server writes at once is where upstream has it.
    for key in [
        "/registry/namespaces/default",
        "/registry/services/specs/default/kubernetes",
        "/registry/services/endpoints/default/kubernetes",
        "/registry/endpointslices/default/kubernetes",
        "/registry/clusterroles/cluster-admin",
        "/registry/ipaddresses/10.9.0.1",
        "/registry/masterleases/192.0.2.1",
    ] {
        let (kv, _) = store.get(key, None).await.expect("get");
        assert!(kv.is_some(), "{key}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_share_leases() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let etcd = RealEtcd::start(&program, root.path(), 1, None);
    let pki = trust(root.path());
    let server = Server::on(&etcd, &pki, 1).await;
    for number in 0..20 {
        let event = json!({
            "apiVersion": "v1", "kind": "Event", "metadata": {"name": format!("e{number}")},
            "involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"},
            "reason": "Tested", "message": "m", "type": "Normal",
        });
        server.must(Method::POST, "/api/v1/namespaces/default/events", Some(event)).await;
    }
    let store = open(&etcd).await;
    let found = store.range(storage::RangeRequest::prefix("/registry/events/default/")).await.expect("range");
    let leases: std::collections::BTreeSet<_> =
        found.kvs.iter().map(|kv| kv.lease.expect("a lease").0).collect();
    assert_eq!((found.kvs.len(), leases.len()), (20, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_too_large_for_etcd_is_refused_with_a_reason() {
    let Some(program) = real_etcd::program() else { return };
    let root = tempfile::tempdir().expect("a directory");
    let etcd = RealEtcd::start(&program, root.path(), 1, None);
    let pki = trust(root.path());
    let server = Server::on(&etcd, &pki, 1).await;
    let large = json!({
        "apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "large"},
        "data": {"a": "x".repeat(900 << 10), "b": "y".repeat(120 << 10)},
    });
    let maps = "/api/v1/namespaces/default/configmaps";
    server.must(Method::POST, maps, Some(large.clone())).await;
    let pods = "/apis/apps/v1/namespaces/default/controllerrevisions";
    let revision = json!({
        "apiVersion": "apps/v1", "kind": "ControllerRevision", "metadata": {"name": "large"},
        "revision": 1, "data": {"a": "x".repeat(1700 << 10)},
    });
    let (status, told) = server.call(Method::POST, pods, Some(revision)).await;
    assert_eq!(status, 500, "{told}");
    assert_eq!(told["message"], "etcdserver: request is too large");
}
