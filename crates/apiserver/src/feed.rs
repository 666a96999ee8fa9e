//! Keeps the authorizers' indexes in step with the caches.
use std::collections::HashSet;
use std::sync::Arc;

use apiserver_authz::node::NodeAuthorizer;
use apiserver_authz::rbac::Rbac;
use apiserver_registry::{Registry, Store, encode};
use apiserver_watch_cache::{CachedObject, EventKind, Scope};
use machinery::Object;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// What takes objects of some kinds.
pub trait Sink: Send + Sync + 'static {
    /// An object as it is now.
    fn set(&self, object: &Object);
    /// An object is gone.
    fn remove(&self, kind: &str, namespace: &str, name: &str);
}

impl Sink for Rbac {
    fn set(&self, object: &Object) {
        Rbac::set(self, object);
    }

    fn remove(&self, kind: &str, namespace: &str, name: &str) {
        Rbac::remove(self, kind, namespace, name);
    }
}

impl Sink for NodeAuthorizer {
    fn set(&self, object: &Object) {
        NodeAuthorizer::set(self, object);
    }

    fn remove(&self, kind: &str, namespace: &str, name: &str) {
        NodeAuthorizer::remove(self, kind, namespace, name);
    }
}

type Key = (Arc<str>, Arc<str>);

fn key(cached: &CachedObject) -> Key {
    (cached.facts.namespace.clone(), cached.facts.name.clone())
}

fn give(sink: &dyn Sink, cached: &CachedObject, known: &mut HashSet<Key>) {
    if let Ok(object) = encode::decode(&cached.value, cached.revision) {
        sink.set(&object);
        known.insert(key(cached));
    }
}

/// Feeds a sink from the cache of one resource. The receiver turns true once the first objects were given.
pub fn feed(store: Arc<Store>, sink: Arc<dyn Sink>, stop: CancellationToken) -> watch::Receiver<bool> {
    let (synced, receiver) = watch::channel(false);
    tokio::spawn(async move {
        let kind = store.kind.kind.to_string();
        let mut known: HashSet<Key> = HashSet::new();
        while !stop.is_cancelled() {
            let (snapshot, mut watch) = store.cache.watch_initial(Scope::prefix(store.key_prefix("")));
            // What the last watch knew and this one does not show was deleted in between.
            let mut gone = std::mem::take(&mut known);
            for cached in snapshot.objects.iter() {
                gone.remove(&key(cached));
                give(&*sink, cached, &mut known);
            }
            for (namespace, name) in gone {
                sink.remove(&kind, &namespace, &name);
            }
            synced.send_replace(true);
            loop {
                let batch = tokio::select! {
                    () = stop.cancelled() => return,
                    batch = watch.next_batch() => batch,
                };
                let Ok(events) = batch else { break };
                for event in events {
                    if event.kind == EventKind::Deleted {
                        let key = key(&event.object);
                        sink.remove(&kind, &key.0, &key.1);
                        known.remove(&key);
                    } else {
                        give(&*sink, &event.object, &mut known);
                    }
                }
            }
            if store.cache.ready().await.is_err() {
                return;
            }
        }
    });
    receiver
}

/// Feeds RBAC and the Node authorizer; returns when both know what the caches know.
pub async fn start(
    registry: &Registry,
    rbac: &Arc<Rbac>,
    node: &Arc<NodeAuthorizer>,
    stop: &CancellationToken,
) {
    let mut receivers = Vec::new();
    for plural in ["roles", "rolebindings", "clusterroles", "clusterrolebindings"] {
        if let Some(store) = registry.store("rbac.authorization.k8s.io", plural) {
            receivers.push(feed(store.clone(), rbac.clone(), stop.clone()));
        }
    }
    for (group, plural) in [("", "pods"), ("", "persistentvolumes"), ("storage.k8s.io", "volumeattachments")]
    {
        if let Some(store) = registry.store(group, plural) {
            receivers.push(feed(store.clone(), node.clone(), stop.clone()));
        }
    }
    for mut receiver in receivers {
        // A sender that is gone means a stop; nobody asks then.
        let _ = receiver.wait_for(|synced| *synced).await;
    }
}
