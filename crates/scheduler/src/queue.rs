//! Pods that wait: to be scheduled (active), for their next try (backoff), or for the cluster to change
//! (unschedulable). Knows no clock but the one it is told.
use std::cmp::Reverse;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::framework::Wakes;
use crate::pod::PodInfo;

/// After so long a pod is tried again, even if nothing that could help was seen.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// How long failed pods wait at least.
#[derive(Debug, Clone, Copy)]
pub struct Delays {
    /// After the first failure; doubles with each.
    pub first: Duration,
    /// No longer than this.
    pub most: Duration,
}

impl Default for Delays {
    fn default() -> Self {
        Self { first: Duration::from_secs(1), most: Duration::from_secs(10) }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Has scheduling gates; waits for an update.
    Gated,
    Active(Order),
    Backoff(Due),
    Unschedulable {
        since: Due,
        wakes: Wakes,
    },
    /// Popped, not decided yet.
    InFlight,
}

/// The most important first, then the first come.
type Order = (Reverse<i32>, Instant, u64);
type Due = (Instant, u64);

struct Entry {
    pod: Arc<PodInfo>,
    attempts: u32,
    last_try: Instant,
    place: Place,
}

/// The scheduling queue.
pub struct SchedulingQueue {
    entries: HashMap<String, Entry>,
    active: BTreeMap<Order, String>,
    backoff: BTreeMap<Due, String>,
    /// By when they were rejected.
    unschedulable: BTreeMap<Due, String>,
    delays: Delays,
    next: u64,
}

fn is_gated(pod: &PodInfo) -> bool {
    pod.spec().and_then(|s| s.scheduling_gates.as_ref()).is_some_and(|g| !g.is_empty())
}

impl SchedulingQueue {
    /// An empty queue.
    pub fn new(delays: Delays) -> Self {
        Self {
            entries: HashMap::new(),
            active: BTreeMap::new(),
            backoff: BTreeMap::new(),
            unschedulable: BTreeMap::new(),
            delays,
            next: 0,
        }
    }

    /// How many pods wait, in whatever way.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no pod waits.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Takes in an unassigned pod as it is now. A pod whose spec or metadata changed is tried again.
    pub fn set(&mut self, pod: Arc<PodInfo>, now: Instant) {
        let uid = pod.uid.clone();
        let Some(entry) = self.entries.get_mut(&uid) else {
            let entry = Entry { pod, attempts: 0, last_try: now, place: Place::InFlight };
            self.entries.insert(uid.clone(), entry);
            return self.activate(&uid, now);
        };
        let changed = differs(&entry.pod, &pod);
        entry.pod = pod;
        match entry.place {
            Place::InFlight => {}
            Place::Gated | Place::Active(_) if changed => self.activate(&uid, now),
            Place::Unschedulable { .. } if changed => self.retry(&uid, now),
            _ => {}
        }
    }

    /// The pod as it is known here.
    pub fn get(&self, uid: &str) -> Option<&Arc<PodInfo>> {
        self.entries.get(uid).map(|e| &e.pod)
    }

    /// Forgets a pod: it is assigned, or gone.
    pub fn remove(&mut self, uid: &str) {
        self.leave(uid);
        self.entries.remove(uid);
    }

    /// The next pod to schedule. It stays known until [`Self::remove`], [`Self::reject`] or [`Self::fail`].
    pub fn pop(&mut self, now: Instant) -> Option<Arc<PodInfo>> {
        self.flush(now);
        let uid = self.active.pop_first()?.1;
        let entry = self.entries.get_mut(&uid)?;
        entry.place = Place::InFlight;
        entry.attempts = entry.attempts.saturating_add(1);
        entry.last_try = now;
        Some(entry.pod.clone())
    }

    /// A pod fits nowhere until one of these happens.
    pub fn reject(&mut self, uid: &str, wakes: Wakes, now: Instant) {
        self.next += 1;
        self.put(uid, Place::Unschedulable { since: (now, self.next), wakes });
    }

