//! Leases shared by many keys, so that a stream of short-lived objects does not cost a lease each.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use crate::{Error, LeaseId, Storage};

/// A lease takes new keys for at most this long.
const REUSE: Duration = Duration::from_secs(60);
/// A lease takes at most so many keys, which bounds what its expiry has to delete at once.
const KEYS: u32 = 1000;

/// Hands out leases for keys that should live about as long.
///
/// A key may outlive its time by what its lease was reused: a twentieth of its time, a minute at most.
pub struct SharedLeases {
    storage: Arc<dyn Storage>,
    current: Mutex<HashMap<Duration, Shared>>,
}

struct Shared {
    id: LeaseId,
    usable_until: Instant,
    keys_left: u32,
}

impl SharedLeases {
    /// Hands out leases of this store.
    pub fn new(storage: Arc<dyn Storage>) -> Self {
        Self { storage, current: Mutex::default() }
    }

    /// A lease for one key that should live for at least `ttl`.
    pub async fn lease(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let mut current = self.current.lock().await;
        let now = Instant::now();
        if let Some(shared) = current.get_mut(&ttl)
            && shared.keys_left > 0
            && now < shared.usable_until
        {
            shared.keys_left -= 1;
            return Ok(shared.id);
        }
        current.retain(|_, shared| now < shared.usable_until);
        let reuse = REUSE.min(ttl / 20);
        let id = self.storage.grant(ttl + reuse).await?;
        current.insert(ttl, Shared { id, usable_until: now + reuse, keys_left: KEYS - 1 });
        Ok(id)
    }
}
