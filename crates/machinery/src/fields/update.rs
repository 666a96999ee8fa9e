//! What every write but an apply does to the owners of fields.
use std::borrow::Cow;

use serde_json::Value;

use super::compare::{Diff, compare};
use super::managed::{Entry, Managed, Operation, is_reset};
use super::scope::{Scope, Versions, strip};
use crate::Object;

const MANAGED_FIELDS: [&str; 2] = ["metadata", "managedFields"];

/// Sets `metadata.managedFields` of an object that is about to replace another (`live`; without metadata where there
/// is none yet). Both are in the version that is stored.
///
/// The writer owns what it changed, and everybody else loses that. Nothing changed, nothing happens.
pub fn update(versions: &dyn Versions, scope: &Scope<'_>, live: &Object, new: &mut Object) {
    let given = new.remove(&MANAGED_FIELDS);
    let before = live.at(&MANAGED_FIELDS);
    let creates = live.uid().is_empty();
    // Through a subresource nobody sets managedFields by hand.
    let given = if scope.subresource.is_empty() { given } else { before.cloned() };
    let reset = given.as_ref().is_some_and(is_reset);
    // A writer that does not know of managedFields does not delete them.
    let given = if reset { None } else { given.filter(|g| !g.is_null()).or_else(|| before.cloned()) };
    if given.is_none() && !creates {
        return;
    }
    let Some(diff) = difference(versions, scope, live, new, scope.api_version) else { return };
    if diff.is_empty() && given.as_ref() == before {
        put(new, given);
        return;
    }
    let mut managed = match Managed::decode(given.as_ref()) {
        Ok(managed) if !managed.0.is_empty() => managed,
        _ => Managed::decode(before).unwrap_or_default(),
    };
    if managed.0.is_empty() && !creates {
        return;
    }
    disown(versions, scope, live, new, &diff, &mut managed);
    own(scope, diff, &mut managed);
    managed.cap();
    put(new, managed.encode());
}

pub(super) fn put(object: &mut Object, managed: Option<Value>) {
    match managed {
        Some(managed) => object.set(&MANAGED_FIELDS, managed),
        None => {
            object.remove(&MANAGED_FIELDS);
        }
    }
}

/// What a write changed, in the terms of a version. `None`: there is no such version.
pub(super) fn difference(
    versions: &dyn Versions,
    scope: &Scope<'_>,
    live: &Object,
    new: &Object,
    api_version: &str,
) -> Option<Diff> {
    let ty = versions.typed(api_version)?;
    let (live, new) = (versions.convert(live, api_version), versions.convert(new, api_version));
    let mut diff = compare(ty, &live.0, &new.0);
    for set in [&mut diff.changed, &mut diff.removed] {
        strip(set);
        scope.reset.filter(set);
    }
    Some(diff)
}

/// Takes what a write changed from everybody.
fn disown(
    versions: &dyn Versions,
    scope: &Scope<'_>,
    live: &Object,
    new: &Object,
    diff: &Diff,
    managed: &mut Managed,
) {
    managed.0.retain_mut(|entry| {
        let Some(ty) = versions.typed(&entry.api_version) else { return false };
        super::remove::reconcile(ty, &mut entry.fields);
        let diff = if entry.api_version == scope.api_version {
            Cow::Borrowed(diff)
        } else {
            Cow::Owned(difference(versions, scope, live, new, &entry.api_version).unwrap_or_default())
        };
        entry.fields.subtract(&diff.changed);
        entry.fields.subtract(&diff.removed);
        !entry.fields.is_empty()
    });
}

fn own(scope: &Scope<'_>, diff: Diff, managed: &mut Managed) {
    if diff.changed.is_empty() {
        return;
    }
    let mut entry = Entry {
        manager: scope.manager().to_owned(),
        operation: Operation::Update,
        api_version: scope.api_version.to_owned(),
        subresource: scope.subresource.to_owned(),
        time: Some(scope.now.to_owned()),
        fields: diff.changed,
    };
    if let Some(previous) = managed.take(&entry) {
        entry.fields.union(previous.fields);
    }
    managed.0.push(entry);
}
