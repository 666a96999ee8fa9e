//! The cache as its readers use it.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use storage::{Progress, RangeRequest, Revision, Storage};
use tokio::sync::{Notify, watch as reached};
use tokio::task::AbortHandle;

use crate::diff::Change;
use crate::fan_out::{self, Watchers};
use crate::feed;
use crate::map::OrderedMap;
use crate::ring::{Ring, undo};
use crate::{CacheEvent, CachedObject, Decode, EventKind, Scope, Watch};

/// Old snapshots kept for lists that go on page by page.
const PINNED: usize = 8;
/// For how long: as long as the storage keeps its history.
const PINNED_AGE: Duration = Duration::from_secs(300);

/// What a cache may hold besides the objects.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Recent events, at most.
    pub events: usize,
    /// Bytes of objects in recent events, at most. (The bytes are shared with the storage's own history.)
    pub bytes: usize,
    /// Events older than this go, when there are more than `events_at_least`.
    pub age: Duration,
    /// Recent events kept however old they are.
    pub events_at_least: usize,
    /// Events a watch buffers for a reader that is behind, before it goes on from the recent events.
    pub buffer: usize,
    /// Bytes of objects in that buffer, at most; a single event may be larger.
    pub buffer_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            events: 16 << 10,
            bytes: 32 << 20,
            age: Duration::from_secs(120),
            events_at_least: 100,
            buffer: 512,
            buffer_bytes: 4 << 20,
        }
    }
}

/// Why a cache could not answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The history that was asked for is gone; list anew.
    #[error("too old resource version; the oldest kept is {oldest}")]
    Expired {
        /// The oldest revision one can resume from.
        oldest: Revision,
    },
    /// The cache or its storage has been closed.
    #[error("the watch cache is closed")]
    Closed,
    /// The storage could not answer.
    #[error("the storage failed")]
    Storage(#[from] storage::Error),
}

/// All objects at a revision.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// The revision.
    pub revision: Revision,
    /// The objects by key.
    pub objects: OrderedMap<Arc<CachedObject>>,
}

/// The objects under one prefix of a storage, kept up to date by one task.
pub struct Cache {
    inner: Arc<Inner>,
    task: AbortHandle,
}

pub(crate) struct Inner {
    pub(crate) storage: Arc<dyn Storage>,
    pub(crate) prefix: Arc<str>,
    pub(crate) decoder: Arc<dyn Decode>,
    pub(crate) limits: Limits,
    state: RwLock<State>,
    /// The state's revision, for those who wait for it; 0 before the first list.
    reached: reached::Sender<u64>,
    /// Asks the storage's watch how far it is.
    progress: Mutex<Option<Arc<dyn Progress>>>,
    /// The one used last at the end.
    pinned: Mutex<VecDeque<(Instant, Snapshot)>>,
    /// Asks the feed to read all again.
    pub(crate) again: Notify,
    ended: OnceLock<Error>,
}

#[derive(Default)]
pub(crate) struct State {
    pub(crate) objects: OrderedMap<Arc<CachedObject>>,
    /// Keys of what is there and cannot be read.
    unreadable: BTreeMap<Arc<str>, Revision>,
    pub(crate) revision: Revision,
    pub(crate) ring: Ring,
    pub(crate) watchers: Watchers,
}

impl Inner {
    // Every step leaves the state consistent, so a panic elsewhere does not make it useless.
    pub(crate) fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn state_mut(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn ended(&self) -> Option<Error> {
        self.ended.get().cloned()
    }

    pub(crate) fn set_progress(&self, progress: Arc<dyn Progress>) {
        // Who asked while there was no watch is answered by the new one.
        progress.request();
        *self.progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(progress);
    }

    /// Takes changes in, after which the cache is at this revision.
    pub(crate) fn apply(&self, changes: Vec<Change>, revision: Revision) {
        let mut woken = Vec::new();
        let mut state = self.state_mut();
        let now = Instant::now();
        for change in changes {
            let Some(event) = state.take(change) else { continue };
            let event = Arc::new(event);
            state.ring.push(event.clone(), now, &self.limits);
            state.watchers.publish(&event, &mut woken);
        }
        state.revision = state.revision.max(revision);
        let revision = state.revision;
        drop(state);
        self.reached.send_replace(revision.0);
        fan_out::wake(woken);
        drop(self.pinned(now));
    }

    /// The old snapshots that are still kept.
    fn pinned(&self, now: Instant) -> MutexGuard<'_, VecDeque<(Instant, Snapshot)>> {
        let mut pinned = self.pinned.lock().unwrap_or_else(PoisonError::into_inner);
        while pinned.front().is_some_and(|(used, _)| now.duration_since(*used) > PINNED_AGE) {
            pinned.pop_front();
        }
        pinned
    }

