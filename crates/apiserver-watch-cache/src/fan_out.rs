//! Watches of a cache: each event goes to those it concerns, and nobody else is woken.
//!
//! A watch buffers a bounded number of events. When its reader is too slow for that, it goes on from the ring; when it
//! is too slow even for the ring, it ends with [`Error::Expired`]. Nobody waits for anybody.

use std::borrow::Cow;
use std::collections::{HashMap, VecDeque};
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures::task::AtomicWaker;
use storage::{PrefixMap, Revision};

use crate::cache::{Inner, State};
use crate::ring::Ring;
use crate::{CacheEvent, CachedObject, Error};

/// The events of one batch.
const BATCH: usize = 256;
/// The bytes of objects in one batch, about.
const BATCH_BYTES: usize = 1 << 20;
/// The events of the ring looked at in one go.
const STEPS: usize = 2048;

/// Which events a watch gets. It may be more than its reader is interested in, never less.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scope {
    prefix: Arc<str>,
    field: Option<(Cow<'static, str>, String)>,
}

impl Scope {
    /// Objects whose key begins so.
    pub fn prefix(prefix: impl Into<Arc<str>>) -> Self {
        Self { prefix: prefix.into(), field: None }
    }

    /// Of these, only objects one of whose selectable fields has this value, or had it before the event. Watches of
    /// this sort cost nothing when an event does not concern them, however many there are: a node's watch of its pods.
    pub fn field(mut self, name: impl Into<Cow<'static, str>>, value: impl Into<String>) -> Self {
        self.field = Some((name.into(), value.into()));
        self
    }

    fn covers(&self, event: &CacheEvent) -> bool {
        let field = |object: &CachedObject| {
            self.field.as_ref().is_none_or(|(name, value)| object.facts.field(name) == Some(value))
        };
        event.object.key.starts_with(&*self.prefix)
            && (field(&event.object) || event.previous.as_ref().is_some_and(|previous| field(previous)))
    }
}

/// Everybody who watches the cache.
#[derive(Default)]
pub(crate) struct Watchers {
    by_prefix: PrefixMap<Vec<Arc<Watcher>>>,
    by_field: HashMap<Cow<'static, str>, HashMap<String, Vec<Arc<Watcher>>>>,
}

pub(crate) struct Watcher {
    scope: Scope,
    /// Events up to here are not wanted.
    after: Revision,
    buffer: usize,
    buffer_bytes: usize,
    queue: Mutex<Queue>,
    waker: AtomicWaker,
}

struct Queue {
    events: VecDeque<Arc<CacheEvent>>,
    /// Bytes of the objects in `events`.
    bytes: usize,
    /// Every event before this one was delivered, is buffered, or is not wanted.
    next: u64,
    /// Whether events from `next` on have to be taken from the ring.
    behind: bool,
    ended: Option<Error>,
}

impl Watcher {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wants(&self, event: &CacheEvent) -> bool {
        event.revision > self.after && self.scope.covers(event)
    }

    /// Buffers an event; whether the reader has to be woken.
    fn push(&self, event: &Arc<CacheEvent>) -> bool {
        let mut queue = self.queue();
        if queue.behind || event.sequence < queue.next || !self.wants(event) {
            return false;
        }
        let full = queue.bytes >= self.buffer_bytes || queue.events.len() >= self.buffer;
        if full && !queue.events.is_empty() {
            queue.next = queue.events.front().map_or(event.sequence, |first| first.sequence);
            queue.events = VecDeque::new();
            queue.bytes = 0;
            queue.behind = true;
            return false;
        }
        queue.next = event.sequence + 1;
        queue.bytes += event.object.value.len();
        queue.events.push_back(event.clone());
        queue.events.len() == 1
    }

    fn end(&self, error: &Error) {
        self.queue().ended.get_or_insert_with(|| error.clone());
        self.waker.wake();
    }
}

impl Watchers {
    /// Buffers an event for those it concerns; collects whom to wake.
    pub(crate) fn publish(&self, event: &Arc<CacheEvent>, woken: &mut Vec<Arc<Watcher>>) {
        let mut offer = |watchers: &Vec<Arc<Watcher>>| {
            for watcher in watchers {
                if watcher.push(event) {
                    woken.push(watcher.clone());
                }
            }
        };
        if !self.by_prefix.is_empty() {
            self.by_prefix.prefixes_of(&event.object.key, &mut offer);
        }
        if !self.by_field.is_empty() {
            for object in [Some(&event.object), event.previous.as_ref()].into_iter().flatten() {
                for (name, value) in &object.facts.fields {
                    if let Some(watchers) = self.by_field.get(name).and_then(|values| values.get(value)) {
                        offer(watchers);
                    }
                }
            }
        }
    }

    fn add(&mut self, watcher: &Arc<Watcher>) {
        let watchers = match &watcher.scope.field {
            None => self.by_prefix.entry(watcher.scope.prefix.clone()),
            Some((name, value)) => {
                self.by_field.entry(name.clone()).or_default().entry(value.clone()).or_default()
            }
        };
        watchers.push(watcher.clone());
    }

