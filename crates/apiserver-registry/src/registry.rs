//! All stores of a server.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use api::kinds::Kind;
use apiserver_admission::Chain;
use apiserver_watch_cache::{Cache, Limits};
use storage::{SharedLeases, Storage};

use crate::facts::Decoder;
use crate::store::{Hook, Shared, Store, prefix};

/// Finds the store of a resource.
pub struct Registry {
    stores: BTreeMap<(String, String), Arc<Store>>,
}

impl Registry {
    /// The store of a resource, whatever the version.
    pub fn store(&self, group: &str, plural: &str) -> Option<&Arc<Store>> {
        // Events are one resource under two groups.
        let group = if plural == "events" { "" } else { group };
        self.stores.get(&(group.to_owned(), plural.to_owned()))
    }

    /// All stores.
    pub fn stores(&self) -> impl Iterator<Item = &Arc<Store>> {
        self.stores.values()
    }
}

/// What makes a [`Registry`].
pub struct RegistryBuilder {
    /// Where objects are kept.
    pub storage: Arc<dyn Storage>,
    /// Caches of the resources, started by [`RegistryBuilder::start`].
    pub caches: BTreeMap<(String, String), (Arc<Kind>, Arc<Cache>)>,
}

impl RegistryBuilder {
    /// Starts a cache for each kind that is kept. Caches come first, since admission reads them.
    pub fn start(storage: Arc<dyn Storage>, kinds: impl Iterator<Item = Arc<Kind>>) -> Self {
        let mut caches = BTreeMap::new();
        for kind in kinds {
            let decoder = Arc::new(Decoder::new(&kind));
            let cache = Cache::start(storage.clone(), prefix(&kind), decoder, Limits::default());
            caches.insert((kind.group.to_string(), kind.plural.to_string()), (kind, Arc::new(cache)));
        }
        Self { storage, caches }
    }

    /// Waits until every cache has its first list.
    pub async fn ready(&self) -> Result<(), apiserver_watch_cache::Error> {
        for (_, cache) in self.caches.values() {
            cache.ready().await?;
        }
        Ok(())
    }

    /// Puts admission and hooks in. `event_ttl`: how long events are kept.
    pub fn finish(
        self,
        admission: Arc<Chain>,
        hooks: &BTreeMap<(&str, &str), Arc<dyn Hook>>,
        event_ttl: Duration,
    ) -> Registry {
        let leases = Arc::new(SharedLeases::new(self.storage.clone()));
        let shared = Shared { storage: self.storage, leases, admission };
        let stores = self
            .caches
            .into_iter()
            .map(|(key, (kind, cache))| {
                let hook = hooks.get(&(key.0.as_str(), key.1.as_str())).cloned();
                let ttl = (key.1 == "events").then_some(event_ttl);
                (key, Arc::new(Store::new(kind, cache, shared.clone(), hook, ttl)))
            })
            .collect();
        Registry { stores }
    }
}
