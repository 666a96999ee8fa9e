//! Watches: the writer puts each event into the buffers of those who watch its key, and wakes nobody else.
//!
//! A buffer is bounded. When it is full it is thrown away and the watch goes on from the index, which has every event
//! since the last compaction, until it has caught up. So a slow reader costs nobody anything and misses nothing,
//! unless compaction overtakes it.
//!
//! Locks, the waker and what is beyond this file come from the module above, since the tests also build it over loom,
//! which tries every order in which threads can meet here.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, PoisonError};
use std::task::{Context, Poll};

use futures::Stream;

use super::sync::{AtomicWaker, Mutex, MutexGuard, RwLockReadGuard};
use super::{Error, Event, Index, PrefixMap, Progress, Revision, Shared, WATCH_BUFFER, WatchBatch};

/// The events of one batch.
const BATCH: usize = 256;
/// The changes looked at in the index at a time.
const STEPS: usize = 2048;

/// Everybody who watches, by prefix.
#[derive(Default)]
pub(super) struct Watchers {
    by_prefix: Mutex<PrefixMap<Vec<Arc<Watcher>>>>,
}

/// One watch, as the writer sees it.
pub(super) struct Watcher {
    prefix: Arc<str>,
    queue: Mutex<Queue>,
    waker: AtomicWaker,
}

struct Queue {
    events: VecDeque<Arc<Event>>,
    /// Every event up to here was delivered, or is not wanted.
    delivered: u64,
    /// Whether events above `delivered` have to be looked up in the index before new ones can be buffered.
    behind: bool,
    progress: bool,
    closed: bool,
}

impl Watcher {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Progress for Watcher {
    fn request(&self) {
        self.queue().progress = true;
        self.waker.wake();
    }
}

impl Watchers {
    fn lock(&self) -> MutexGuard<'_, PrefixMap<Vec<Arc<Watcher>>>> {
        self.by_prefix.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Buffers the events of a chunk of changes for those who watch their keys; collects whom to wake. The caller
    /// holds the index for writing, so that the index and the buffers always tell of the same revision.
    pub(super) fn publish(&self, events: Vec<Event>, woken: &mut Vec<Arc<Watcher>>) {
        let by_prefix = self.lock();
        if by_prefix.is_empty() {
            return;
        }
        for event in events {
            let event = Arc::new(event);
            by_prefix.prefixes_of(&event.key, |watchers| {
                for watcher in watchers {
                    let mut queue = watcher.queue();
                    if queue.behind || event.revision.0 <= queue.delivered {
                        continue;
                    }
                    if queue.events.len() >= WATCH_BUFFER {
                        queue.events = VecDeque::new();
                        queue.behind = true;
                        continue;
                    }
                    if queue.events.is_empty() {
                        woken.push(watcher.clone());
                    }
                    queue.events.push_back(event.clone());
                }
            });
        }
    }

    /// Ends every watch.
    pub(super) fn close(&self) {
        for watcher in self.lock().values().flatten() {
            watcher.queue().closed = true;
            watcher.waker.wake();
        }
    }
}

pub(super) fn wake(woken: Vec<Arc<Watcher>>) {
    for watcher in woken {
        watcher.waker.wake();
    }
}

/// The reader's end of a watch.
pub(super) struct Batches {
    shared: Arc<Shared>,
    watcher: Arc<Watcher>,
    ended: bool,
}

impl Batches {
    /// Begins a watch.
    pub(super) fn new(shared: Arc<Shared>, prefix: &str, after: Revision) -> Result<Self, Error> {
        let index = shared.index();
        if after.0 < index.compacted() {
            return Err(Error::Compacted { requested: after, compacted: Revision(index.compacted()) });
        }
        let prefix: Arc<str> = prefix.into();
        let queue = Queue {
            events: VecDeque::new(),
            delivered: after.0,
            behind: after.0 < index.revision(),
            progress: false,
            closed: false,
        };
        let watcher =
            Arc::new(Watcher { prefix: prefix.clone(), queue: Mutex::new(queue), waker: AtomicWaker::new() });
        shared.watchers.lock().entry(prefix).push(watcher.clone());
        drop(index);
        Ok(Self { shared, watcher, ended: false })
    }

    pub(super) fn progress(&self) -> Arc<dyn Progress> {
        self.watcher.clone()
    }

    fn step(&self) -> Option<Result<WatchBatch, Error>> {
        {
            let mut queue = self.watcher.queue();
            if queue.closed {
                return Some(Err(Error::Closed));
            }
            if !queue.events.is_empty() {
                let take = queue.events.len().min(BATCH);
                let events: Vec<_> = queue.events.drain(..take).collect();
                if queue.events.is_empty() && queue.events.capacity() > BATCH {
                    queue.events = VecDeque::new();
                }
                if let Some(last) = events.last() {
                    queue.delivered = last.revision.0;
                }
                return Some(Ok(WatchBatch { events, revision: Revision(queue.delivered) }));
            }
            if !queue.behind && !queue.progress {
                return None;
            }
        }
        // With the index in hand the writer cannot add to the buffer.
        let index = self.shared.index();
        let mut queue = self.watcher.queue();
        if !queue.events.is_empty() {
            drop(queue);
            drop(index);
            return self.step();
        }
        if queue.behind {
            Self::catch_up(&self.watcher.prefix, &index, &mut queue)
        } else {
            Self::answer(&index, &mut queue)
        }
    }

    fn catch_up(
        prefix: &str,
        index: &RwLockReadGuard<'_, Index>,
        queue: &mut Queue,
    ) -> Option<Result<WatchBatch, Error>> {
        match index.events(queue.delivered, prefix, STEPS) {
            Ok((events, seen)) => {
                queue.delivered = seen;
                queue.behind = seen < index.revision();
                if !queue.behind {
                    queue.progress = false;
                }
                Some(Ok(WatchBatch { events, revision: Revision(seen) }))
            }
            Err(error) => Some(Err(error)),
        }
    }

    fn answer(index: &RwLockReadGuard<'_, Index>, queue: &mut Queue) -> Option<Result<WatchBatch, Error>> {
        queue.progress = false;
        queue.delivered = queue.delivered.max(index.revision());
        Some(Ok(WatchBatch { events: Vec::new(), revision: Revision(queue.delivered) }))
    }
}

impl Stream for Batches {
    type Item = Result<WatchBatch, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.ended {
            return Poll::Ready(None);
        }
        self.watcher.waker.register(cx.waker());
        match self.step() {
            Some(Err(error)) => {
                self.ended = true;
                Poll::Ready(Some(Err(error)))
            }
            Some(batch) => Poll::Ready(Some(batch)),
            None => Poll::Pending,
        }
    }
}

impl Drop for Batches {
    fn drop(&mut self) {
        let mut by_prefix = self.shared.watchers.lock();
        if let Some(watchers) = by_prefix.get_mut(&self.watcher.prefix) {
            watchers.retain(|watcher| !Arc::ptr_eq(watcher, &self.watcher));
            if watchers.is_empty() {
                by_prefix.remove(&self.watcher.prefix);
            }
        }
    }
}
