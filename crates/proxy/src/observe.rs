//! Which Services changed since the last look, from the watches of Services and EndpointSlices.

use std::collections::{BTreeSet, HashMap};

use client::{Cache, Changes, Index, Informers, ObjectKey, Select};
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

use crate::desired::{self, PROXY_NAME_LABEL, Port, SERVICE_NAME_LABEL};

/// Services and their endpoints, as changes.
pub struct Observed {
    node: String,
    services: Changes<Service>,
    slices: Changes<EndpointSlice>,
    by_service: Index<EndpointSlice>,
    /// Services to look at anew.
    dirty: BTreeSet<ObjectKey>,
    /// What was given out last.
    known: HashMap<ObjectKey, Vec<Port>>,
}

/// A Service whose ports are not what they were.
pub struct Changed {
    /// The Service.
    pub key: ObjectKey,
    /// Its ports now; none if it is gone.
    pub ports: Vec<Port>,
    /// Its ports before.
    pub before: Vec<Port>,
}

impl Changed {
    /// The ports now, and those that are gone, without endpoints.
    pub fn with_gone(mut self) -> Vec<Port> {
        for mut port in self.before {
            port.cluster.clear();
            port.local.clear();
            self.ports.push(port);
        }
        self.ports
    }
}

fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
    Some(ObjectKey::new(slice.metadata.namespace.clone()?, name))
}

impl Observed {
    /// Starts to watch.
    pub fn new(informers: &Informers, node: String) -> Self {
        // Headless Services and those of other proxies do not concern us, nor do their endpoints.
        let select = |labels: String| Select { labels: Some(labels), ..Select::default() };
        let headless = "service.kubernetes.io/headless";
        let services: Cache<Service> =
            informers.cache_with(select(format!("!{headless},!{PROXY_NAME_LABEL}")));
        let slices: Cache<EndpointSlice> =
            informers.cache_with(select(format!("!{headless},!{PROXY_NAME_LABEL},{SERVICE_NAME_LABEL}")));
        Self {
            node,
            by_service: slices.index(|s| service_of(s).map(|k| k.to_string()).into_iter().collect()),
            services: services.changes(),
            slices: slices.changes(),
            dirty: BTreeSet::new(),
            known: HashMap::new(),
        }
    }

    /// Waits for the first lists.
    pub async fn synced(&self) {
        self.services.cache().synced().await;
        self.slices.cache().synced().await;
    }

    /// How many Services are served.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    /// Waits until something changed that may matter. Safe to drop half-way.
    pub async fn changed(&mut self) {
        while self.dirty.is_empty() {
            tokio::select! {
                change = self.services.next() => {
                    self.dirty.insert(change.key);
                }
                change = self.slices.next() => {
                    let (old, new) = (change.old.as_deref(), change.new.as_deref());
                    self.dirty.extend(old.into_iter().chain(new).filter_map(service_of));
                }
            }
        }
    }

    /// The Services whose ports differ from what was given out before.
    pub fn take(&mut self) -> Vec<Changed> {
        while let Some(change) = self.services.try_next() {
            self.dirty.insert(change.key);
        }
        while let Some(change) = self.slices.try_next() {
            let (old, new) = (change.old.as_deref(), change.new.as_deref());
            self.dirty.extend(old.into_iter().chain(new).filter_map(service_of));
        }
        let mut out = Vec::new();
        for key in std::mem::take(&mut self.dirty) {
            let ports = match self.services.cache().get(&key) {
                Some(service) => desired::ports(&service, &self.by_service.get(&key.to_string()), &self.node),
                None => Vec::new(),
            };
            let before = if ports.is_empty() {
                self.known.remove(&key)
            } else {
                self.known.insert(key.clone(), ports.clone())
            };
            let before = before.unwrap_or_default();
            if before != ports {
                out.push(Changed { key, ports, before });
            }
        }
        out
    }
}
