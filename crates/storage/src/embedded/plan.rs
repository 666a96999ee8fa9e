//! Decides what a group of writes does: guards in order, revisions, the frame for the log. No I/O.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::frame;
use super::index::{Change, Index, Version};
use super::lease_table::LeaseTable;
use super::record::{Record, millis};
use crate::{DeleteOutcome, Error, Expect, KeyValue, LeaseId, LeaseInfo, Revision, WriteOutcome};

/// A group of writes that becomes durable together.
pub(super) struct Plan<'a> {
    index: &'a Index,
    leases: &'a LeaseTable,
    /// What the writes planned so far make of keys.
    planned: HashMap<Arc<str>, Option<KeyValue>>,
    revision: u64,
    next_lease: u64,
    frame: Vec<u8>,
    empty: usize,
    steps: Steps,
}

/// What to do once the frame is durable.
#[derive(Debug, Default)]
pub(super) struct Steps {
    pub changes: Vec<Change>,
    pub granted: Vec<(LeaseId, Duration)>,
    pub revoked: Option<LeaseId>,
    pub compact: u64,
}

impl<'a> Plan<'a> {
    /// Begins a group. `frame` is a buffer to reuse; `compact` is the oldest revision that has to stay readable.
    pub(super) fn new(
        index: &'a Index,
        leases: &'a LeaseTable,
        mut frame: Vec<u8>,
        salt: u32,
        number: u64,
        compact: u64,
    ) -> Self {
        frame::begin(&mut frame, salt, number);
        let compact = compact.clamp(index.compacted(), index.revision());
        frame.extend_from_slice(&compact.to_le_bytes());
        Self {
            index,
            leases,
            planned: HashMap::new(),
            revision: index.revision(),
            next_lease: leases.next(),
            empty: frame.len(),
            frame,
            steps: Steps { compact, ..Steps::default() },
        }
    }

    /// The bytes that the group takes so far.
    pub(super) fn len(&self) -> usize {
        self.frame.len()
    }

    pub(super) fn put(
        &mut self,
        key: &Arc<str>,
        value: Bytes,
        expect: Expect,
        lease: Option<LeaseId>,
    ) -> Result<WriteOutcome, Error> {
        if let Some(id) = lease
            && !self.leases.contains(id)
            && !self.steps.granted.iter().any(|(granted, _)| *granted == id)
        {
            return Err(Error::LeaseNotFound(id));
        }
        let current = self.current(key);
        if !expect.holds(current.as_ref().map(|kv| kv.mod_revision)) {
            return Ok(WriteOutcome::Mismatch { current, revision: Revision(self.revision) });
        }
        self.revision += 1;
        let revision = self.revision;
        let key = current.as_ref().map_or_else(|| key.clone(), |kv| kv.key.clone());
        Record::Put { revision, lease, key: &key, value: &value }.encode(&mut self.frame);
        let version = Version {
            create: current.as_ref().map_or(revision, |kv| kv.create_revision.0),
            revision,
            version: current.as_ref().map_or(1, |kv| kv.version + 1),
            lease,
            value: Some(value.clone()),
        };
        let kv = KeyValue {
            key: key.clone(),
            value,
            create_revision: Revision(version.create),
            mod_revision: Revision(revision),
            version: version.version,
            lease,
        };
        self.planned.insert(key.clone(), Some(kv.clone()));
        self.steps.changes.push(Change { key, version });
        Ok(WriteOutcome::Done(kv))
    }

    pub(super) fn delete(&mut self, key: &str, expect: Expect) -> DeleteOutcome {
        let current = self.current(key);
        let Some(prev) = current.clone().filter(|kv| expect.holds(Some(kv.mod_revision))) else {
            return DeleteOutcome::Mismatch { current, revision: Revision(self.revision) };
        };
        self.revision += 1;
        let revision = self.revision;
        Record::Delete { revision, key }.encode(&mut self.frame);
        self.planned.insert(prev.key.clone(), None);
        let version = Version { create: 0, revision, version: 0, lease: None, value: None };
        self.steps.changes.push(Change { key: prev.key.clone(), version });
        DeleteOutcome::Deleted { prev, revision: Revision(revision) }
    }

    pub(super) fn grant(&mut self, ttl: Duration) -> LeaseId {
        let id = LeaseId(self.next_lease);
        self.next_lease += 1;
        Record::Grant { lease: id, ttl_ms: millis(ttl) }.encode(&mut self.frame);
        self.steps.granted.push((id, ttl));
        id
    }

