//! One shared cache for each kind, selection and process.
use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::cache::{Cache, Shared};
use crate::reflector::Reflector;

/// What a kind must be to be cached.
pub trait Watched: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static {}
impl<K: Resource + Clone + DeserializeOwned + Debug + Send + Sync + 'static> Watched for K {}

/// Which objects of a kind to watch.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct Select {
    /// Only this namespace.
    pub namespace: Option<String>,
    /// Label selector.
    pub labels: Option<String>,
    /// Field selector.
    pub fields: Option<String>,
    /// Keep `metadata.managedFields`; dropped by default, for they are often half of an object.
    pub keep_managed_fields: bool,
}

impl Select {
    /// Only this namespace.
    pub fn namespace(namespace: impl Into<String>) -> Self {
        Self { namespace: Some(namespace.into()), ..Self::default() }
    }

    /// Only what this field selector matches, for example `spec.nodeName=a`.
    pub fn fields(fields: impl Into<String>) -> Self {
        Self { fields: Some(fields.into()), ..Self::default() }
    }
}

/// Gives out caches; clones share them.
#[derive(Clone)]
pub struct Informers {
    inner: Arc<Inner>,
}

type CacheId = (TypeId, String, Select);

struct Inner {
    client: Client,
    caches: Mutex<HashMap<CacheId, Box<dyn Any + Send + Sync>>>,
}

/// Only weak: the caches handed out keep their watch alive, the table does not.
struct Entry<K: Resource> {
    shared: Weak<Shared<K>>,
    running: Weak<DropGuard>,
}

impl Informers {
    /// Reads through this client.
    pub fn new(client: Client) -> Self {
        Self { inner: Arc::new(Inner { client, caches: Mutex::default() }) }
    }

    /// The client that the caches read through.
    pub fn client(&self) -> &Client {
        &self.inner.client
    }

    /// The cache of all objects of a kind. Must be called inside a tokio runtime.
    pub fn cache<K: Watched>(&self) -> Cache<K>
    where
        K::DynamicType: Default,
    {
        self.cache_with(Select::default())
    }

    /// The cache of some objects of a kind.
    pub fn cache_with<K: Watched>(&self, select: Select) -> Cache<K>
    where
        K::DynamicType: Default,
    {
        self.cache_dynamic(K::DynamicType::default(), select)
    }

    /// The cache of a kind known only at run time.
    pub fn cache_dynamic<K: Watched>(&self, kind: K::DynamicType, select: Select) -> Cache<K> {
        let id = (TypeId::of::<K>(), K::url_path(&kind, None), select.clone());
        let mut caches = self.inner.caches.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = caches.get(&id).and_then(|e| e.downcast_ref::<Entry<K>>())
            && let (Some(shared), Some(running)) = (entry.shared.upgrade(), entry.running.upgrade())
        {
            return Cache { shared, _running: running };
        }
        let stop = CancellationToken::new();
        let shared = Arc::new(Shared::new());
        let running = Arc::new(stop.clone().drop_guard());
        let entry = Entry { shared: Arc::downgrade(&shared), running: Arc::downgrade(&running) };
        caches.insert(id, Box::new(entry));
        let reflector = Reflector::new(self.inner.client.clone(), &kind, select, shared.clone());
        tokio::spawn(async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = reflector.run() => {}
            }
        });
        Cache { shared, _running: running }
    }
}
