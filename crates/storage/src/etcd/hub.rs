//! One feed for all watches of the process: recent events in one ring, from which each watch takes what is its own.
//!
//! A watch that is behind the ring reads a feed of its own until it is in it. So a slow reader costs nobody anything,
//! and misses nothing unless compaction overtakes it.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tracing::{info, warn};

use super::client::Client;
use super::feed::{Chunk, Feed};
use super::names::Names;
use crate::{Error, Event, PrefixMap, Progress, Revision, WatchBatch};

/// The events of one batch, unless one revision has more.
const BATCH: usize = 256;
/// The events of the ring looked at in one go.
const STEPS: usize = 4096;

/// What the ring may hold.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) events: usize,
    pub(super) bytes: usize,
}

/// All watches.
pub(super) struct Hub {
    client: Arc<Client>,
    names: Names,
    limits: Limits,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Every event up to here has been put into the ring.
    position: u64,
    /// The ring has every event above this.
    floor: u64,
    ring: VecDeque<Arc<Event>>,
    bytes: usize,
    by_prefix: PrefixMap<Vec<u64>>,
    watchers: HashMap<u64, Watcher>,
    next: u64,
    /// Watchers that asked how far they are.
    asking: Vec<u64>,
    /// Why there is no feed now.
    broken: Option<Arc<str>>,
    /// Why there will be none.
    ended: Option<Error>,
}

struct Watcher {
    prefix: Arc<str>,
    wake: Arc<Notify>,
    /// Every event up to here was delivered or is not wanted.
    delivered: u64,
    /// Whether there may be wanted events in the ring.
    pending: bool,
    /// Wants a batch that reaches this revision, with events or without.
    asked: Option<u64>,
    /// Whether it reads a feed of its own.
    apart: bool,
    lost: Option<Error>,
}

fn size(event: &Event) -> usize {
    let value = |kv: &Option<crate::KeyValue>| kv.as_ref().map_or(0, |kv| kv.value.len());
    value(&event.kv) + value(&event.prev_kv) + 2 * event.key.len() + 200
}

impl State {
    fn push(&mut self, chunk: Chunk, limits: Limits) {
        for event in chunk.events {
            self.bytes += size(&event);
            let event = Arc::new(event);
            let watchers = &mut self.watchers;
            self.by_prefix.prefixes_of(&event.key, |numbers| {
                for number in numbers {
                    let Some(watcher) = watchers.get_mut(number) else { continue };
                    if !watcher.apart && event.revision.0 > watcher.delivered && !watcher.pending {
                        watcher.pending = true;
                        // Nothing in between was wanted.
                        watcher.delivered = watcher.delivered.max(event.revision.0 - 1);
                        watcher.wake.notify_one();
                    }
                }
            });
            self.ring.push_back(event);
        }
        self.position = self.position.max(chunk.revision);
        self.trim(limits);
        let position = self.position;
        let watchers = &self.watchers;
        self.asking.retain(|number| match watchers.get(number) {
            Some(watcher) if watcher.asked.is_some_and(|asked| asked > position) => true,
            Some(watcher) => {
                watcher.wake.notify_one();
                false
            }
            None => false,
        });
    }

    /// Drops the oldest events, whole revisions of them.
    fn trim(&mut self, limits: Limits) {
        while self.ring.len() > limits.events || self.bytes > limits.bytes {
            let Some(revision) = self.ring.front().map(|event| event.revision.0) else { return };
            self.forget(revision);
        }
    }

    /// Drops the events up to a revision.
    fn forget(&mut self, revision: u64) {
        while self.ring.front().is_some_and(|event| event.revision.0 <= revision) {
            if let Some(event) = self.ring.pop_front() {
                self.bytes -= size(&event);
            }
        }
        self.floor = self.floor.max(revision);
    }

    /// Begins anew behind a gap: who has not seen everything before it has lost something.
    fn restart(&mut self, at: u64) {
        for watcher in self.watchers.values_mut().filter(|watcher| !watcher.apart) {
            if !watcher.pending {
                watcher.delivered = watcher.delivered.max(self.position);
            }
            // A watcher that reads its own feed is told by that one.
            if watcher.delivered < at {
                let (requested, compacted) = (Revision(watcher.delivered), Revision(at));
                watcher.lost = Some(Error::Compacted { requested, compacted });
                watcher.wake.notify_one();
            }
        }
        self.ring.clear();
        self.bytes = 0;
        (self.position, self.floor) = (at, at);
    }