    /// Whether the group has anything to write.
    pub(super) fn writes(&self) -> bool {
        self.frame.len() > self.empty
    }

    /// Writes down how much of their time leases have left.
    pub(super) fn leases_left(&mut self, leases: impl Iterator<Item = LeaseInfo>) {
        for lease in leases {
            Record::Left { lease: lease.id, left_ms: millis(lease.left) }.encode(&mut self.frame);
        }
    }

    /// Deletes up to `limit` keys of a lease, then the lease; tells whether it is gone. Has to be alone in its group.
    pub(super) fn revoke(&mut self, lease: LeaseId, limit: usize) -> bool {
        let (keys, all) = self.leases.keys(lease, limit);
        for key in keys {
            self.delete(&key, Expect::Any);
        }
        if all {
            Record::Revoke { lease }.encode(&mut self.frame);
            self.steps.revoked = Some(lease);
        }
        all
    }

    pub(super) fn compact(&mut self, at: Revision) -> Result<(), Error> {
        if at.0 > self.index.revision() {
            return Err(Error::FutureRevision { requested: at, current: Revision(self.index.revision()) });
        }
        if at.0 > self.steps.compact {
            self.steps.compact = at.0;
            self.frame[frame::FRAME_HEADER..frame::FRAME_HEADER + 8].copy_from_slice(&at.0.to_le_bytes());
            // Asked for by somebody, so it is written even when nothing else is.
            self.empty = 0;
        }
        Ok(())
    }

    /// The frame to append, unless nothing has to be written; its buffer in any case; and what to do then.
    pub(super) fn finish(mut self) -> (Vec<u8>, bool, Steps) {
        let write = self.writes();
        if write {
            frame::seal(&mut self.frame);
        }
        (self.frame, write, self.steps)
    }

    fn current(&self, key: &str) -> Option<KeyValue> {
        match self.planned.get(key) {
            Some(planned) => planned.clone(),
            None => self.index.current(key),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_see_the_writes_before_them_in_the_same_group() {
        let index = Index::new(1, 1);
        let leases = LeaseTable::new(1);
        let mut plan = Plan::new(&index, &leases, Vec::new(), 7, 0, 0);
        let key: Arc<str> = "k".into();
        let put = |plan: &mut Plan<'_>, expect| plan.put(&key, Bytes::from_static(b"v"), expect, None);
        assert!(
            matches!(put(&mut plan, Expect::Absent), Ok(WriteOutcome::Done(kv)) if kv.mod_revision == Revision(2))
        );
        assert!(matches!(
            put(&mut plan, Expect::Absent),
            Ok(WriteOutcome::Mismatch { current: Some(_), revision: Revision(2) })
        ));
        assert!(
            matches!(put(&mut plan, Expect::At(Revision(2))), Ok(WriteOutcome::Done(kv)) if kv.version == 2)
        );
        assert!(matches!(
            plan.delete("k", Expect::At(Revision(2))),
            DeleteOutcome::Mismatch { current: Some(_), .. }
        ));
        assert!(matches!(
            plan.delete("k", Expect::At(Revision(3))),
            DeleteOutcome::Deleted { revision: Revision(4), .. }
        ));
        assert!(matches!(plan.delete("k", Expect::Any), DeleteOutcome::Mismatch { current: None, .. }));
        assert!(
            matches!(put(&mut plan, Expect::Any), Ok(WriteOutcome::Done(kv)) if kv.create_revision == Revision(5))
        );
        let (_, write, steps) = plan.finish();
        assert!(write);
        assert_eq!(steps.changes.len(), 4);
    }

    #[test]
    fn a_group_of_refusals_writes_nothing() {
        let index = Index::new(1, 1);
        let leases = LeaseTable::new(1);
        let mut plan = Plan::new(&index, &leases, Vec::new(), 7, 0, 0);
        let refused = plan.put(&"k".into(), Bytes::new(), Expect::At(Revision(9)), None);
        assert!(matches!(refused, Ok(WriteOutcome::Mismatch { current: None, revision: Revision(1) })));
        let unknown = plan.put(&"k".into(), Bytes::new(), Expect::Any, Some(LeaseId(4)));
        assert!(matches!(unknown, Err(Error::LeaseNotFound(LeaseId(4)))));
        let (_, write, steps) = plan.finish();
        assert!(!write && steps.changes.is_empty());
    }
}
