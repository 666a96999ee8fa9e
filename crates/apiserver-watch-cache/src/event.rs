//! Events as watchers get them.

use std::sync::{Arc, OnceLock};

use bytes::Bytes;
use storage::Revision;

use crate::CachedObject;

/// What happened to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// It was created.
    Added,
    /// It was changed.
    Modified,
    /// It was deleted.
    Deleted,
}

impl EventKind {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// One change of one object, shared by all who watch it.
#[derive(Debug)]
pub struct CacheEvent {
    /// What happened.
    pub kind: EventKind,
    /// The object; when it was deleted, as it was last, with the deletion's revision.
    pub object: Arc<CachedObject>,
    /// The object before; `None` when it was created.
    pub previous: Option<Arc<CachedObject>>,
    /// The revision of the change.
    pub revision: Revision,
    /// The event's place in the order of all events of its cache.
    pub(crate) sequence: u64,
    frame: OnceLock<Bytes>,
}

impl CacheEvent {
    pub(crate) fn new(
        kind: EventKind,
        object: Arc<CachedObject>,
        previous: Option<Arc<CachedObject>>,
        sequence: u64,
    ) -> Self {
        let revision = object.revision;
        Self { kind, object, previous, revision, sequence, frame: OnceLock::new() }
    }

    /// The event as a line of a JSON watch: encoded by the first who asks, for all.
    pub fn frame(&self) -> &Bytes {
        self.frame.get_or_init(|| json_frame(self.kind, &self.object))
    }
}

/// An event as a line of a JSON watch.
pub fn json_frame(kind: EventKind, object: &CachedObject) -> Bytes {
    let mut out = Vec::with_capacity(object.json_len() + 40);
    out.extend_from_slice(br#"{"type":""#);
    out.extend_from_slice(kind.as_str().as_bytes());
    out.extend_from_slice(br#"","object":"#);
    object.write_json(&mut out);
    out.extend_from_slice(b"}\n");
    out.into()
}