    /// What a watcher can be given now.
    fn step(&mut self, number: u64) -> Step {
        let (position, floor) = (self.position, self.floor);
        let ended = self.ended.clone();
        let Some(watcher) = self.watchers.get_mut(&number) else { return Step::Error(Error::Closed) };
        if let Some(error) = ended.or_else(|| watcher.lost.clone()) {
            return Step::Error(error);
        }
        if watcher.apart || (watcher.pending && watcher.delivered < floor) {
            watcher.apart = true;
            return Step::Apart(watcher.delivered);
        }
        if !watcher.pending {
            watcher.delivered = watcher.delivered.max(position);
            return match watcher.asked {
                Some(asked) if asked <= position => {
                    watcher.asked = None;
                    Step::Batch(WatchBatch { events: Vec::new(), revision: Revision(watcher.delivered) })
                }
                _ => Step::Wait,
            };
        }
        let from = self.ring.partition_point(|event| event.revision.0 <= watcher.delivered);
        let mut events: Vec<Arc<Event>> = Vec::new();
        let mut reached = position;
        let mut before = None;
        for (steps, event) in self.ring.range(from..).enumerate() {
            // A revision is never split.
            if (steps >= STEPS || events.len() >= BATCH) && before != Some(event.revision) {
                reached = event.revision.0 - 1;
                break;
            }
            before = Some(event.revision);
            if event.key.starts_with(&*watcher.prefix) {
                events.push(event.clone());
            }
        }
        watcher.pending = reached < position;
        watcher.delivered = watcher.delivered.max(reached);
        if watcher.asked.is_some_and(|asked| asked <= reached) {
            watcher.asked = None;
        }
        Step::Batch(WatchBatch { events, revision: Revision(watcher.delivered) })
    }
}

enum Step {
    Batch(WatchBatch),
    /// A feed of its own, from this revision on, is needed.
    Apart(u64),
    Wait,
    Error(Error),
}

impl Hub {
    pub(super) fn new(client: Arc<Client>, names: Names, limits: Limits, position: u64) -> Self {
        let state = State { position, floor: position, ..State::default() };
        Self { client, names, limits, state: Mutex::new(state) }
    }

    // Every step leaves the state consistent, so a panic elsewhere does not make it useless.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Feeds the ring until the end.
    pub(super) async fn run(self: Arc<Self>) {
        let mut feed = Feed::new(self.client.clone(), self.names.clone(), self.state().position);
        loop {
            match feed.step().await {
                Ok(Some(chunk)) => self.state().push(chunk, self.limits),
                Ok(None) => self.set_broken(feed.broken()),
                Err(error) => match self.recover(error) {
                    Some(position) => feed = Feed::new(self.client.clone(), self.names.clone(), position),
                    None => return,
                },
            }
        }
    }

    /// Where to go on after an error; `None`: nowhere.
    fn recover(&self, error: Error) -> Option<u64> {
        let Error::Compacted { compacted, .. } = error else {
            if !matches!(error, Error::Closed) {
                warn!(%error, "the watch of etcd has ended");
            }
            self.end(error);
            return None;
        };
        warn!(%compacted, "the watch of etcd was away for longer than etcd keeps its history");
        self.state().restart(compacted.0);
        Some(compacted.0)
    }

    fn set_broken(&self, why: Option<&Arc<str>>) {
        let mut state = self.state();
        match (&state.broken, why) {
            (None, Some(why)) => warn!(%why, "the watch of etcd is interrupted"),
            (Some(_), None) => info!("the watch of etcd goes on"),
            _ => {}
        }
        state.broken = why.cloned();
    }

    /// Why events do not come now.
    pub(super) fn trouble(&self) -> Option<Error> {
        let state = self.state();
        state.ended.clone().or_else(|| {
            state.broken.as_ref().map(|why| Error::Unreachable(format!("etcd does not answer: {why}").into()))
        })
    }

    /// Ends every watch.
    pub(super) fn end(&self, error: Error) {
        let mut state = self.state();
        state.ended.get_or_insert(error);
        for watcher in state.watchers.values() {
            watcher.wake.notify_one();
        }
    }

    /// Serves nothing up to this revision any more.
    pub(super) fn compacted(&self, revision: u64) {
        let mut state = self.state();
        let revision = revision.min(state.position);
        state.forget(revision);
    }

