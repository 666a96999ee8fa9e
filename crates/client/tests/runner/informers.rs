use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use client::{Informers, ObjectKey};
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::{Value, json};
use tokio::sync::mpsc::UnboundedSender;

use crate::server;

fn cm(name: &str, rv: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {
        "namespace": "ns", "name": name, "resourceVersion": rv, "managedFields": [{"manager": "m"}]}})
}

fn list(rv: &str, next: &str, items: &[Value]) -> Value {
    json!({"apiVersion": "v1", "kind": "ConfigMapList", "metadata": {"resourceVersion": rv, "continue": next}, "items": items})
}

/// Pages, a broken object, events, a bookmark, then an expired revision and a second list.
#[tokio::test(start_paused = true)]
async fn a_cache_follows_pages_events_and_expiry() {
    let watches: Arc<Mutex<Vec<UnboundedSender<Value>>>> = Arc::default();
    let lists = Arc::new(AtomicUsize::new(0));
    let opened = watches.clone();
    let (client, asked) = server::client(move |_, uri, _| {
        if uri.contains("watch=true") {
            let (events, reply) = server::watch();
            opened.lock().unwrap().push(events);
            return reply;
        }
        let broken = json!({"metadata": {"name": 7}});
        server::reply(
            200,
            &match lists.fetch_add(1, Ordering::SeqCst) {
                0 => list("10", "more", &[cm("a", "1"), broken]),
                1 => list("10", "", &[cm("b", "2")]),
                _ => list("30", "", &[cm("b", "2"), cm("d", "29")]),
            },
        )
    });
    let informers = Informers::new(client);
    let cache = informers.cache::<ConfigMap>();
    let again = informers.cache::<ConfigMap>();
    cache.synced().await;
    assert_eq!(again.len(), 2, "one cache for both");
    let key = |name: &str| ObjectKey::new("ns", name);
    assert!(cache.get(&key("a")).unwrap().metadata.managed_fields.is_none());

    let mut changes = cache.changes();
    for _ in 0..2 {
        assert!(changes.next().await.old.is_none());
    }
    let send = |value: Value| watches.lock().unwrap().last().unwrap().send(value).unwrap();
    while watches.lock().unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    send(json!({"type": "MODIFIED", "object": cm("a", "11")}));
    let change = changes.next().await;
    assert_eq!(change.new.unwrap().metadata.resource_version.as_deref(), Some("11"));
    send(
        json!({"type": "BOOKMARK", "object": {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"resourceVersion": "20"}}}),
    );
    send(json!({"type": "DELETED", "object": cm("a", "21")}));
    let change = changes.next().await;
    assert_eq!((change.key, change.new.is_none()), (key("a"), true));

    // The server hangs up: the watch goes on from the last revision, without a list.
    watches.lock().unwrap().pop();
    while watches.lock().unwrap().is_empty() {
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    assert!(asked.list().last().unwrap().contains("resourceVersion=21"), "{:?}", asked.list());
    send(json!({"type": "ERROR", "object": server::failure(410, "Expired")}));
    let change = changes.next().await;
    assert_eq!((change.key, change.new.is_some()), (key("d"), true));
    assert_eq!(cache.len(), 2);

    let asked = asked.list();
    assert!(asked[0].contains("limit=500") && asked[1].contains("continue=more"), "{asked:?}");
    assert!(
        asked[2].contains("resourceVersion=10") && asked[2].contains("allowWatchBookmarks=true"),
        "{asked:?}"
    );
}
