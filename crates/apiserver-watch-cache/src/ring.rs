//! The recent events, bounded by number, bytes and age: what watches resume from and old snapshots are rebuilt from.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use storage::Revision;

use crate::cache::Limits;
use crate::map::OrderedMap;
use crate::{CacheEvent, CachedObject, EventKind};

/// The recent events in order.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    events: VecDeque<(Instant, Arc<CacheEvent>)>,
    bytes: usize,
    /// The sequence number of the next event.
    next: u64,
    /// Every event above this revision is here.
    floor: Revision,
}

impl Ring {
    /// The sequence number of the next event.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// The sequence number of the oldest event, or of the next one.
    pub(crate) fn first(&self) -> u64 {
        self.next - self.events.len() as u64
    }

    /// Every event above this revision is here.
    pub(crate) fn floor(&self) -> Revision {
        self.floor
    }

    /// Adds the next event, whose sequence number has to be [`Ring::next`].
    pub(crate) fn push(&mut self, event: Arc<CacheEvent>, now: Instant, limits: &Limits) {
        debug_assert_eq!(event.sequence, self.next);
        self.next += 1;
        self.bytes += event.object.value.len();
        self.events.push_back((now, event));
        while let Some((at, _)) = self.events.front() {
            let len = self.events.len();
            let old = len > limits.events_at_least && now.duration_since(*at) > limits.age;
            if !old && len <= limits.events && self.bytes <= limits.bytes {
                break;
            }
            if let Some((_, event)) = self.events.pop_front() {
                self.bytes -= event.object.value.len();
                self.floor = self.floor.max(event.revision);
            }
        }
        if self.events.capacity() > 1024 && self.events.len() < self.events.capacity() / 4 {
            self.events.shrink_to(self.events.len() * 2);
        }
    }

    /// Forgets everything; whoever resumes has to have seen `floor`.
    pub(crate) fn restart(&mut self, floor: Revision) {
        self.events = VecDeque::new();
        self.bytes = 0;
        self.floor = floor;
    }

    /// The events from a sequence number on; `None` when some of them are gone.
    pub(crate) fn from(&self, sequence: u64) -> Option<impl Iterator<Item = &Arc<CacheEvent>>> {
        let skip = usize::try_from(sequence.checked_sub(self.first())?).ok()?.min(self.events.len());
        Some(self.events.range(skip..).map(|(_, event)| event))
    }

    /// The sequence number of the first event above a revision; `None` when some of them are gone.
    pub(crate) fn after(&self, revision: Revision) -> Option<u64> {
        if revision < self.floor {
            return None;
        }
        Some(self.first() + self.events.partition_point(|(_, event)| event.revision <= revision) as u64)
    }
}

/// Takes back events, given from the newest to the oldest.
pub(crate) fn undo<'a>(
    objects: &mut OrderedMap<Arc<CachedObject>>,
    events: impl DoubleEndedIterator<Item = &'a Arc<CacheEvent>>,
) {
    for event in events.rev() {
        match (&event.previous, event.kind) {
            (Some(previous), EventKind::Modified | EventKind::Deleted) => {
                drop(objects.insert(previous.clone()))
            }
            _ => drop(objects.remove(&event.object.key)),
        }
    }
}