    /// Begins a watch.
    pub(super) fn watch(self: &Arc<Self>, prefix: &str, after: u64) -> Reader {
        let mut state = self.state();
        let number = state.next;
        state.next += 1;
        let wake = Arc::new(Notify::new());
        let watcher = Watcher {
            prefix: prefix.into(),
            wake: wake.clone(),
            delivered: after,
            pending: after < state.position,
            asked: None,
            apart: after < state.floor,
            lost: None,
        };
        state.by_prefix.entry(watcher.prefix.clone()).push(number);
        state.watchers.insert(number, watcher);
        let handle = Arc::new(Handle { hub: self.clone(), number });
        Reader { handle, prefix: prefix.into(), wake, apart: None, ended: false }
    }
}

/// A watch's place among the watches.
pub(super) struct Handle {
    hub: Arc<Hub>,
    number: u64,
}

impl Progress for Handle {
    fn request(&self) {
        let target = self.hub.client.seen();
        let mut state = self.hub.state();
        let position = state.position;
        let Some(watcher) = state.watchers.get_mut(&self.number) else { return };
        watcher.asked = Some(target.max(watcher.asked.unwrap_or(0)));
        if target <= position {
            watcher.wake.notify_one();
        } else if !state.asking.contains(&self.number) {
            state.asking.push(self.number);
        }
    }
}

/// The reader's end of a watch.
pub(super) struct Reader {
    handle: Arc<Handle>,
    prefix: Arc<str>,
    wake: Arc<Notify>,
    /// While it is behind the ring.
    apart: Option<Feed>,
    ended: bool,
}

impl Reader {
    pub(super) fn progress(&self) -> Arc<dyn Progress> {
        self.handle.clone()
    }

    /// The next batch; `None` after the end.
    pub(super) async fn next(&mut self) -> Option<Result<WatchBatch, Error>> {
        if self.ended {
            return None;
        }
        let hub = self.handle.hub.clone();
        loop {
            if let Some(feed) = &mut self.apart {
                let chunk = match feed.step().await {
                    Ok(Some(chunk)) => chunk,
                    Ok(None) => continue,
                    Err(error) => return Some(Err(self.end(error))),
                };
                if let Some(batch) = self.caught_up(&hub, chunk) {
                    return Some(Ok(batch));
                }
                continue;
            }
            let step = hub.state().step(self.handle.number);
            match step {
                Step::Batch(batch) => return Some(Ok(batch)),
                Step::Apart(after) => {
                    self.apart = Some(Feed::new(hub.client.clone(), hub.names.clone(), after));
                }
                Step::Wait => self.wake.notified().await,
                Step::Error(error) => return Some(Err(self.end(error))),
            }
        }
    }

    fn end(&mut self, error: Error) -> Error {
        self.ended = true;
        error
    }