    /// Something went wrong with a pod; it is tried again after a while.
    pub fn fail(&mut self, uid: &str, now: Instant) {
        let Some(entry) = self.entries.get(uid) else { return };
        let due = now + self.delay(entry.attempts);
        self.next += 1;
        self.put(uid, Place::Backoff((due, self.next)));
    }

    /// Tries again the pods that these happenings may help.
    pub fn wake(&mut self, what: Wakes, now: Instant) {
        let helps = |uid: &str| match self.entries.get(uid).map(|e| e.place) {
            Some(Place::Unschedulable { wakes, .. }) => wakes.meets(what),
            _ => false,
        };
        let woken: Vec<String> = self.unschedulable.values().filter(|uid| helps(uid)).cloned().collect();
        for uid in woken {
            self.retry(&uid, now);
        }
    }

    /// When [`Self::pop`] may have a pod that it has not now.
    pub fn next_due(&self) -> Option<Instant> {
        let backoff = self.backoff.first_key_value().map(|((due, _), _)| *due);
        let waited = self.unschedulable.first_key_value().map(|((since, _), _)| *since + LONGEST_WAIT);
        backoff.into_iter().chain(waited).min()
    }

    fn flush(&mut self, now: Instant) {
        while let Some(((due, _), uid)) = self.backoff.first_key_value() {
            if *due > now {
                break;
            }
            let uid = uid.clone();
            self.activate(&uid, now);
        }
        while let Some(((since, _), uid)) = self.unschedulable.first_key_value() {
            if *since + LONGEST_WAIT > now {
                break;
            }
            let uid = uid.clone();
            self.retry(&uid, now);
        }
    }

    fn delay(&self, attempts: u32) -> Duration {
        let doublings = attempts.saturating_sub(1).min(20);
        self.delays.first.saturating_mul(1 << doublings).min(self.delays.most)
    }

    /// To the active pods, or to those that wait for their time if it has not come yet.
    fn retry(&mut self, uid: &str, now: Instant) {
        let Some(entry) = self.entries.get(uid) else { return };
        let due = entry.last_try + self.delay(entry.attempts);
        if entry.attempts == 0 || due <= now {
            return self.activate(uid, now);
        }
        self.next += 1;
        self.put(uid, Place::Backoff((due, self.next)));
    }

    fn activate(&mut self, uid: &str, now: Instant) {
        let Some(entry) = self.entries.get(uid) else { return };
        self.next += 1;
        let place = if is_gated(&entry.pod) {
            Place::Gated
        } else {
            Place::Active((Reverse(entry.pod.priority), now, self.next))
        };
        self.put(uid, place);
    }

    fn put(&mut self, uid: &str, place: Place) {
        self.leave(uid);
        let Some(entry) = self.entries.get_mut(uid) else { return };
        entry.place = place;
        match place {
            Place::Active(order) => {
                self.active.insert(order, uid.to_owned());
            }
            Place::Backoff(due) => {
                self.backoff.insert(due, uid.to_owned());
            }
            Place::Unschedulable { since, .. } => {
                self.unschedulable.insert(since, uid.to_owned());
            }
            Place::Gated | Place::InFlight => {}
        }
    }

