//! The objects of one kind as last seen, and who wants to hear of changes.
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard, Weak};

use kube::Resource;
use tokio::sync::{Notify, watch};
use tokio_util::sync::DropGuard;

use crate::ObjectKey;

/// A cheap handle to the objects of one kind, kept up to date by a watch.
///
/// What it returns may lag behind the server; before anything destructive, read live.
pub struct Cache<K: Resource> {
    pub(crate) shared: Arc<Shared<K>>,
    pub(crate) _running: Arc<DropGuard>,
}

impl<K: Resource> Clone for Cache<K> {
    fn clone(&self) -> Self {
        Self { shared: self.shared.clone(), _running: self._running.clone() }
    }
}

impl<K: Resource + 'static> Cache<K> {
    /// One object.
    pub fn get(&self, key: &ObjectKey) -> Option<Arc<K>> {
        self.shared.read().objects.get(key).cloned()
    }

    /// All objects, by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.shared.read().objects.values().cloned().collect()
    }

    /// The objects of one namespace, by name.
    pub fn list_in(&self, namespace: &str) -> Vec<Arc<K>> {
        self.shared
            .read()
            .objects
            .range(ObjectKey::new(namespace, "")..)
            .take_while(|(key, _)| key.namespace == namespace)
            .map(|(_, object)| object.clone())
            .collect()
    }

    /// How many objects there are.
    pub fn len(&self) -> usize {
        self.shared.read().objects.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Objects with an owner reference (controller or not) to this UID. The first call builds the index.
    pub fn owned_by(&self, uid: &str) -> Vec<Arc<K>> {
        let index = self.shared.owner_index.get_or_init(|| self.shared.add_index(Box::new(owner_uids)));
        self.shared.read().lookup(*index, uid)
    }

    /// Adds an index over the values that `values` gives for each object.
    pub fn index(&self, values: impl Fn(&K) -> Vec<String> + Send + Sync + 'static) -> Index<K> {
        Index { number: self.shared.add_index(Box::new(values)), cache: self.clone() }
    }

    /// The last revision of which this cache has seen every change before it. Revisions of one server compare as
    /// numbers, whatever the kind.
    pub fn revision(&self) -> u64 {
        self.shared.revision.load(Ordering::Acquire)
    }

    /// Waits until the first list is in.
    pub async fn synced(&self) {
        let mut synced = self.shared.synced.subscribe();
        // The sender lives in `shared`, which `self` keeps.
        let _ = synced.wait_for(|s| *s).await;
    }

    /// Whether the first list is in.
    pub fn is_synced(&self) -> bool {
        *self.shared.synced.borrow()
    }

    /// Everything there is (as changes from nothing), then every change.
    ///
    /// Changes of one key that were not read yet are merged into one, so a slow reader holds at most one entry
    /// for each object and never misses the last state.
    pub fn changes(&self) -> Changes<K> {
        let mailbox = Arc::new(Mailbox { pending: Mutex::new(Pending::default()), wake: Notify::new() });
        let mut state = self.shared.write();
        for (key, object) in &state.objects {
            mailbox.put(key, None, Some(object.clone()));
        }
        state.readers.push(Arc::downgrade(&mailbox));
        drop(state);
        Changes { mailbox, cache: self.clone() }
    }
}

fn owner_uids<K: Resource>(object: &K) -> Vec<String> {
    object.meta().owner_references.iter().flatten().map(|o| o.uid.clone()).collect()
}

/// A custom index over a [`Cache`].
pub struct Index<K: Resource> {
    number: usize,
    cache: Cache<K>,
}

impl<K: Resource> Clone for Index<K> {
    fn clone(&self) -> Self {
        Self { number: self.number, cache: self.cache.clone() }
    }
}

impl<K: Resource> Index<K> {
    /// The objects filed under this value.
    pub fn get(&self, value: &str) -> Vec<Arc<K>> {
        self.cache.shared.read().lookup(self.number, value)
    }
}

/// One object's way from what the reader last heard to what is.
#[derive(Debug)]
pub struct Change<K> {
    /// Which object.
    pub key: ObjectKey,
    /// What the reader last heard of; `None` when it is new to it.
    pub old: Option<Arc<K>>,
    /// What is now; `None` when it is gone.
    pub new: Option<Arc<K>>,
}

impl<K> Change<K> {
    /// The object as it is, or as it last was.
    pub fn object(&self) -> Option<&Arc<K>> {
        self.new.as_ref().or(self.old.as_ref())
    }
}

/// A reader of changes, from [`Cache::changes`].
pub struct Changes<K: Resource> {
    mailbox: Arc<Mailbox<K>>,
    cache: Cache<K>,
}

impl<K: Resource + 'static> Changes<K> {
    /// The next change. Never ends; safe to drop half-way (in `select!`).
    pub async fn next(&mut self) -> Change<K> {
        loop {
            if let Some(change) = self.mailbox.take() {
                return change;
            }
            self.mailbox.wake.notified().await;
        }
    }

    /// The next change if one is there.
    pub fn try_next(&mut self) -> Option<Change<K>> {
        self.mailbox.take()
    }

    /// The cache that is read from.
    pub fn cache(&self) -> &Cache<K> {
        &self.cache
    }
}

