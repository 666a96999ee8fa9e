//! Which leases live, until when, and which keys go with them.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::{LeaseId, LeaseInfo};

/// The leases, owned by the writer.
#[derive(Debug)]
pub(super) struct LeaseTable {
    leases: HashMap<LeaseId, Lease>,
    deadlines: BTreeSet<(Instant, LeaseId)>,
    next: u64,
}

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    deadline: Instant,
    keys: HashSet<Arc<str>>,
}

impl LeaseTable {
    pub(super) fn new(next: u64) -> Self {
        Self { leases: HashMap::new(), deadlines: BTreeSet::new(), next: next.max(1) }
    }

    /// The id the next lease gets.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Adds a lease that begins now.
    ///
    /// A restart takes up what was last written down of a lease's time, as etcd does when its leader changes. No wall
    /// clock is asked: it may have jumped.
    pub(super) fn grant(&mut self, id: LeaseId, ttl: Duration, now: Instant) {
        self.revoke(id);
        // So far away that nobody waits for it, and still a point in time.
        let deadline = now.checked_add(ttl).unwrap_or_else(|| now + Duration::from_secs(100 * 365 * 86400));
        self.leases.insert(id, Lease { ttl, deadline, keys: HashSet::new() });
        self.deadlines.insert((deadline, id));
        self.next = self.next.max(id.0.saturating_add(1));
    }

    /// Says how much of its time a lease has left; never more than all of it.
    pub(super) fn shorten(&mut self, id: LeaseId, left: Duration, now: Instant) {
        let Some(lease) = self.leases.get_mut(&id) else { return };
        let Some(deadline) = now.checked_add(left).filter(|deadline| *deadline < lease.deadline) else {
            return;
        };
        self.deadlines.remove(&(lease.deadline, id));
        lease.deadline = deadline;
        self.deadlines.insert((deadline, id));
    }

    pub(super) fn revoke(&mut self, id: LeaseId) {
        if let Some(lease) = self.leases.remove(&id) {
            self.deadlines.remove(&(lease.deadline, id));
        }
    }

    pub(super) fn contains(&self, id: LeaseId) -> bool {
        self.leases.contains_key(&id)
    }

    /// Follows a write: the key leaves the lease it had and joins the one it has now.
    pub(super) fn moved(&mut self, key: &Arc<str>, from: Option<LeaseId>, to: Option<LeaseId>) {
        if from == to {
            return;
        }
        if let Some(lease) = from.and_then(|id| self.leases.get_mut(&id)) {
            lease.keys.remove(key);
        }
        if let Some(lease) = to.and_then(|id| self.leases.get_mut(&id)) {
            lease.keys.insert(key.clone());
        }
    }

    /// Up to `limit` keys of a lease, and whether these are all.
    pub(super) fn keys(&self, id: LeaseId, limit: usize) -> (Vec<Arc<str>>, bool) {
        let Some(lease) = self.leases.get(&id) else { return (Vec::new(), true) };
        (lease.keys.iter().take(limit).cloned().collect(), lease.keys.len() <= limit)
    }

    /// When the next lease expires.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(deadline, _)| *deadline)
    }

    /// A lease that has expired.
    pub(super) fn expired(&self, now: Instant) -> Option<LeaseId> {
        self.deadlines.first().filter(|(deadline, _)| *deadline <= now).map(|(_, id)| *id)
    }

    /// What is known of a lease.
    pub(super) fn info(&self, id: LeaseId, now: Instant) -> Option<LeaseInfo> {
        let lease = self.leases.get(&id)?;
        Some(LeaseInfo { id, ttl: lease.ttl, left: lease.deadline.saturating_duration_since(now) })
    }

    /// Every lease, the one that ends first at the front.
    pub(super) fn all(&self, now: Instant) -> impl Iterator<Item = LeaseInfo> {
        self.deadlines.iter().filter_map(move |(_, id)| self.info(*id, now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_belongs_to_the_lease_it_was_last_put_with() {
        let now = Instant::now();
        let mut table = LeaseTable::new(0);
        let (one, two) = (LeaseId(1), LeaseId(2));
        table.grant(one, Duration::from_secs(5), now);
        table.grant(two, Duration::from_secs(3), now);
        let key: Arc<str> = "k".into();
        table.moved(&key, None, Some(one));
        table.moved(&key, Some(one), Some(two));
        assert_eq!(table.keys(one, 9), (vec![], true));
        assert_eq!(table.keys(two, 9), (vec![key], true));
        assert_eq!(table.next_deadline(), Some(now + Duration::from_secs(3)));
        assert_eq!(table.expired(now), None);
        assert_eq!(table.expired(now + Duration::from_secs(4)), Some(two));
        table.shorten(two, Duration::from_secs(9), now);
        table.shorten(one, Duration::from_secs(4), now);
        let left: Vec<_> =
            table.all(now).map(|lease| (lease.id, lease.ttl.as_secs(), lease.left.as_secs())).collect();
        assert_eq!(left, [(two, 3, 3), (one, 5, 4)], "time only gets shorter");
        table.revoke(one);
        table.revoke(two);
        assert_eq!(table.expired(now + Duration::from_secs(4)), None);
        assert_eq!(table.next(), 3);
    }
}