    /// Takes what its own feed told, and joins the others when the ring goes on from there.
    fn caught_up(&mut self, hub: &Hub, chunk: Chunk) -> Option<WatchBatch> {
        let mut state = hub.state();
        let (floor, position) = (state.floor, state.position);
        let watcher = state.watchers.get_mut(&self.handle.number)?;
        let before = watcher.delivered;
        watcher.delivered = watcher.delivered.max(chunk.revision);
        if watcher.delivered >= floor {
            watcher.apart = false;
            watcher.pending = watcher.delivered < position;
            self.apart = None;
        }
        let revision = Revision(watcher.delivered);
        let wanted = |event: &Event| event.revision.0 > before && event.key.starts_with(&*self.prefix);
        let events: Vec<Arc<Event>> = chunk.events.into_iter().filter(wanted).map(Arc::new).collect();
        (!events.is_empty()).then_some(WatchBatch { events, revision })
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.handle.hub.state();
        let number = self.handle.number;
        state.watchers.remove(&number);
        if let Some(numbers) = state.by_prefix.get_mut(&self.prefix) {
            numbers.retain(|other| *other != number);
            if numbers.is_empty() {
                state.by_prefix.remove(&self.prefix);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LARGE: Limits = Limits { events: 10_000, bytes: 1 << 20 };

    fn event(revision: u64, key: &str) -> Event {
        Event { revision: Revision(revision), key: key.into(), kv: None, prev_kv: None }
    }

    fn push(state: &mut State, revision: u64, keys: &[&str], limits: Limits) {
        let events = keys.iter().map(|key| event(revision, key)).collect();
        state.push(Chunk { events, revision }, limits);
    }

    fn watch(state: &mut State, number: u64, prefix: &str, after: u64) {
        let watcher = Watcher {
            prefix: prefix.into(),
            wake: Arc::default(),
            delivered: after,
            pending: after < state.position,
            asked: None,
            apart: after < state.floor,
            lost: None,
        };
        state.by_prefix.entry(prefix.into()).push(number);
        state.watchers.insert(number, watcher);
    }

    /// What a step gives: the number of events and the revision, or a word.
    fn step(state: &mut State, number: u64) -> Result<(usize, u64), String> {
        match state.step(number) {
            Step::Batch(batch) => Ok((batch.events.len(), batch.revision.0)),
            Step::Apart(after) => Err(format!("apart after {after}")),
            Step::Wait => Err("wait".into()),
            Step::Error(error) => Err(error.to_string()),
        }
    }

    #[test]
    fn each_watch_gets_its_own_events_and_nobody_else_is_woken() {
        let mut state = State::default();
        watch(&mut state, 1, "/a", 0);
        watch(&mut state, 2, "/b", 0);
        push(&mut state, 1, &["/a/1"], LARGE);
        push(&mut state, 2, &["/c"], LARGE);
        assert!(!state.watchers[&2].pending);
        assert_eq!(step(&mut state, 1), Ok((1, 2)));
        assert_eq!(step(&mut state, 1), Err("wait".into()));
        assert_eq!(step(&mut state, 2), Err("wait".into()));
        watch(&mut state, 3, "/", 1);
        assert_eq!(step(&mut state, 3), Ok((1, 2)), "from the ring");
        watch(&mut state, 4, "/", 7);
        push(&mut state, 7, &["/a"], LARGE);
        assert_eq!(step(&mut state, 4), Err("wait".into()), "the future begins after it");
        push(&mut state, 8, &["/a"], LARGE);
        assert_eq!(step(&mut state, 4), Ok((1, 8)));
    }

    #[test]
    fn a_revision_is_never_split() {
        let mut state = State::default();
        watch(&mut state, 1, "/", 0);
        push(&mut state, 1, &["/first"], LARGE);
        let many = vec!["/k"; 2 * BATCH];
        push(&mut state, 2, &many, LARGE);
        push(&mut state, 3, &["/last"], LARGE);
        assert_eq!(step(&mut state, 1), Ok((1 + many.len(), 2)));
        assert_eq!(step(&mut state, 1), Ok((1, 3)));
    }

    #[test]
    fn who_is_behind_the_ring_reads_apart() {
        let small = Limits { events: 2, bytes: 1 << 20 };
        let mut state = State::default();
        watch(&mut state, 1, "/a", 0);
        watch(&mut state, 2, "/b", 0);
        for revision in 1..=5 {
            push(&mut state, revision, &["/a"], small);
        }
        assert_eq!((state.floor, state.ring.len()), (3, 2));
        assert_eq!(step(&mut state, 1), Err("apart after 0".into()));
        assert_eq!(step(&mut state, 2), Err("wait".into()), "it missed nothing");
        push(&mut state, 6, &["/b"], small);
        assert_eq!(step(&mut state, 2), Ok((1, 6)));
        assert_eq!(state.bytes, state.ring.iter().map(|event| size(event)).sum::<usize>());
    }

    #[test]
    fn after_a_gap_only_those_who_missed_something_are_told() {
        let mut state = State::default();
        watch(&mut state, 1, "/a", 0);
        watch(&mut state, 2, "/b", 20);
        push(&mut state, 5, &["/a"], LARGE);
        state.restart(12);
        assert!(step(&mut state, 1).is_err_and(|told| told.contains("compacted")));
        assert_eq!(step(&mut state, 2), Err("wait".into()));
        push(&mut state, 21, &["/b"], LARGE);
        assert_eq!(step(&mut state, 2), Ok((1, 21)));
    }

    #[test]
    fn progress_is_told_once_it_is_reached() {
        let mut state = State::default();
        watch(&mut state, 1, "/a", 0);
        state.watchers.get_mut(&1).expect("a watch").asked = Some(3);
        state.asking.push(1);
        push(&mut state, 2, &["/b"], LARGE);
        assert_eq!(step(&mut state, 1), Err("wait".into()));
        push(&mut state, 3, &["/b"], LARGE);
        assert!(state.asking.is_empty());
        assert_eq!(step(&mut state, 1), Ok((0, 3)));
        assert_eq!(step(&mut state, 1), Err("wait".into()));
    }
}
