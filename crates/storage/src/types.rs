//! The words of the store: revisions, versions of a key, guards and their outcomes, events.

use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

/// A point in the store's history; every write makes the next one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// Before every write. Watching after it means "from the beginning".
    pub const ZERO: Self = Self(0);
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a lease, which deletes the keys attached to it when its time is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:x}", self.0)
    }
}

/// What is known of a lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LeaseInfo {
    /// Its name.
    pub id: LeaseId,
    /// The time it was made for.
    pub ttl: std::time::Duration,
    /// How much of that is left.
    pub left: std::time::Duration,
}

/// One version of a key.
///
/// Clones share key and value.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Arc<str>,
    /// The value, as it was put.
    pub value: Bytes,
    /// The revision that created the key, after the last time it was absent.
    pub create_revision: Revision,
    /// The revision that wrote this version.
    pub mod_revision: Revision,
    /// How often the key was put since it was created; 1 for a new key.
    pub version: u64,
    /// The lease that deletes the key.
    pub lease: Option<LeaseId>,
}

// Values are object bodies, secrets among them: never printed.
impl fmt::Debug for KeyValue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyValue")
            .field("key", &self.key)
            .field("value_len", &self.value.len())
            .field("create_revision", &self.create_revision.0)
            .field("mod_revision", &self.mod_revision.0)
            .field("version", &self.version)
            .field("lease", &self.lease)
            .finish()
    }
}

/// What a write demands of the key's present state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The key must not exist.
    Absent,
    /// The key's last write must have made this revision.
    At(Revision),
    /// Anything. A delete still finds nothing to delete when the key is absent.
    Any,
}

impl Expect {
    /// Whether a key in this state may be written.
    pub fn holds(self, current: Option<Revision>) -> bool {
        match self {
            Self::Absent => current.is_none(),
            Self::At(revision) => current == Some(revision),
            Self::Any => true,
        }
    }
}

/// What became of a put.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Written and durable.
    Done(KeyValue),
    /// The guard did not hold; nothing was written.
    Mismatch {
        /// The key as it is.
        current: Option<KeyValue>,
        /// The store's revision at which it is so.
        revision: Revision,
    },
}

/// What became of a delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeleteOutcome {
    /// Deleted and durable.
    Deleted {
        /// The last version of the key.
        prev: KeyValue,
        /// The revision of the deletion.
        revision: Revision,
    },
    /// The guard did not hold, or there was no such key; nothing was deleted.
    Mismatch {
        /// The key as it is.
        current: Option<KeyValue>,
        /// The store's revision at which it is so.
        revision: Revision,
    },
}

/// Which keys to read, and at which revision.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeRequest {
    /// The first key.
    pub start: String,
    /// The first key that is no longer part of the range; empty: no end.
    pub end: String,
    /// At most so many keys; 0: all.
    pub limit: usize,
    /// The revision to read at; `None`: the present one.
    pub at: Option<Revision>,
    /// Count without returning keys.
    pub count_only: bool,
}

impl RangeRequest {
    /// All keys that begin with `prefix`.
    pub fn prefix(prefix: &str) -> Self {
        Self { start: prefix.to_owned(), end: prefix_end(prefix), ..Self::default() }
    }

    /// The same range from just behind `key`, for the page after the one that ended with `key`.
    pub fn after(mut self, key: &str) -> Self {
        self.start = format!("{key}\0");
        self
    }

    /// The same range, at most `limit` keys.
    pub fn limit(mut self, limit: usize) -> Self {
        self.limit = limit;
        self
    }

    /// The same range at a revision.
    pub fn at(mut self, revision: Revision) -> Self {
        self.at = Some(revision);
        self
    }
}

/// The smallest key above all keys that begin with `prefix`; empty when there is none.
pub fn prefix_end(prefix: &str) -> String {
    let mut end: Vec<char> = prefix.chars().collect();
    while let Some(last) = end.pop() {
        // UTF-8 orders as code points do, so the next code point bounds the prefix; surrogates are not characters.
        let next = if last == '\u{D7FF}' { Some('\u{E000}') } else { char::from_u32(last as u32 + 1) };
        if let Some(next) = next {
            end.push(next);
            return end.into_iter().collect();
        }
    }
    String::new()
}

/// The keys a range read found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RangeResponse {
    /// The keys in order.
    pub kvs: Vec<KeyValue>,
    /// Whether the limit cut the range.
    pub more: bool,
    /// How many keys the whole range has, at the revision read.
    pub count: u64,
    /// The store's present revision (not the one that was asked for).
    pub revision: Revision,
}

/// One change of one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// The revision that made the change.
    pub revision: Revision,
    /// The key that changed.
    pub key: Arc<str>,
    /// The new version; `None`: the key was deleted.
    pub kv: Option<KeyValue>,
    /// The version before; `None`: the key was created.
    pub prev_kv: Option<KeyValue>,
}

impl Event {
    /// Whether the key was deleted.
    pub fn is_delete(&self) -> bool {
        self.kv.is_none()
    }

    /// Whether the key was created.
    pub fn is_create(&self) -> bool {
        self.kv.is_some() && self.prev_kv.is_none()
    }
}

/// Some consecutive events of a watch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WatchBatch {
    /// The events in the order of their revisions; empty in an answer to a request for progress.
    pub events: Vec<Arc<Event>>,
    /// Every event of the watch up to this revision has been delivered, this batch included.
    pub revision: Revision,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_prefix_is_the_next_key_outside_it() {
        assert_eq!(prefix_end("/registry/pods/"), "/registry/pods0");
        assert_eq!(prefix_end("a\u{D7FF}"), "a\u{E000}");
        assert_eq!(prefix_end("a\u{10FFFF}"), "b");
        assert_eq!(prefix_end("\u{10FFFF}"), "");
        assert_eq!(prefix_end(""), "");
    }

    #[test]
    fn values_are_not_printed() {
        let kv = KeyValue {
            key: "k".into(),
            value: Bytes::from_static(b"hunter2"),
            create_revision: Revision(1),
            mod_revision: Revision(1),
            version: 1,
            lease: None,
        };
        assert!(!format!("{kv:?}").contains("hunter2"));
    }
}
