//! What a write changed.
use serde_json::{Map, Value};

use super::element::Element;
use super::lists;
use super::schema::{Typed, Walk};
use super::set::{Branch, FieldSet};

/// The difference between two objects.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diff {
    /// Fields that are new or have another value.
    pub changed: FieldSet,
    /// Fields that are gone.
    pub removed: FieldSet,
}

impl Diff {
    /// Whether the objects are equal.
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty()
    }
}

/// Compares two objects of a type. Never fails: what is not of its type is one unit.
pub fn compare(ty: Typed<'_>, old: &Map<String, Value>, new: &Map<String, Value>) -> Diff {
    let (changed, removed) = maps(ty, old, new);
    Diff { changed, removed }
}

fn maps(ty: Typed<'_>, old: &Map<String, Value>, new: &Map<String, Value>) -> (FieldSet, FieldSet) {
    let (mut changed, mut removed) = (FieldSet::default(), FieldSet::default());
    for (name, new) in new {
        let (below, child) = ty.child(name);
        match old.get(name) {
            Some(old) => {
                let (more, less) = values(below, old, new);
                if !more.is_empty() {
                    changed.push(Element::field(name), more);
                }
                if !less.is_empty() {
                    removed.push(Element::field(name), less);
                }
            }
            None => changed.push(Element::field(name), appeared(below, new, child.always)),
        }
    }
    for (name, old) in old {
        if !new.contains_key(name) {
            let (below, child) = ty.child(name);
            removed.push(Element::field(name), appeared(below, old, child.always));
        }
    }
    (changed, removed)
}

/// What there is of a value on one side only. `always`: it was there on the other, empty, and so were the fields in it
/// that always are.
fn appeared(ty: Typed<'_>, value: &Value, always: bool) -> Branch {
    match (always, ty.walk(value), value) {
        (true, Walk::Entries, Value::Object(map)) => {
            Branch { member: false, children: maps(ty, &Map::new(), map).0 }
        }
        (true, Walk::Items, _) => Branch { member: false, ..whole(ty, value) },
        (true, _, Value::Object(map)) if map.is_empty() => Branch::default(),
        (true, _, Value::Array(items)) if items.is_empty() => Branch::default(),
        _ => whole(ty, value),
    }
}

/// A value and everything below it.
pub(super) fn whole(ty: Typed<'_>, value: &Value) -> Branch {
    let mut branch = Branch::leaf();
    match (ty.walk(value), value) {
        (Walk::Entries, Value::Object(map)) => {
            for (name, value) in map {
                branch.children.push(Element::field(name), whole(ty.child(name).0, value));
            }
        }
        (Walk::Items, Value::Array(items)) => {
            for (name, items) in lists::names(ty, items).map(|n| lists::group(n, items)).unwrap_or_default() {
                let below = match items.as_slice() {
                    [one] => whole(ty.item(), one),
                    _ => Branch::leaf(),
                };
                branch.children.push(name, below);
            }
        }
        _ => {}
    }
    branch
}

fn values(ty: Typed<'_>, old: &Value, new: &Value) -> (Branch, Branch) {
    match (ty.walk(old), ty.walk(new), old, new) {
        (Walk::Entries, Walk::Entries, Value::Object(old), Value::Object(new)) => {
            let (changed, removed) = maps(ty, old, new);
            (Branch { member: false, children: changed }, Branch { member: false, children: removed })
        }
        (Walk::Items, Walk::Items, Value::Array(old), Value::Array(new)) => items(ty, old, new),
        _ if old == new => (Branch::default(), Branch::default()),
        (before, after, ..) => {
            // A value of another form than before: it changed, and so did all that is in it.
            let mut changed = Branch::leaf();
            if after != Walk::Unit {
                changed.children = whole(ty, new).children;
            }
            let mut removed = Branch::default();
            if before != Walk::Unit {
                removed.children = whole(ty, old).children;
            }
            (changed, removed)
        }
    }
}

fn items(ty: Typed<'_>, old: &[Value], new: &[Value]) -> (Branch, Branch) {
    let (mut changed, mut removed) = (Branch::default(), Branch::default());
    if old == new {
        return (changed, removed);
    }
    let (Ok(old_names), Ok(new_names)) = (lists::names(ty, old), lists::names(ty, new)) else {
        return (Branch::leaf(), removed);
    };
    let mut before = lists::group(old_names, old);
    for (name, new) in lists::group(new_names, new) {
        let old = before.remove(&name).unwrap_or_default();
        let (more, less) = match (old.as_slice(), new.as_slice()) {
            ([old], [new]) => values(ty.item(), old, new),
            ([], [new]) => (whole(ty.item(), new), Branch::default()),
            ([old], _) => (Branch::leaf(), whole(ty.item(), old)),
            ([_, _, ..], [new]) => (whole(ty.item(), new), Branch::leaf()),
            (old, new) if old == new => (Branch::default(), Branch::default()),
            _ => (Branch::leaf(), Branch::default()),
        };
        changed.children.push(name.clone(), more);
        removed.children.push(name, less);
    }
    for (name, old) in before {
        let less = match old.as_slice() {
            [old] => whole(ty.item(), old),
            _ => Branch::leaf(),
        };
        removed.children.push(name, less);
    }
    (changed, removed)
}
