//! Keys that wait for work.
use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

const FIRST_DELAY: Duration = Duration::from_millis(5);
const LONGEST_DELAY: Duration = Duration::from_secs(1000);

/// A queue in which an item is at most once, is never worked on twice at a time, and is worked on again when it was
/// added while somebody worked on it.
pub struct WorkQueue<T> {
    state: Mutex<State<T>>,
    wake: Notify,
}

struct State<T> {
    ready: VecDeque<T>,
    /// Waiting in `ready`, or to be put there once it is done.
    dirty: HashSet<T>,
    processing: HashSet<T>,
    /// When each delayed item is due; entries of `timers` that disagree are stale.
    due: HashMap<T, Instant>,
    timers: BinaryHeap<Reverse<Timer<T>>>,
    failures: HashMap<T, u32>,
    next_timer: u64,
    shut_down: bool,
}

struct Timer<T> {
    at: Instant,
    number: u64,
    item: T,
}

impl<T> PartialEq for Timer<T> {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}
impl<T> Eq for Timer<T> {}
impl<T> PartialOrd for Timer<T> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<T> Ord for Timer<T> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

impl<T: Eq + Hash + Clone> Default for WorkQueue<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T: Eq + Hash + Clone> WorkQueue<T> {
    /// An empty queue.
    pub fn new() -> Self {
        let state = State {
            ready: VecDeque::new(),
            dirty: HashSet::new(),
            processing: HashSet::new(),
            due: HashMap::new(),
            timers: BinaryHeap::new(),
            failures: HashMap::new(),
            next_timer: 0,
            shut_down: false,
        };
        Self { state: Mutex::new(state), wake: Notify::new() }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds an item to be worked on now.
    pub fn add(&self, item: T) {
        self.lock().add(item);
        self.wake.notify_one();
    }

    /// Adds an item to be worked on after a while; the earliest such time counts.
    pub fn add_after(&self, item: T, delay: Duration) {
        if delay.is_zero() {
            return self.add(item);
        }
        let mut state = self.lock();
        let at = Instant::now() + delay;
        if state.due.get(&item).is_some_and(|due| *due <= at) {
            return;
        }
        state.due.insert(item.clone(), at);
        let number = state.next_timer;
        state.next_timer += 1;
        state.timers.push(Reverse(Timer { at, number, item }));
        drop(state);
        self.wake.notify_one();
    }

    /// Adds an item after a delay that doubles with each such call, 5 ms to 1000 s; [`Self::forget`] resets it.
    pub fn add_rate_limited(&self, item: T) -> Duration {
        let mut state = self.lock();
        let failures = state.failures.entry(item.clone()).or_insert(0);
        let delay =
            FIRST_DELAY.saturating_mul(1u32.checked_shl(*failures).unwrap_or(u32::MAX)).min(LONGEST_DELAY);
        *failures = (*failures + 1).min(31);
        drop(state);
        self.add_after(item, delay);
        delay
    }

    /// How often [`Self::add_rate_limited`] was called since the last [`Self::forget`].
    pub fn failures(&self, item: &T) -> u32 {
        self.lock().failures.get(item).copied().unwrap_or(0)
    }

    /// The item's work went well.
    pub fn forget(&self, item: &T) {
        self.lock().failures.remove(item);
    }

    /// The next item; call [`Self::done`] with it afterwards. `None` once the queue is shut down.
    pub async fn get(&self) -> Option<T> {
        loop {
            let next_due = {
                let mut state = self.lock();
                if state.shut_down {
                    self.wake.notify_one();
                    return None;
                }
                state.ripen(Instant::now());
                if let Some(item) = state.ready.pop_front() {
                    state.dirty.remove(&item);
                    state.processing.insert(item.clone());
                    // Permits do not add up: whoever takes one wakes the next for what is left.
                    if !state.ready.is_empty() || !state.timers.is_empty() {
                        self.wake.notify_one();
                    }
                    return Some(item);
                }
                state.timers.peek().map(|Reverse(timer)| timer.at)
            };
            match next_due {
                Some(at) => tokio::select! {
                    () = self.wake.notified() => {}
                    () = tokio::time::sleep_until(at) => {}
                },
                None => self.wake.notified().await,
            }
        }
    }

    /// Ends the work on an item; it comes again if it was added meanwhile.
    pub fn done(&self, item: &T) {
        let mut state = self.lock();
        state.processing.remove(item);
        if state.dirty.contains(item) {
            state.ready.push_back(item.clone());
            drop(state);
            self.wake.notify_one();
        }
    }

    /// Items that wait to be worked on now.
    pub fn len(&self) -> usize {
        self.lock().ready.len()
    }

    /// Whether none wait.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Lets every [`Self::get`] return `None`.
    pub fn shut_down(&self) {
        self.lock().shut_down = true;
        self.wake.notify_one();
        self.wake.notify_waiters();
    }
}

impl<T: Eq + Hash + Clone> State<T> {
    fn add(&mut self, item: T) {
        if self.shut_down || !self.dirty.insert(item.clone()) {
            return;
        }
        if !self.processing.contains(&item) {
            self.ready.push_back(item);
        }
    }