    fn remove(&mut self, watcher: &Arc<Watcher>) {
        let without = |watchers: &mut Vec<Arc<Watcher>>| {
            watchers.retain(|other| !Arc::ptr_eq(other, watcher));
            watchers.is_empty()
        };
        match &watcher.scope.field {
            None => {
                if self.by_prefix.get_mut(&watcher.scope.prefix).is_some_and(without) {
                    self.by_prefix.remove(&watcher.scope.prefix);
                }
            }
            Some((name, value)) => {
                if let Some(values) = self.by_field.get_mut(name) {
                    if values.get_mut(value).is_some_and(without) {
                        values.remove(value);
                    }
                    if values.is_empty() {
                        self.by_field.remove(name);
                    }
                }
            }
        }
    }

    /// Ends every watch.
    pub(crate) fn end(&self, error: &Error) {
        let by_field = self.by_field.values().flat_map(HashMap::values);
        for watcher in self.by_prefix.values().chain(by_field).flatten() {
            watcher.end(error);
        }
    }
}

pub(crate) fn wake(woken: Vec<Arc<Watcher>>) {
    for watcher in woken {
        watcher.waker.wake();
    }
}

/// The events of a watch, in order, none missing and none twice.
pub struct Watch {
    inner: Arc<Inner>,
    watcher: Arc<Watcher>,
}

impl Watch {
    /// Begins with the event of this sequence number; nothing up to the revision is delivered.
    pub(crate) fn begin(
        inner: &Arc<Inner>,
        state: &mut State,
        scope: Scope,
        after: Revision,
        next: u64,
    ) -> Self {
        let behind = next < state.ring.next();
        let queue = Queue { events: VecDeque::new(), bytes: 0, next, behind, ended: inner.ended() };
        let watcher = Arc::new(Watcher {
            scope,
            after,
            buffer: inner.limits.buffer,
            buffer_bytes: inner.limits.buffer_bytes,
            queue: Mutex::new(queue),
            waker: AtomicWaker::new(),
        });
        state.watchers.add(&watcher);
        Self { inner: inner.clone(), watcher }
    }

    /// Waits for the next events.
    pub async fn next_batch(&mut self) -> Result<Vec<Arc<CacheEvent>>, Error> {
        poll_fn(|cx| self.poll_batch(cx)).await
    }

    /// Polls for the next events; a batch is never empty. After an error there is nothing more.
    pub fn poll_batch(&mut self, cx: &mut Context<'_>) -> Poll<Result<Vec<Arc<CacheEvent>>, Error>> {
        self.watcher.waker.register(cx.waker());
        loop {
            {
                let mut queue = self.watcher.queue();
                if !queue.events.is_empty() {
                    let mut bytes = 0;
                    let fits = |event: &&Arc<CacheEvent>| {
                        let before = bytes;
                        bytes += event.object.value.len();
                        before < BATCH_BYTES
                    };
                    let take = queue.events.iter().take(BATCH).take_while(fits).count();
                    let events: Vec<_> = queue.events.drain(..take).collect();
                    queue.bytes -= events.iter().map(|event| event.object.value.len()).sum::<usize>();
                    if queue.events.is_empty() && queue.events.capacity() > BATCH / 4 {
                        queue.events = VecDeque::new();
                    }
                    return Poll::Ready(Ok(events));
                }
                if let Some(error) = &queue.ended {
                    return Poll::Ready(Err(error.clone()));
                }
                if !queue.behind {
                    return Poll::Pending;
                }
            }
            // With the state in hand nothing can be added to the ring or the buffer.
            let state = self.inner.state();
            let mut queue = self.watcher.queue();
            match Self::catch_up(&self.watcher, &state.ring, &mut queue) {
                Ok(events) if events.is_empty() => {}
                Ok(events) => return Poll::Ready(Ok(events)),
                Err(error) => queue.ended = Some(error),
            }
        }
    }

    fn catch_up(watcher: &Watcher, ring: &Ring, queue: &mut Queue) -> Result<Vec<Arc<CacheEvent>>, Error> {
        let Some(events) = ring.from(queue.next) else {
            return Err(Error::Expired { oldest: ring.floor() });
        };
        let (mut found, mut bytes) = (Vec::new(), 0);
        for event in events.take(STEPS) {
            queue.next = event.sequence + 1;
            if watcher.wants(event) {
                found.push(event.clone());
                bytes += event.object.value.len();
                if found.len() >= BATCH || bytes >= BATCH_BYTES {
                    break;
                }
            }
        }
        queue.behind = queue.next < ring.next();
        Ok(found)
    }

    /// The revision up to which everything was delivered, when that is all there is: what a bookmark may say. `None`
    /// when there are events to deliver first.
    ///
    /// Follow [`Cache::refresh`](crate::Cache::refresh) to have it tell the storage's present revision.
    pub fn bookmark(&self) -> Option<Revision> {
        let state = self.inner.state();
        let queue = self.watcher.queue();
        let done = queue.events.is_empty() && !queue.behind && queue.ended.is_none();
        done.then(|| state.revision.max(self.watcher.after))
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.inner.state_mut().watchers.remove(&self.watcher);
    }
}
