//! Where the API is: the addresses of all servers that share one store, in the endpoints of the `kubernetes` Service.
//! Upstream: pkg/controlplane/reconcilers/lease.go, 1.36.
//!
//! Each server keeps a key that expires unless it is written again, and writes the endpoints as the keys are.
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use apiserver_registry::{Registry, storage_error};
use machinery::StatusResult;
use serde_json::json;
use storage::{Expect, RangeRequest, Storage};
use tokio_util::sync::CancellationToken;

use crate::bootstrap::{Advertised, Bootstrap};

/// Where the servers' keys are, as upstream's.
const PREFIX: &str = "/registry/masterleases/";
/// How long a key lives.
const LIFETIME: Duration = Duration::from_secs(15);
/// How often it is written.
const INTERVAL: Duration = Duration::from_secs(10);

/// This server among those that share the store.
pub struct Masters {
    storage: Arc<dyn Storage>,
    registry: Arc<Registry>,
    own: Advertised,
}

impl Masters {
    /// Speaks for this server.
    pub fn new(storage: Arc<dyn Storage>, registry: Arc<Registry>, own: Advertised) -> Self {
        Self { storage, registry, own }
    }

    fn key(&self) -> String {
        format!("{PREFIX}{}", self.own.address)
    }

    /// Says that this server is here, and writes down who is.
    pub async fn renew(&self) -> StatusResult<()> {
        let lease = self.storage.grant(LIFETIME).await.map_err(storage_error)?;
        let value = json!({
            "kind": "Endpoints",
            "apiVersion": "v1",
            "metadata": { "generation": 1 },
            "subsets": [{ "addresses": [{ "ip": self.own.address.to_string() }] }],
        });
        let value = value.to_string().into_bytes().into();
        self.storage.put(&self.key(), value, Expect::Any, Some(lease)).await.map_err(storage_error)?;
        self.publish().await
    }

    async fn publish(&self) -> StatusResult<()> {
        let found = self.storage.range(RangeRequest::prefix(PREFIX)).await.map_err(storage_error)?;
        let mut addresses: Vec<IpAddr> =
            found.kvs.iter().filter_map(|kv| kv.key.strip_prefix(PREFIX)?.parse().ok()).collect();
        addresses.sort_unstable();
        if addresses.is_empty() {
            // The last one leaves the endpoints as they are: nobody else will answer there either.
            return Ok(());
        }
        Bootstrap::new(&self.registry).endpoints(&self.own, &addresses).await
    }

    async fn leave(&self) -> StatusResult<()> {
        self.storage.delete(&self.key(), Expect::Any).await.map_err(storage_error)?;
        self.publish().await
    }

    /// Renews until `stop`, then leaves.
    pub async fn run(self, stop: CancellationToken) {
        let renewing = async {
            loop {
                tokio::time::sleep(INTERVAL).await;
                if let Err(e) = self.renew().await {
                    tracing::warn!(error = %e, "the endpoints of the API were not renewed");
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = renewing => {}
        }
        // A store that does not answer must not hold up the end.
        match tokio::time::timeout(Duration::from_secs(3), self.leave()).await {
            Ok(Ok(())) => {}
            Ok(Err(e)) => tracing::warn!(error = %e, "this server's endpoint stays until it expires"),
            Err(_) => {
                tracing::warn!("this server's endpoint stays until it expires: the store does not answer")
            }
        }
    }
}