struct Mailbox<K> {
    pending: Mutex<Pending<K>>,
    wake: Notify,
}

type OldAndNew<K> = (Option<Arc<K>>, Option<Arc<K>>);

struct Pending<K> {
    order: VecDeque<ObjectKey>,
    changes: HashMap<ObjectKey, OldAndNew<K>>,
}

impl<K> Default for Pending<K> {
    fn default() -> Self {
        Self { order: VecDeque::new(), changes: HashMap::new() }
    }
}

impl<K> Mailbox<K> {
    fn lock(&self) -> MutexGuard<'_, Pending<K>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, key: &ObjectKey, old: Option<Arc<K>>, new: Option<Arc<K>>) {
        let mut pending = self.lock();
        match pending.changes.get_mut(key) {
            Some(waiting) => waiting.1 = new,
            None => {
                pending.changes.insert(key.clone(), (old, new));
                pending.order.push_back(key.clone());
            }
        }
        drop(pending);
        self.wake.notify_one();
    }

    fn take(&self) -> Option<Change<K>> {
        let mut pending = self.lock();
        loop {
            let key = pending.order.pop_front()?;
            let (old, new) = pending.changes.remove(&key).unwrap_or((None, None));
            // Came and went unseen.
            if old.is_none() && new.is_none() {
                continue;
            }
            if pending.order.is_empty() && pending.order.capacity() > 1024 {
                *pending = Pending::default();
            }
            return Some(Change { key, old, new });
        }
    }
}

pub(crate) struct Shared<K> {
    state: RwLock<State<K>>,
    owner_index: std::sync::OnceLock<usize>,
    pub(crate) synced: watch::Sender<bool>,
    revision: AtomicU64,
}

struct State<K> {
    objects: BTreeMap<ObjectKey, Arc<K>>,
    indexes: Vec<Indexed<K>>,
    readers: Vec<Weak<Mailbox<K>>>,
}

type Values<K> = Box<dyn Fn(&K) -> Vec<String> + Send + Sync>;

struct Indexed<K> {
    values: Values<K>,
    keys: HashMap<String, BTreeSet<ObjectKey>>,
}

impl<K> Indexed<K> {
    fn update(&mut self, key: &ObjectKey, old: Option<&K>, new: Option<&K>) {
        let before = old.map(|o| (self.values)(o)).unwrap_or_default();
        let after = new.map(|n| (self.values)(n)).unwrap_or_default();
        if before == after {
            return;
        }
        for value in before {
            if let Some(keys) = self.keys.get_mut(&value) {
                keys.remove(key);
                if keys.is_empty() {
                    self.keys.remove(&value);
                }
            }
        }
        for value in after {
            self.keys.entry(value).or_default().insert(key.clone());
        }
    }
}

impl<K> State<K> {
    fn lookup(&self, index: usize, value: &str) -> Vec<Arc<K>> {
        let keys = self.indexes.get(index).and_then(|i| i.keys.get(value));
        keys.into_iter().flatten().filter_map(|key| self.objects.get(key).cloned()).collect()
    }
}