    fn leave(&mut self, uid: &str) {
        match self.entries.get(uid).map(|e| e.place) {
            Some(Place::Active(order)) => {
                self.active.remove(&order);
            }
            Some(Place::Backoff(due)) => {
                self.backoff.remove(&due);
            }
            Some(Place::Unschedulable { since, .. }) => {
                self.unschedulable.remove(&since);
            }
            Some(Place::Gated | Place::InFlight) | None => {}
        }
    }
}

/// Whether more than the status changed: writing the status must not make a pod be tried again.
fn differs(old: &PodInfo, new: &PodInfo) -> bool {
    let (a, b) = (&old.pod.metadata, &new.pod.metadata);
    old.pod.spec != new.pod.spec || a.labels != b.labels || a.annotations != b.annotations
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::testing::{labelled, pod};

    fn with(priority: i32) -> Value {
        json!({"priority": priority, "containers": []})
    }

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    fn queue() -> (SchedulingQueue, Instant) {
        (SchedulingQueue::new(Delays::default()), Instant::now())
    }

    fn popped(q: &mut SchedulingQueue, now: Instant) -> Option<String> {
        q.pop(now).map(|p| p.uid.clone())
    }

    #[test]
    fn the_most_important_and_then_the_first_come() {
        let (mut q, t) = queue();
        for (name, priority) in [("a", 0), ("b", 10), ("c", 10)] {
            q.set(pod(name, with(priority)), t);
        }
        let order: Vec<_> = std::iter::from_fn(|| popped(&mut q, t)).collect();
        assert_eq!(order, ["b", "c", "a"]);
        assert_eq!(q.len(), 3, "popped pods stay known");
    }

    #[test]
    fn rejected_pods_wait_for_what_may_help_and_for_their_time() {
        let (mut q, t) = queue();
        q.set(pod("a", with(0)), t);
        popped(&mut q, t);
        q.reject("a", Wakes::POD_GONE, t);
        q.wake(Wakes::NODE_LABELS, after(t, 2));
        assert_eq!(popped(&mut q, after(t, 2)), None);
        q.wake(Wakes::POD_GONE, t);
        assert_eq!((popped(&mut q, t), q.next_due()), (None, Some(after(t, 1))));
        assert_eq!(popped(&mut q, after(t, 1)).as_deref(), Some("a"));
        q.reject("a", Wakes::POD_GONE, after(t, 1));
        q.wake(Wakes::POD_GONE, after(t, 2));
        assert_eq!(q.next_due(), Some(after(t, 3)), "the second wait is twice as long");
        q.wake(Wakes::POD_GONE, after(t, 9));
        assert_eq!(popped(&mut q, after(t, 9)).as_deref(), Some("a"));
    }

    #[test]
    fn nobody_waits_for_ever() {
        let (mut q, t) = queue();
        q.set(pod("a", with(0)), t);
        popped(&mut q, t);
        q.reject("a", Wakes::NONE, t);
        assert_eq!(q.next_due(), Some(t + LONGEST_WAIT));
        assert_eq!(popped(&mut q, t + LONGEST_WAIT).as_deref(), Some("a"));
    }

    #[test]
    fn errors_back_off_up_to_the_longest_delay() {
        let (mut q, mut now) = queue();
        q.set(pod("a", with(0)), now);
        for expect in [1, 2, 4, 8, 10, 10] {
            assert_eq!(popped(&mut q, now).as_deref(), Some("a"));
            q.fail("a", now);
            assert_eq!(q.next_due(), Some(after(now, expect)));
            now = after(now, expect);
        }
    }

    #[test]
    fn gates_hold_a_pod_until_they_are_gone() {
        let (mut q, t) = queue();
        q.set(pod("a", json!({"containers": [], "schedulingGates": [{"name": "x/y"}]})), t);
        assert_eq!((popped(&mut q, t), q.next_due()), (None, None));
        q.set(pod("a", json!({"containers": []})), t);
        assert_eq!(popped(&mut q, t).as_deref(), Some("a"));
    }

    #[test]
    fn only_changes_of_substance_are_tried_again() {
        let (mut q, t) = queue();
        q.set(pod("a", with(0)), t);
        popped(&mut q, t);
        q.reject("a", Wakes::NONE, t);
        q.set(pod("a", with(0)), after(t, 60));
        assert_eq!(popped(&mut q, after(t, 60)), None);
        q.set(labelled("a", json!({"x": "y"}), with(0)), after(t, 60));
        assert_eq!(popped(&mut q, after(t, 60)).as_deref(), Some("a"));
        q.remove("a");
        assert!(q.is_empty());
    }
}
