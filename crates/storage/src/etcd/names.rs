//! Between the keys and versions of the trait and etcd's.

use std::sync::Arc;

use bytes::Bytes;

use super::proto::PbKeyValue;
use crate::{KeyValue, LeaseId, Revision};

/// Where keys are by default, as callers name them.
const HOME: &str = "/registry";

/// Keeps what callers name `/registry...` under another prefix, where one is set.
#[derive(Clone, Debug)]
pub(super) struct Names {
    prefix: Arc<str>,
}

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        let trimmed = prefix.trim_matches('/');
        Self { prefix: if trimmed.is_empty() { HOME.into() } else { format!("/{trimmed}").into() } }
    }

    /// The prefix in etcd.
    pub(super) fn prefix(&self) -> &str {
        &self.prefix
    }

    fn moved(&self) -> bool {
        &*self.prefix != HOME
    }

    /// The key in etcd.
    pub(super) fn outer(&self, key: &str) -> String {
        match key.strip_prefix(HOME) {
            Some(rest) if self.moved() => format!("{}{rest}", self.prefix),
            _ => key.to_owned(),
        }
    }

    /// The key as callers name it; `None`: it is none of ours.
    pub(super) fn inner(&self, key: &[u8]) -> Option<Arc<str>> {
        let key = std::str::from_utf8(key).ok()?;
        if !self.moved() {
            return Some(key.into());
        }
        let rest = key.strip_prefix(&*self.prefix)?;
        Some(format!("{HOME}{rest}").into())
    }

    /// A version of a key; `None`: the key is none of ours.
    pub(super) fn version(&self, kv: PbKeyValue) -> Option<KeyValue> {
        let key = self.inner(&kv.key)?;
        Some(KeyValue {
            key,
            value: Bytes::from(kv.value),
            create_revision: revision(kv.create_revision),
            mod_revision: revision(kv.mod_revision),
            version: u64::try_from(kv.version).unwrap_or(0),
            lease: u64::try_from(kv.lease).ok().filter(|id| *id != 0).map(LeaseId),
        })
    }
}

/// etcd's revisions are never negative.
pub(super) fn revision(number: i64) -> Revision {
    Revision(u64::try_from(number).unwrap_or(0))
}

/// A revision for a request; what is too large for etcd is in the future anyway.
pub(super) fn number(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_move_with_the_prefix() {
        for (prefix, outer) in
            [("/registry", "/registry/pods/a"), ("two/", "/two/pods/a"), ("", "/registry/pods/a")]
        {
            let names = Names::new(prefix);
            assert_eq!(names.outer("/registry/pods/a"), outer);
            assert_eq!(names.inner(outer.as_bytes()).as_deref(), Some("/registry/pods/a"));
        }
        let moved = Names::new("/two");
        assert_eq!(moved.inner(b"/registry/pods/a"), None, "another cluster's");
        assert_eq!(moved.outer("compact_rev_key"), "compact_rev_key");
        assert_eq!(Names::new("/registry").inner(b"\xff"), None);
    }
}