impl<K: Resource> Shared<K> {
    pub(crate) fn new() -> Self {
        Self {
            state: RwLock::new(State { objects: BTreeMap::new(), indexes: Vec::new(), readers: Vec::new() }),
            owner_index: std::sync::OnceLock::new(),
            synced: watch::Sender::new(false),
            revision: AtomicU64::new(0),
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State<K>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<K>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn add_index(&self, values: Values<K>) -> usize {
        let mut state = self.write();
        let mut index = Indexed { values, keys: HashMap::new() };
        for (key, object) in &state.objects {
            index.update(key, None, Some(object));
        }
        state.indexes.push(index);
        state.indexes.len() - 1
    }

    /// Sets (or with `None` removes) one object, as of this revision, and tells the readers.
    pub(crate) fn set(&self, key: ObjectKey, new: Option<Arc<K>>, revision: &str) {
        let mut state = self.write();
        self.apply(&mut state, vec![(key, new)], revision);
    }

    /// Notes that everything up to this revision has been set.
    pub(crate) fn reached(&self, revision: &str) {
        if let Ok(revision) = revision.parse() {
            self.revision.fetch_max(revision, Ordering::Release);
        }
    }

    /// Takes a whole list as the truth: what is not in it is gone, what did not change is not told.
    pub(crate) fn replace(&self, list: BTreeMap<ObjectKey, Arc<K>>, revision: &str) {
        let mut state = self.write();
        let gone = state.objects.keys().filter(|key| !list.contains_key(*key));
        let mut changes: Vec<_> = gone.map(|key| (key.clone(), None)).collect();
        for (key, object) in list {
            let version = |o: &Arc<K>| o.meta().resource_version.clone();
            if state.objects.get(&key).is_none_or(|old| version(old) != version(&object)) {
                changes.push((key, Some(object)));
            }
        }
        self.apply(&mut state, changes, revision);
        self.synced.send_replace(true);
    }

    /// All under one lock, and the revision before the readers hear: whoever is woken finds at least this state.
    fn apply(&self, state: &mut State<K>, changes: Vec<(ObjectKey, Option<Arc<K>>)>, revision: &str) {
        let State { objects, indexes, readers } = state;
        let mut told = Vec::with_capacity(changes.len());
        for (key, new) in changes {
            let old = match &new {
                Some(object) => objects.insert(key.clone(), object.clone()),
                None => objects.remove(&key),
            };
            if old.is_none() && new.is_none() {
                continue;
            }
            for index in indexes.iter_mut() {
                index.update(&key, old.as_deref(), new.as_deref());
            }
            told.push((key, old, new));
        }
        self.reached(revision);
        readers.retain(|reader| {
            let Some(mailbox) = reader.upgrade() else { return false };
            for (key, old, new) in &told {
                mailbox.put(key, old.clone(), new.clone());
            }
            true
        });
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::core::v1::ConfigMap;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
    use tokio_util::sync::CancellationToken;

    use super::*;

    fn cache() -> Cache<ConfigMap> {
        Cache { shared: Arc::new(Shared::new()), _running: Arc::new(CancellationToken::new().drop_guard()) }
    }

    fn object(ns: &str, name: &str, rv: &str, owner: &str) -> (ObjectKey, Arc<ConfigMap>) {
        let mut cm = ConfigMap::default();
        cm.metadata.namespace = Some(ns.into());
        cm.metadata.name = Some(name.into());
        cm.metadata.resource_version = Some(rv.into());
        cm.metadata.owner_references = Some(vec![OwnerReference { uid: owner.into(), ..Default::default() }]);
        (ObjectKey::of(&cm), Arc::new(cm))
    }

    #[test]
    fn a_slow_reader_gets_the_last_state_once() {
        let c = cache();
        let (key, v1) = object("a", "x", "1", "o");
        c.shared.set(key.clone(), Some(v1), "");
        let mut changes = c.changes();
        let (_, v2) = object("a", "x", "2", "o");
        c.shared.set(key.clone(), Some(v2), "");
        let (_, v3) = object("a", "x", "3", "o");
        c.shared.set(key.clone(), Some(v3), "");
        let change = changes.try_next().unwrap();
        assert!(change.old.is_none());
        assert_eq!(change.new.unwrap().metadata.resource_version.as_deref(), Some("3"));
        assert!(changes.try_next().is_none());
        c.shared.set(key, None, "");
        let change = changes.try_next().unwrap();
        assert_eq!(change.old.unwrap().metadata.resource_version.as_deref(), Some("3"));
        assert!(change.new.is_none());
    }

    #[test]
    fn what_comes_and_goes_unread_is_not_told() {
        let c = cache();
        let mut changes = c.changes();
        let (key, v1) = object("a", "x", "1", "o");
        c.shared.set(key.clone(), Some(v1), "");
        c.shared.set(key, None, "");
        assert!(changes.try_next().is_none());
    }

    #[tokio::test]
    async fn a_new_list_removes_what_it_lacks_and_skips_what_is_the_same() {
        let c = cache();
        c.shared.replace([object("a", "x", "1", "o"), object("a", "y", "1", "o")].into(), "7");
        c.synced().await;
        let mut changes = c.changes();
        while changes.try_next().is_some() {}
        c.shared.replace([object("a", "y", "1", "o"), object("b", "z", "4", "o")].into(), "9");
        assert_eq!(c.revision(), 9);
        let told: Vec<_> =
            std::iter::from_fn(|| changes.try_next()).map(|c| (c.key.to_string(), c.new.is_some())).collect();
        assert_eq!(told, [("a/x".to_owned(), false), ("b/z".to_owned(), true)]);
        assert_eq!(c.list_in("a").len(), 1);
        assert_eq!(c.list_in("b").len(), 1);
        assert!(c.list_in("").is_empty());
    }

    #[test]
    fn indexes_follow_changes() {
        let c = cache();
        let (key, v1) = object("a", "x", "1", "one");
        c.shared.set(key.clone(), Some(v1), "");
        assert_eq!(c.owned_by("one").len(), 1);
        let by_rv = c.index(|o| o.metadata.resource_version.clone().into_iter().collect());
        let (_, v2) = object("a", "x", "2", "two");
        c.shared.set(key.clone(), Some(v2), "");
        assert!(c.owned_by("one").is_empty());
        assert_eq!(c.owned_by("two").len(), 1);
        assert!(by_rv.get("1").is_empty());
        assert_eq!(by_rv.get("2").len(), 1);
        c.shared.set(key, None, "");
        assert!(c.owned_by("two").is_empty());
    }
}
