//! What a controller has written and its cache has not shown yet.
use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use client::{Cache, ObjectKey};
use kube::Resource;

use crate::framework::Next;

/// After this long a lost event no longer holds anything up.
const PATIENCE: Duration = Duration::from_secs(300);

/// What a reconcile returns that waits for its own writes to be seen. Events wake it; this is for one that got lost.
pub const UNSEEN: Next = Next::After(Duration::from_secs(PATIENCE.as_secs() + 1));

/// Per owner, the creations and deletions that its next decision has to wait for.
///
/// A creation has been seen when the cache has reached the revision it got; a deletion when the object is marked as
/// deleted or gone. Each such event wakes the owner again, so waiting needs no timer.
#[derive(Default)]
pub struct Expectations {
    by_owner: Mutex<HashMap<ObjectKey, Expected>>,
}

struct Expected {
    revision: u64,
    going: Vec<(ObjectKey, String)>,
    since: Instant,
}

impl Expectations {
    fn lock(&self) -> MutexGuard<'_, HashMap<ObjectKey, Expected>> {
        self.by_owner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn note(&self, owner: &ObjectKey, write: impl FnOnce(&mut Expected)) {
        let mut by_owner = self.lock();
        let new = || Expected { revision: 0, going: Vec::new(), since: Instant::now() };
        let expected = by_owner.entry(owner.clone()).or_insert_with(new);
        expected.since = Instant::now();
        write(expected);
    }

    /// The server answered a create or update with this object.
    pub fn written<K: Resource>(&self, owner: &ObjectKey, object: &K) {
        let revision = object.meta().resource_version.as_deref().and_then(|v| v.parse().ok()).unwrap_or(0);
        self.note(owner, |e| e.revision = e.revision.max(revision));
    }

    /// The server accepted the deletion of this object.
    pub fn deleted<K: Resource>(&self, owner: &ObjectKey, object: &K) {
        let gone = (ObjectKey::of(object), object.meta().uid.clone().unwrap_or_default());
        self.note(owner, |e| e.going.push(gone));
    }

    /// Whether the cache shows all of it.
    pub fn met<K: Resource + 'static>(&self, owner: &ObjectKey, cache: &Cache<K>) -> bool {
        let mut by_owner = self.lock();
        let Some(expected) = by_owner.get_mut(owner) else { return true };
        expected.going.retain(|(key, uid)| {
            cache.get(key).is_some_and(|object| {
                object.meta().uid.as_deref() == Some(uid) && object.meta().deletion_timestamp.is_none()
            })
        });
        let met = expected.going.is_empty() && cache.revision() >= expected.revision;
        if met || expected.since.elapsed() > PATIENCE {
            by_owner.remove(owner);
            return true;
        }
        false
    }

    /// The owner is gone.
    pub fn forget(&self, owner: &ObjectKey) {
        self.lock().remove(owner);
    }
}