    /// Takes the first list.
    pub(crate) fn load(&self, snapshot: Snapshot, unreadable: Vec<(Arc<str>, Revision)>) {
        let mut state = self.state_mut();
        state.unreadable = unreadable.into_iter().collect();
        state.ring.restart(snapshot.revision);
        state.revision = snapshot.revision;
        state.objects = snapshot.objects;
        drop(state);
        self.reached.send_replace(snapshot.revision.0);
    }

    /// Takes the difference to a later list; nobody can resume below it any more.
    pub(crate) fn replace(&self, changes: Vec<Change>, revision: Revision) {
        let mut state = self.state_mut();
        state.ring.restart(revision);
        // Those that are still so are among the changes.
        state.unreadable.clear();
        drop(state);
        self.apply(changes, revision);
    }

    pub(crate) fn end(&self, error: Error) {
        let error = self.ended.get_or_init(|| error);
        self.state().watchers.end(error);
        self.reached.send_modify(|_| {});
    }
}

impl State {
    fn take(&mut self, change: Change) -> Option<CacheEvent> {
        let sequence = self.ring.next();
        match &change {
            Change::Unreadable(key, revision) => drop(self.unreadable.insert(key.clone(), *revision)),
            Change::Gone(key, _) => drop(self.unreadable.remove(key)),
            Change::Put(_) => {}
        }
        match change {
            Change::Put(object) => {
                self.unreadable.remove(&object.key);
                let known =
                    self.objects.get(&object.key).is_some_and(|before| before.revision >= object.revision);
                if known {
                    return None;
                }
                let previous = self.objects.insert(object.clone());
                let kind = if previous.is_some() { EventKind::Modified } else { EventKind::Added };
                Some(CacheEvent::new(kind, object, previous, sequence))
            }
            Change::Gone(key, revision) | Change::Unreadable(key, revision) => {
                let previous = self.objects.remove(&key)?;
                let object = Arc::new(previous.at(revision));
                Some(CacheEvent::new(EventKind::Deleted, object, Some(previous), sequence))
            }
        }
    }
}

impl Cache {
    /// Starts a cache of the keys with a prefix. Has to be called inside a Tokio runtime.
    pub fn start(
        storage: Arc<dyn Storage>,
        prefix: impl Into<Arc<str>>,
        decoder: Arc<dyn Decode>,
        limits: Limits,
    ) -> Self {
        let inner = Arc::new(Inner {
            storage,
            prefix: prefix.into(),
            decoder,
            limits,
            state: RwLock::default(),
            reached: reached::Sender::new(0),
            progress: Mutex::default(),
            pinned: Mutex::default(),
            again: Notify::new(),
            ended: OnceLock::new(),
        });
        let task = tokio::spawn(feed::run(inner.clone())).abort_handle();
        Self { inner, task }
    }

    /// The prefix of its keys.
    pub fn prefix(&self) -> &Arc<str> {
        &self.inner.prefix
    }

    /// Whether the first list is done.
    pub fn is_ready(&self) -> bool {
        *self.inner.reached.borrow() > 0
    }

    /// Waits for the first list.
    pub async fn ready(&self) -> Result<(), Error> {
        self.reach(Revision(1)).await
    }

    /// The revision of the cache.
    pub fn revision(&self) -> Revision {
        self.inner.state().revision
    }

    /// Waits until the cache has seen everything up to a revision, which may come without a write under its prefix.
    ///
    /// When the storage has not reached the revision itself, this waits for the writes that make it so: callers who
    /// take revisions from clients need a time limit.
    pub async fn wait_until(&self, revision: Revision) -> Result<(), Error> {
        if *self.inner.reached.borrow() >= revision.0 && self.is_ready() {
            return Ok(());
        }
        self.inner.storage.wait_for(revision).await?;
        let progress = self.inner.progress.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if let Some(progress) = progress {
            progress.request();
        }
        self.reach(revision).await
    }

    /// Waits until the cache shows every write that was acknowledged before this call; tells its revision.
    pub async fn refresh(&self) -> Result<Revision, Error> {
        let now = self.inner.storage.now().await?;
        self.wait_until(now).await?;
        Ok(now)
    }

