//! All keys and their recent versions in memory: what reads and watches are answered from.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use crate::{Error, Event, KeyValue, LeaseId, Revision};

/// What a version costs besides its key and value; an estimate, for bounding the history.
const OVERHEAD: u64 = 96;

/// One version of a key, the key left out.
#[derive(Clone, Debug)]
pub(super) struct Version {
    pub create: u64,
    pub revision: u64,
    pub version: u64,
    pub lease: Option<LeaseId>,
    /// `None`: the key was deleted at this revision.
    pub value: Option<Bytes>,
}

impl Version {
    fn key_value(&self, key: &Arc<str>) -> Option<KeyValue> {
        Some(KeyValue {
            key: key.clone(),
            value: self.value.clone()?,
            create_revision: Revision(self.create),
            mod_revision: Revision(self.revision),
            version: self.version,
            lease: self.lease,
        })
    }

    fn cost(&self) -> u64 {
        self.value.as_ref().map_or(0, Bytes::len) as u64 + OVERHEAD
    }
}

/// The versions of a key that are kept, the oldest first in `older`.
#[derive(Debug)]
struct History {
    latest: Version,
    older: Vec<Version>,
}

impl History {
    fn at(&self, revision: u64) -> Option<&Version> {
        if self.latest.revision <= revision {
            return Some(&self.latest);
        }
        self.older.iter().rev().find(|version| version.revision <= revision)
    }

    /// The version a revision wrote and the one before it.
    fn written_by(&self, revision: u64) -> Option<(&Version, Option<&Version>)> {
        if self.latest.revision == revision {
            return Some((&self.latest, self.older.last()));
        }
        let at = self.older.binary_search_by_key(&revision, |version| version.revision).ok()?;
        Some((&self.older[at], at.checked_sub(1).map(|before| &self.older[before])))
    }
}

/// A write that has become durable.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub key: Arc<str>,
    pub version: Version,
}

/// Some keys of a range, and where to go on.
pub(super) struct Chunk {
    pub kvs: Vec<KeyValue>,
    /// The last key looked at, when there may be more.
    pub resume: Option<Arc<str>>,
    /// How many keys existed among those looked at, whether or not they were collected.
    pub count: u64,
}

/// Keys, versions and the order of changes since the last compaction.
#[derive(Default)]
pub(super) struct Index {
    keys: BTreeMap<Arc<str>, History>,
    /// Which key each kept revision changed.
    changes: VecDeque<(u64, Arc<str>)>,
    revision: u64,
    /// The oldest revision that can be read.
    compacted: u64,
    live_keys: u64,
    live_bytes: u64,
    history_bytes: u64,
    /// Revisions that readers are in the middle of reading, with their number.
    pins: Mutex<BTreeMap<u64, usize>>,
}

