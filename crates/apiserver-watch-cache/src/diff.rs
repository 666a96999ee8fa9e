//! What to tell watchers when the history between two states is gone: the difference, as events.

use std::sync::Arc;

use storage::Revision;

use crate::CachedObject;
use crate::map::OrderedMap;

/// One change to the cache.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    /// The object is so now.
    Put(Arc<CachedObject>),
    /// The object is gone.
    Gone(Arc<str>, Revision),
    /// There is something with this key that nobody can read.
    Unreadable(Arc<str>, Revision),
}

impl Change {
    fn revision(&self) -> Revision {
        match self {
            Self::Put(object) => object.revision,
            Self::Gone(_, revision) | Self::Unreadable(_, revision) => *revision,
        }
    }
}

/// The changes from one state to a later one, seen at a revision.
///
/// When exactly something was deleted is unknown; the revision of the list is the first that surely shows it.
pub(crate) fn diff(
    old: &OrderedMap<Arc<CachedObject>>,
    new: &OrderedMap<Arc<CachedObject>>,
    revision: Revision,
) -> Vec<Change> {
    let mut changes = Vec::new();
    for object in new.iter() {
        match old.get(&object.key) {
            Some(before) if before.create_revision != object.create_revision => {
                // Another object of the same name.
                changes.push(Change::Gone(object.key.clone(), object.create_revision));
                changes.push(Change::Put(object.clone()));
            }
            Some(before) if before.revision == object.revision => {}
            _ => changes.push(Change::Put(object.clone())),
        }
    }
    for object in old.iter() {
        if new.get(&object.key).is_none() {
            changes.push(Change::Gone(object.key.clone(), revision));
        }
    }
    // Stable, so that a replaced object goes before it comes.
    changes.sort_by_key(Change::revision);
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object(key: &str, create: u64, revision: u64) -> Arc<CachedObject> {
        Arc::new(CachedObject {
            key: key.into(),
            value: bytes::Bytes::new(),
            splice: 0,
            revision: Revision(revision),
            create_revision: Revision(create),
            facts: Arc::default(),
        })
    }

    #[test]
    fn the_difference_is_told_in_the_order_of_revisions() {
        let old = [
            object("/changed", 2, 2),
            object("/gone", 3, 3),
            object("/replaced", 4, 5),
            object("/same", 1, 1),
        ];
        let new = [
            object("/changed", 2, 9),
            object("/new", 8, 8),
            object("/replaced", 7, 7),
            object("/same", 1, 1),
        ];
        let [old, new] = [old, new].map(|objects| OrderedMap::from_sorted(objects.to_vec()));
        let told: Vec<String> = diff(&old, &new, Revision(10))
            .iter()
            .map(|change| match change {
                Change::Put(object) => format!("+{}@{}", object.key, object.revision),
                Change::Gone(key, revision) => format!("-{key}@{revision}"),
                Change::Unreadable(key, revision) => format!("?{key}@{revision}"),
            })
            .collect();
        assert_eq!(told, ["-/replaced@7", "+/replaced@7", "+/new@8", "+/changed@9", "-/gone@10"]);
    }
}
