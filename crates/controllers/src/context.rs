//! What every controller is made from.
use std::sync::Arc;

use client::{Cache, Index, Informers, Recorder};
use k8s_openapi::api::core::v1::Pod;
use kube::Client;

use crate::config::Config;
use crate::identity::ClientFor;
use crate::ownership::controller_of;

/// The values that controllers are built from; clones share everything.
#[derive(Clone)]
pub struct Context {
    /// Writes, and live reads.
    pub client: Client,
    /// Clients of the controllers' own service accounts.
    pub clients: ClientFor,
    /// The shared caches.
    pub informers: Informers,
    /// Sends events; each controller takes it under its own name.
    pub recorder: Recorder,
    /// What the operator chose.
    pub config: Arc<Config>,
    /// Pods filed by controller, shared by all workload controllers.
    pub pods: PodsByController,
}

impl Context {
    /// The same values for a controller that writes as a service account of its own.
    pub fn acting_as(&self, account: &str) -> Self {
        Self { client: (self.clients)(account), ..self.clone() }
    }
}

/// The pods, filed by the UID of their controller, or as orphans of their namespace.
#[derive(Clone)]
pub struct PodsByController {
    /// All pods.
    pub cache: Cache<Pod>,
    index: Index<Pod>,
}

impl PodsByController {
    /// Files the pods of this cache.
    pub fn new(cache: Cache<Pod>) -> Self {
        let index = cache.index(|pod| {
            vec![match controller_of(&pod.metadata) {
                Some(owner) => owner.uid.clone(),
                None => orphans_of(pod.metadata.namespace.as_deref().unwrap_or("")),
            }]
        });
        Self { cache, index }
    }

    /// Pods whose controller has this UID.
    pub fn of(&self, uid: &str) -> Vec<Arc<Pod>> {
        self.index.get(uid)
    }

    /// Pods that this controller has or could adopt.
    pub fn candidates(&self, uid: &str, namespace: &str) -> Vec<Arc<Pod>> {
        let mut pods = self.index.get(uid);
        pods.extend(self.index.get(&orphans_of(namespace)));
        pods
    }
}

fn orphans_of(namespace: &str) -> String {
    // No UID has a slash.
    format!("orphans/{namespace}")
}
