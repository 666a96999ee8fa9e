//! Tokens of service accounts.
use std::sync::Arc;

use async_trait::async_trait;
use machinery::Object;

/// What token verification must know of the cluster: cached reads, with a live read where the cache has nothing.
#[async_trait]
pub trait ServiceAccountGetter: Send + Sync {
    /// The service account, if it exists.
    async fn service_account(&self, namespace: &str, name: &str) -> Option<Arc<Object>>;
    /// The pod, if it exists.
    async fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Object>>;
    /// The secret, if it exists.
    async fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Object>>;
    /// The node, if it exists.
    async fn node(&self, name: &str) -> Option<Arc<Object>>;
}
