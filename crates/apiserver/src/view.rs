//! The cluster as admission and authentication see it: the server's own caches.
use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, PoisonError};

use api::kinds::Kind;
use apiserver_admission::{ClusterView, Resource};
use apiserver_authn::service_account::ServiceAccountGetter;
use apiserver_registry::{encode, prefix, storage_error};
use apiserver_watch_cache::{Cache, CachedObject};
use async_trait::async_trait;
use machinery::{Object, StatusResult};
use storage::{Revision, Storage, prefix_end};

/// Objects that are kept as trees, at most.
const TREES: usize = 512;

/// Reads the caches that a [`apiserver_registry::RegistryBuilder`] started.
pub struct View {
    caches: BTreeMap<(String, String), (Arc<Kind>, Arc<Cache>)>,
    storage: Arc<dyn Storage>,
    trees: Trees,
}

/// Trees of what is asked for again and again: with every write its namespace, with every pod its service account.
#[derive(Default)]
struct Trees(Mutex<HashMap<Arc<str>, Tree>>);

/// An object decoded, and the revision it was decoded at.
type Tree = (Revision, Arc<Object>);

impl Trees {
    fn get(&self, cached: &CachedObject) -> Option<Arc<Object>> {
        let mut trees = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((revision, tree)) = trees.get(&cached.key)
            && *revision == cached.revision
        {
            return Some(tree.clone());
        }
        let tree = object(cached)?;
        if trees.len() >= TREES {
            // Which of them matter shows at once; a few are decoded again.
            trees.clear();
        }
        trees.insert(cached.key.clone(), (cached.revision, tree.clone()));
        Some(tree)
    }
}

fn object(cached: &CachedObject) -> Option<Arc<Object>> {
    encode::decode(&cached.value, cached.revision).ok().map(Arc::new)
}

impl View {
    /// Reads these.
    pub fn new(
        caches: BTreeMap<(String, String), (Arc<Kind>, Arc<Cache>)>,
        storage: Arc<dyn Storage>,
    ) -> Self {
        Self { caches, storage, trees: Trees::default() }
    }

    fn cache(&self, group: &str, plural: &str) -> Option<&(Arc<Kind>, Arc<Cache>)> {
        self.caches.get(&(group.to_owned(), plural.to_owned()))
    }

    fn key(kind: &Kind, namespace: &str, name: &str) -> String {
        if kind.namespaced {
            format!("{}{namespace}/{name}", prefix(kind))
        } else {
            format!("{}{name}", prefix(kind))
        }
    }

    async fn cached_or_live(&self, plural: &str, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let (kind, cache) = self.cache("", plural)?;
        let key = Self::key(kind, namespace, name);
        if let Some(found) = cache.get(&key) {
            return self.trees.get(&found);
        }
        let (found, _) = self.storage.get(&key, None).await.ok()?;
        let found = found?;
        encode::decode(&found.value, found.mod_revision).ok().map(Arc::new)
    }
}

#[async_trait]
impl ClusterView for View {
    fn get(&self, resource: Resource, namespace: &str, name: &str) -> Option<Arc<Object>> {
        let (kind, cache) = self.cache(resource.group, resource.plural)?;
        self.trees.get(&*cache.get(&Self::key(kind, namespace, name))?)
    }

    fn list(&self, resource: Resource, namespace: &str) -> Vec<Arc<Object>> {
        let Some((kind, cache)) = self.cache(resource.group, resource.plural) else { return Vec::new() };
        let mut start = prefix(kind);
        if !namespace.is_empty() {
            start = format!("{start}{namespace}/");
        }
        let end = prefix_end(&start);
        cache.snapshot().objects.range(&start, &end).filter_map(|o| object(o)).collect()
    }

    async fn get_live(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
    ) -> StatusResult<Option<Arc<Object>>> {
        let Some((kind, _)) = self.cache(resource.group, resource.plural) else { return Ok(None) };
        let key = Self::key(kind, namespace, name);
        let (found, _) = self.storage.get(&key, None).await.map_err(storage_error)?;
        found.map(|kv| encode::decode(&kv.value, kv.mod_revision).map(Arc::new)).transpose()
    }
}

#[async_trait]
impl ServiceAccountGetter for View {
    async fn service_account(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.cached_or_live("serviceaccounts", namespace, name).await
    }

    async fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.cached_or_live("pods", namespace, name).await
    }

    async fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Object>> {
        self.cached_or_live("secrets", namespace, name).await
    }

    async fn node(&self, name: &str) -> Option<Arc<Object>> {
        self.cached_or_live("nodes", "", name).await
    }
}
