//! What plugins may ask of the cluster.
use std::sync::Arc;

use async_trait::async_trait;
use machinery::{Object, StatusResult};

/// Group and plural of a resource that plugins read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Resource {
    /// Empty for core.
    pub group: &'static str,
    /// Plural.
    pub plural: &'static str,
}

impl Resource {
    /// `namespaces`.
    pub const NAMESPACES: Self = Self::core("namespaces");
    /// `serviceaccounts`.
    pub const SERVICE_ACCOUNTS: Self = Self::core("serviceaccounts");
    /// `pods`.
    pub const PODS: Self = Self::core("pods");
    /// `nodes`.
    pub const NODES: Self = Self::core("nodes");
    /// `limitranges`.
    pub const LIMIT_RANGES: Self = Self::core("limitranges");
    /// `resourcequotas`.
    pub const RESOURCE_QUOTAS: Self = Self::core("resourcequotas");
    /// `priorityclasses.scheduling.k8s.io`.
    pub const PRIORITY_CLASSES: Self = Self { group: "scheduling.k8s.io", plural: "priorityclasses" };
    /// `storageclasses.storage.k8s.io`.
    pub const STORAGE_CLASSES: Self = Self { group: "storage.k8s.io", plural: "storageclasses" };
    /// `ingressclasses.networking.k8s.io`.
    pub const INGRESS_CLASSES: Self = Self { group: "networking.k8s.io", plural: "ingressclasses" };
    /// `runtimeclasses.node.k8s.io`.
    pub const RUNTIME_CLASSES: Self = Self { group: "node.k8s.io", plural: "runtimeclasses" };

    /// `persistentvolumeclaims`.
    pub const VOLUME_CLAIMS: Self = Self::core("persistentvolumeclaims");
    /// `persistentvolumes`.
    pub const VOLUMES: Self = Self::core("persistentvolumes");
    /// `csidrivers.storage.k8s.io`.
    pub const CSI_DRIVERS: Self = Self { group: "storage.k8s.io", plural: "csidrivers" };

    const fn core(plural: &'static str) -> Self {
        Self { group: "", plural }
    }
}

/// The cluster as plugins see it: the server's own watch cache.
#[async_trait]
pub trait ClusterView: Send + Sync {
    /// From the cache; `namespace` is empty for cluster-scoped resources.
    fn get(&self, resource: Resource, namespace: &str, name: &str) -> Option<Arc<Object>>;

    /// All of a namespace (of the cluster, where it is empty), from the cache.
    fn list(&self, resource: Resource, namespace: &str) -> Vec<Arc<Object>>;

    /// From the store itself: for what the cache may not have heard of yet.
    async fn get_live(
        &self,
        resource: Resource,
        namespace: &str,
        name: &str,
    ) -> StatusResult<Option<Arc<Object>>>;
}