    async fn reach(&self, revision: Revision) -> Result<(), Error> {
        let mut reached = self.inner.reached.subscribe();
        let there = |reached: &u64| *reached >= revision.0.max(1) || self.inner.ended.get().is_some();
        reached.wait_for(there).await.map_err(|_| Error::Closed)?;
        match self.inner.ended() {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    /// The object with a key.
    pub fn get(&self, key: &str) -> Option<Arc<CachedObject>> {
        self.inner.state().objects.get(key).cloned()
    }

    /// The first key with a prefix under which there is something that cannot be read: a list that leaves it out would
    /// be wrong.
    pub fn unreadable(&self, prefix: &str) -> Option<Arc<str>> {
        let state = self.inner.state();
        let from = (Bound::Included(prefix), Bound::Unbounded);
        let (key, _) = state.unreadable.range::<str, _>(from).next()?;
        key.starts_with(prefix).then(|| key.clone())
    }

    /// Reads all again soon: what could not be read may be readable by now.
    pub fn relist(&self) {
        self.inner.again.notify_one();
    }

    /// All objects as they are. Costs nothing, whatever their number.
    pub fn snapshot(&self) -> Snapshot {
        let state = self.inner.state();
        Snapshot { revision: state.revision, objects: state.objects.clone() }
    }

    /// All objects as they were at a revision: by taking back recent events, else from the storage's history.
    pub async fn snapshot_at(&self, revision: Revision) -> Result<Snapshot, Error> {
        self.wait_until(revision).await?;
        if let Some(snapshot) = self.pinned(revision) {
            return Ok(snapshot);
        }
        let snapshot = match self.rebuild(revision) {
            Some(snapshot) => snapshot,
            None => self.read_at(revision).await?,
        };
        self.pin(snapshot.clone());
        Ok(snapshot)
    }

    /// Keeps a snapshot for a while, for [`Cache::snapshot_at`] to find: a list will go on from it.
    pub fn pin(&self, snapshot: Snapshot) {
        let now = Instant::now();
        let mut pinned = self.inner.pinned(now);
        if !pinned.iter().any(|(_, known)| known.revision == snapshot.revision) {
            pinned.push_back((now, snapshot));
        }
        while pinned.len() > PINNED {
            pinned.pop_front();
        }
    }

    fn pinned(&self, revision: Revision) -> Option<Snapshot> {
        let now = Instant::now();
        let mut pinned = self.inner.pinned(now);
        let at = pinned.iter().position(|(_, snapshot)| snapshot.revision == revision)?;
        let (_, snapshot) = pinned.remove(at)?;
        pinned.push_back((now, snapshot.clone()));
        Some(snapshot)
    }

    fn rebuild(&self, revision: Revision) -> Option<Snapshot> {
        let (mut objects, newer) = {
            let state = self.inner.state();
            let from = state.ring.after(revision)?;
            (state.objects.clone(), state.ring.from(from)?.cloned().collect::<Vec<_>>())
        };
        undo(&mut objects, newer.iter());
        Some(Snapshot { revision, objects })
    }

    async fn read_at(&self, revision: Revision) -> Result<Snapshot, Error> {
        let request = RangeRequest::prefix(&self.inner.prefix).at(revision);
        let response = match self.inner.storage.range(request).await {
            Err(storage::Error::Compacted { compacted, .. }) => {
                return Err(Error::Expired { oldest: compacted });
            }
            response => response?,
        };
        let (objects, _) = feed::decode_all(&self.inner, &response.kvs).await;
        Ok(Snapshot { revision, objects })
    }

    /// Watches from a snapshot on: the objects, and every event after them.
    pub fn watch_initial(&self, scope: Scope) -> (Snapshot, Watch) {
        let mut state = self.inner.state_mut();
        let snapshot = Snapshot { revision: state.revision, objects: state.objects.clone() };
        let next = state.ring.next();
        let after = state.revision;
        (snapshot, Watch::begin(&self.inner, &mut state, scope, after, next))
    }

    /// Watches every event above a revision, which may be in the future.
    pub fn watch_after(&self, revision: Revision, scope: Scope) -> Result<Watch, Error> {
        let mut state = self.inner.state_mut();
        let Some(next) = state.ring.after(revision) else {
            return Err(Error::Expired { oldest: state.ring.floor() });
        };
        Ok(Watch::begin(&self.inner, &mut state, scope, revision, next))
    }

    #[cfg(test)]
    pub(crate) fn inner_for_tests(&self) -> Arc<Inner> {
        self.inner.clone()
    }

    /// The oldest revision that a watch can resume from.
    pub fn oldest(&self) -> Revision {
        self.inner.state().ring.floor()
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        self.task.abort();
        self.inner.end(Error::Closed);
    }
}