    fn ripen(&mut self, now: Instant) {
        while let Some(Reverse(timer)) = self.timers.peek() {
            let live = self.due.get(&timer.item) == Some(&timer.at);
            if live && timer.at > now {
                return;
            }
            let Some(Reverse(timer)) = self.timers.pop() else {
                return;
            };
            if live {
                self.due.remove(&timer.item);
                self.add(timer.item);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_item_is_there_once_and_comes_again_when_added_during_work() {
        let q = WorkQueue::new();
        q.add("a");
        q.add("a");
        assert_eq!(q.len(), 1);
        let item = q.get().await.unwrap();
        q.add("a");
        assert_eq!(q.len(), 0, "not while it is worked on");
        q.done(&item);
        assert_eq!(q.get().await, Some("a"));
        q.done(&"a");
        assert!(q.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn delays_keep_the_earliest_time() {
        let q = WorkQueue::new();
        let start = Instant::now();
        q.add_after("a", Duration::from_secs(10));
        q.add_after("a", Duration::from_secs(3));
        q.add_after("a", Duration::from_secs(20));
        assert_eq!(q.get().await, Some("a"));
        assert_eq!(start.elapsed().as_secs(), 3);
        q.done(&"a");
        q.add_after("b", Duration::from_secs(60));
        assert_eq!(q.get().await, Some("b"), "the stale times of a are gone");
    }

    #[tokio::test(start_paused = true)]
    async fn failures_double_the_delay_up_to_the_bound() {
        let q = WorkQueue::new();
        let delays: Vec<_> = (0..4).map(|_| q.add_rate_limited("a").as_millis()).collect();
        assert_eq!(delays, [5, 10, 20, 40]);
        for _ in 0..60 {
            q.add_rate_limited("a");
        }
        assert_eq!(q.add_rate_limited("a"), LONGEST_DELAY);
        q.forget(&"a");
        assert_eq!(q.add_rate_limited("a"), FIRST_DELAY);
    }

    #[tokio::test(start_paused = true)]
    async fn many_workers_get_everything_and_stop() {
        let q = std::sync::Arc::new(WorkQueue::new());
        let seen = std::sync::Arc::new(Mutex::new(HashSet::new()));
        let mut workers = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let (q, seen) = (q.clone(), seen.clone());
            workers.spawn(async move {
                while let Some(item) = q.get().await {
                    seen.lock().unwrap().insert(item);
                    tokio::task::yield_now().await;
                    q.done(&item);
                }
            });
        }
        for i in 0..100 {
            if i % 2 == 0 { q.add(i) } else { q.add_after(i, Duration::from_millis(i)) }
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(seen.lock().unwrap().len(), 100);
        q.shut_down();
        while let Some(ended) = workers.join_next().await {
            ended.unwrap();
        }
    }
}
