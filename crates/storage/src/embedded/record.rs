//! What a frame's payload says: writes in the log, keys in a snapshot.
//!
//! ```text
//! log frame      = compacted:u64 record*
//! snapshot frame = record*
//! put    = 1 revision:u64 lease:u64 keylen:u32 valuelen:u32 key value
//! delete = 2 revision:u64 keylen:u32 key
//! grant  = 3 lease:u64 ttl_ms:u64
//! revoke = 4 lease:u64
//! begin  = 5 revision:u64 next_lease:u64          first record of a snapshot
//! entry  = 6 create:u64 revision:u64 version:u64 lease:u64 keylen:u32 valuelen:u32 key value
//! end    = 7 entries:u64                          last record of a snapshot
//! left   = 8 lease:u64 left_ms:u64                how much of its time a lease has left; since version 2
//! ```
//! A lease of 0 is none. A backup has the records of a snapshot.

use crate::{KeyValue, LeaseId};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record<'a> {
    Put { revision: u64, lease: Option<LeaseId>, key: &'a str, value: &'a [u8] },
    Delete { revision: u64, key: &'a str },
    Grant { lease: LeaseId, ttl_ms: u64 },
    Revoke { lease: LeaseId },
    Begin { revision: u64, next_lease: u64 },
    Entry { create: u64, revision: u64, version: u64, lease: Option<LeaseId>, key: &'a str, value: &'a [u8] },
    End { entries: u64 },
    Left { lease: LeaseId, left_ms: u64 },
}

impl<'a> Record<'a> {
    pub(super) fn entry(kv: &'a KeyValue) -> Self {
        Self::Entry {
            create: kv.create_revision.0,
            revision: kv.mod_revision.0,
            version: kv.version,
            lease: kv.lease,
            key: &kv.key,
            value: &kv.value,
        }
    }

    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let u64s = |out: &mut Vec<u8>, words: &[u64]| {
            for word in words {
                out.extend_from_slice(&word.to_le_bytes());
            }
        };
        let id = |lease: Option<LeaseId>| lease.map_or(0, |lease| lease.0);
        match *self {
            Self::Put { revision, lease, key, value } => {
                out.push(1);
                u64s(out, &[revision, id(lease)]);
                key_and_value(out, key, value);
            }
            Self::Delete { revision, key } => {
                out.push(2);
                u64s(out, &[revision]);
                out.extend_from_slice(&(key.len() as u32).to_le_bytes());
                out.extend_from_slice(key.as_bytes());
            }
            Self::Grant { lease, ttl_ms } => {
                out.push(3);
                u64s(out, &[lease.0, ttl_ms]);
            }
            Self::Revoke { lease } => {
                out.push(4);
                u64s(out, &[lease.0]);
            }
            Self::Begin { revision, next_lease } => {
                out.push(5);
                u64s(out, &[revision, next_lease]);
            }
            Self::Entry { create, revision, version, lease, key, value } => {
                out.push(6);
                u64s(out, &[create, revision, version, id(lease)]);
                key_and_value(out, key, value);
            }
            Self::End { entries } => {
                out.push(7);
                u64s(out, &[entries]);
            }
            Self::Left { lease, left_ms } => {
                out.push(8);
                u64s(out, &[lease.0, left_ms]);
            }
        }
    }
}

fn key_and_value(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    out.extend_from_slice(&(key.len() as u32).to_le_bytes());
    out.extend_from_slice(&(value.len() as u32).to_le_bytes());
    out.extend_from_slice(key.as_bytes());
    out.extend_from_slice(value);
}

/// Milliseconds, as many as fit.
pub(super) fn millis(time: std::time::Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX)
}

/// Reads records from a payload.
pub(super) struct Records<'a>(&'a [u8]);

impl<'a> Records<'a> {
    pub(super) fn new(payload: &'a [u8]) -> Self {
        Self(payload)
    }

    /// The revision a log frame begins with.
    pub(super) fn compacted(&mut self) -> Option<u64> {
        self.u64()
    }

    /// The next record; an error when the rest is none.
    pub(super) fn next(&mut self) -> Result<Option<Record<'a>>, Malformed> {
        if self.0.is_empty() { Ok(None) } else { self.record().map(Some).ok_or(Malformed) }
    }

    fn record(&mut self) -> Option<Record<'a>> {
        let tag = self.take(1)?[0];
        Some(match tag {
            1 => {
                let (revision, lease) = (self.u64()?, self.u64()?);
                let (key, value) = self.key_and_value()?;
                Record::Put { revision, lease: lease_id(lease), key, value }
            }
            2 => {
                let revision = self.u64()?;
                let length = self.u32()?;
                Record::Delete { revision, key: self.text(length)? }
            }
            3 => Record::Grant { lease: LeaseId(self.u64()?), ttl_ms: self.u64()? },
            4 => Record::Revoke { lease: LeaseId(self.u64()?) },
            5 => Record::Begin { revision: self.u64()?, next_lease: self.u64()? },
            6 => {
                let (create, revision, version, lease) = (self.u64()?, self.u64()?, self.u64()?, self.u64()?);
                let (key, value) = self.key_and_value()?;
                Record::Entry { create, revision, version, lease: lease_id(lease), key, value }
            }
            7 => Record::End { entries: self.u64()? },
            8 => Record::Left { lease: LeaseId(self.u64()?), left_ms: self.u64()? },
            _ => return None,
        })
    }

    fn key_and_value(&mut self) -> Option<(&'a str, &'a [u8])> {
        let (key, value) = (self.u32()?, self.u32()?);
        Some((self.text(key)?, self.take(value)?))
    }

    fn take(&mut self, length: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        Some(taken)
    }

    fn text(&mut self, length: usize) -> Option<&'a str> {
        std::str::from_utf8(self.take(length)?).ok()
    }

    fn u32(&mut self) -> Option<usize> {
        Some(super::frame::u32_at(self.take(4)?, 0) as usize)
    }

    fn u64(&mut self) -> Option<u64> {
        Some(super::frame::u64_at(self.take(8)?, 0))
    }
}

/// The bytes are no record.
#[derive(Debug)]
pub(super) struct Malformed;

fn lease_id(id: u64) -> Option<LeaseId> {
    (id != 0).then_some(LeaseId(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn records_come_back_as_written() {
        let records = [
            Record::Put { revision: 5, lease: Some(LeaseId(7)), key: "/a", value: b"x" },
            Record::Delete { revision: 6, key: "/a" },
            Record::Grant { lease: LeaseId(7), ttl_ms: 1000 },
            Record::Revoke { lease: LeaseId(7) },
            Record::Begin { revision: 9, next_lease: 8 },
            Record::Entry { create: 1, revision: 2, version: 3, lease: None, key: "", value: b"" },
            Record::End { entries: 1 },
            Record::Left { lease: LeaseId(7), left_ms: 999 },
        ];
        let mut bytes = Vec::new();
        for record in &records {
            record.encode(&mut bytes);
        }
        let mut reader = Records::new(&bytes);
        for record in &records {
            assert_eq!(reader.next().expect("well-formed"), Some(*record));
        }
        assert!(reader.next().expect("well-formed").is_none());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(0u8..10, 0..200)) {
            let mut reader = Records::new(&bytes);
            while let Ok(Some(_)) = reader.next() {}
        }
    }
}