impl Index {
    pub(super) fn new(revision: u64, compacted: u64) -> Self {
        Self { revision, compacted, ..Self::default() }
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn compacted(&self) -> u64 {
        self.compacted
    }

    pub(super) fn live_keys(&self) -> u64 {
        self.live_keys
    }

    pub(super) fn live_bytes(&self) -> u64 {
        self.live_bytes
    }

    pub(super) fn history_bytes(&self) -> u64 {
        self.history_bytes
    }

    /// The revision in the middle of the kept history, for halving it.
    pub(super) fn middle(&self) -> u64 {
        self.changes.get(self.changes.len() / 2).map_or(self.revision, |change| change.0)
    }

    /// Takes a key as a snapshot has it: without history.
    pub(super) fn load(&mut self, key: Arc<str>, version: Version) {
        self.live_keys += 1;
        self.live_bytes += version.cost() + key.len() as u64;
        self.keys.insert(key, History { latest: version, older: Vec::new() });
    }

    /// Takes the next change; tells the version it replaced.
    pub(super) fn apply(&mut self, change: Change) -> Option<KeyValue> {
        let Change { key, version } = change;
        debug_assert_eq!(version.revision, self.revision + 1);
        self.revision = version.revision;
        self.changes.push_back((version.revision, key.clone()));
        let cost = version.cost() + key.len() as u64;
        let live = version.value.is_some();
        if live {
            self.live_keys += 1;
            self.live_bytes += cost;
        } else {
            self.history_bytes += cost;
        }
        match self.keys.get_mut(&key) {
            None => {
                self.keys.insert(key, History { latest: version, older: Vec::new() });
                None
            }
            Some(history) => {
                let before = std::mem::replace(&mut history.latest, version);
                let prev = before.key_value(&key);
                if prev.is_some() {
                    let cost = before.cost() + key.len() as u64;
                    self.live_keys -= 1;
                    self.live_bytes -= cost;
                    self.history_bytes += cost;
                }
                history.older.push(before);
                prev
            }
        }
    }

    /// The present version of a key.
    pub(super) fn current(&self, key: &str) -> Option<KeyValue> {
        let (key, history) = self.keys.get_key_value(key)?;
        history.latest.key_value(key)
    }

    /// A key at a revision that [`Index::readable`] has allowed.
    pub(super) fn get(&self, key: &str, at: u64) -> Option<KeyValue> {
        let (key, history) = self.keys.get_key_value(key)?;
        history.at(at)?.key_value(key)
    }

    /// The revision to read at, when it can be read.
    pub(super) fn readable(&self, at: Option<Revision>) -> Result<u64, Error> {
        match at {
            None => Ok(self.revision),
            Some(at) if at.0 > self.revision => {
                Err(Error::FutureRevision { requested: at, current: Revision(self.revision) })
            }
            Some(at) if at.0 < self.compacted => {
                Err(Error::Compacted { requested: at, compacted: Revision(self.compacted) })
            }
            Some(at) => Ok(at.0),
        }
    }

    /// Reads up to `steps` keys of a range at a revision, collecting at most `collect` of them and at most `bytes`
    /// bytes of values (but at least one).
    pub(super) fn chunk(
        &self,
        from: Bound<&str>,
        end: &str,
        at: u64,
        steps: usize,
        collect: usize,
        bytes: usize,
    ) -> Chunk {
        let mut chunk = Chunk { kvs: Vec::new(), resume: None, count: 0 };
        if !end.is_empty() && matches!(from, Bound::Included(start) | Bound::Excluded(start) if start >= end)
        {
            return chunk;
        }
        let to = if end.is_empty() { Bound::Unbounded } else { Bound::Excluded(end) };
        let mut taken = 0;
        for (step, (key, history)) in self.keys.range::<str, _>((from, to)).enumerate() {
            if let Some(version) = history.at(at)
                && let Some(value) = &version.value
            {
                chunk.count += 1;
                if chunk.kvs.len() < collect {
                    taken += value.len();
                    chunk.kvs.extend(version.key_value(key));
                }
            }
            if step + 1 >= steps || taken >= bytes {
                chunk.resume = Some(key.clone());
                break;
            }
        }
        chunk
    }

    /// The present versions of the keys of a range without an end.
    pub(super) fn live_from<'a>(&'a self, from: Bound<&'a str>) -> impl Iterator<Item = KeyValue> + 'a {
        let keys = self.keys.range::<str, _>((from, Bound::Unbounded));
        keys.filter_map(|(key, history)| history.latest.key_value(key))
    }

    /// The events above a revision of keys with a prefix, from at most `steps` changes; and up to which revision the
    /// changes were looked at.
    pub(super) fn events(
        &self,
        after: u64,
        prefix: &str,
        steps: usize,
    ) -> Result<(Vec<Arc<Event>>, u64), Error> {
        if after < self.compacted {
            return Err(Error::Compacted { requested: Revision(after), compacted: Revision(self.compacted) });
        }
        let first = self.changes.partition_point(|change| change.0 <= after);
        let mut events = Vec::new();
        let mut seen = after.max(self.revision);
        for (step, (revision, key)) in self.changes.range(first..).enumerate() {
            if step >= steps {
                seen = revision - 1;
                break;
            }
            if key.starts_with(prefix) {
                events.extend(self.event(*revision, key).map(Arc::new));
            }
        }
        Ok((events, seen))
    }

    fn event(&self, revision: u64, key: &Arc<str>) -> Option<Event> {
        let (version, before) = self.keys.get(key)?.written_by(revision)?;
        Some(Event {
            revision: Revision(revision),
            key: key.clone(),
            kv: version.key_value(key),
            prev_kv: before.and_then(|before| before.key_value(key)),
        })
    }

    /// Makes a revision the oldest one that can be read. [`Index::sweep`] frees what that allows.
    pub(super) fn compact(&mut self, at: u64) {
        self.compacted = self.compacted.max(at.min(self.revision));
    }

    /// Whether there are versions that no reader can ask for.
    pub(super) fn sweepable(&self) -> bool {
        let floor = self.floor();
        self.changes.front().is_some_and(|change| change.0 <= floor)
    }

    /// Whether everything the last compaction allows to forget has been freed.
    pub(super) fn swept(&self) -> bool {
        self.changes.front().is_none_or(|change| change.0 > self.compacted)
    }

    /// Frees versions that no reader can ask for, those of at most `steps` changes.
    pub(super) fn sweep(&mut self, steps: usize) {
        let floor = self.floor();
        for _ in 0..steps {
            match self.changes.front() {
                Some((revision, _)) if *revision <= floor => {}
                _ => break,
            }
            if let Some((_, key)) = self.changes.pop_front() {
                self.free(&key, floor);
            }
        }
        if self.changes.capacity() > 1024 && self.changes.len() < self.changes.capacity() / 4 {
            self.changes.shrink_to(self.changes.len() * 2);
        }
    }

    fn free(&mut self, key: &Arc<str>, floor: u64) {
        let Some(history) = self.keys.get_mut(key) else { return };
        // What the newest version at or below the floor replaced can no longer be read.
        let keep = if history.latest.revision <= floor {
            history.older.len()
        } else {
            history.older.partition_point(|version| version.revision <= floor).saturating_sub(1)
        };
        for version in history.older.drain(..keep) {
            self.history_bytes -= version.cost() + key.len() as u64;
        }
        if history.older.is_empty() {
            history.older = Vec::new();
            if history.latest.value.is_none() && history.latest.revision <= floor {
                self.history_bytes -= history.latest.cost() + key.len() as u64;
                self.keys.remove(key);
            }
        } else if history.older[0].value.is_none() && history.older[0].revision <= floor {
            let deleted = history.older.remove(0);
            self.history_bytes -= deleted.cost() + key.len() as u64;
        }
    }

    /// The oldest revision that somebody may still read.
    fn floor(&self) -> u64 {
        let pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        pins.first_key_value().map_or(self.compacted, |(pinned, _)| self.compacted.min(*pinned))
    }

    /// Keeps what a reader at this revision needs, over compactions, until [`Index::unpin`].
    pub(super) fn pin(&self, revision: u64) {
        *self.pins.lock().unwrap_or_else(PoisonError::into_inner).entry(revision).or_default() += 1;
    }

    pub(super) fn unpin(&self, revision: u64) {
        let mut pins = self.pins.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = pins.get_mut(&revision) {
            *count -= 1;
            if *count == 0 {
                pins.remove(&revision);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(index: &mut Index, key: &str, value: &'static [u8]) {
        let revision = index.revision() + 1;
        let before = index.current(key);
        let version = Version {
            create: before.as_ref().map_or(revision, |kv| kv.create_revision.0),
            revision,
            version: before.map_or(1, |kv| kv.version + 1),
            lease: None,
            value: Some(Bytes::from_static(value)),
        };
        index.apply(Change { key: key.into(), version });
    }

    fn delete(index: &mut Index, key: &str) {
        let revision = index.revision() + 1;
        let version = Version { create: 0, revision, version: 0, lease: None, value: None };
        index.apply(Change { key: key.into(), version });
    }

    fn value(index: &Index, key: &str, at: u64) -> Option<Bytes> {
        index.get(key, at).map(|kv| kv.value)
    }

    #[test]
    fn sweeping_keeps_what_the_oldest_revision_shows() {
        let mut index = Index::new(1, 1);
        put(&mut index, "a", b"2");
        put(&mut index, "a", b"3");
        delete(&mut index, "a");
        put(&mut index, "a", b"5");
        put(&mut index, "b", b"6");
        delete(&mut index, "b");
        index.compact(3);
        index.sweep(100);
        assert_eq!(value(&index, "a", 3).as_deref(), Some(&b"3"[..]));
        assert_eq!(value(&index, "a", 4), None);
        assert_eq!(value(&index, "a", 5).as_deref(), Some(&b"5"[..]));
        assert!(matches!(index.readable(Some(Revision(2))), Err(Error::Compacted { .. })));
        index.compact(7);
        index.sweep(100);
        assert_eq!(value(&index, "a", 7).as_deref(), Some(&b"5"[..]));
        assert_eq!(index.history_bytes(), 0);
        assert_eq!(index.keys.len(), 1, "a deleted key leaves nothing behind");
        assert!(!index.sweepable());
    }

    #[test]
    fn a_pinned_revision_survives_compaction() {
        let mut index = Index::new(1, 1);
        put(&mut index, "a", b"2");
        put(&mut index, "a", b"3");
        index.pin(2);
        index.compact(3);
        index.sweep(100);
        assert_eq!(value(&index, "a", 2).as_deref(), Some(&b"2"[..]));
        index.unpin(2);
        index.sweep(100);
        assert_eq!(value(&index, "a", 2), None);
    }

    #[test]
    fn events_tell_what_was_before() {
        let mut index = Index::new(1, 1);
        put(&mut index, "a", b"2");
        put(&mut index, "b", b"3");
        put(&mut index, "a", b"4");
        delete(&mut index, "a");
        put(&mut index, "a", b"6");
        let (events, seen) = index.events(1, "a", 100).expect("not compacted");
        assert_eq!(seen, 6);
        let told: Vec<_> = events
            .iter()
            .map(|event| {
                (event.revision.0, event.kv.is_some(), event.prev_kv.as_ref().map(|kv| kv.mod_revision.0))
            })
            .collect();
        assert_eq!(told, [(2, true, None), (4, true, Some(2)), (5, false, Some(4)), (6, true, None)]);
        let (events, seen) = index.events(1, "a", 2).expect("not compacted");
        assert_eq!((events.len(), seen), (1, 3));
    }
}
