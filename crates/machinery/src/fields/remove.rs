//! Fields taken out of an object.
use serde_json::{Map, Value};

use super::element::Element;
use super::lists;
use super::schema::{Form, Typed, Walk};
use super::set::FieldSet;

/// The object without the fields of a set, and without what is left empty by that.
pub fn remove(ty: Typed<'_>, object: Map<String, Value>, set: &FieldSet) -> Map<String, Value> {
    if set.is_empty() {
        return object;
    }
    let keep = |(name, value): (String, Value)| match set.get(&Element::field(&name)) {
        None => Some((name, value)),
        Some(branch) if branch.member => None,
        Some(branch) => {
            let value = below(ty.child(&name).0, value, &branch.children)?;
            Some((name, value))
        }
    };
    object.into_iter().filter_map(keep).collect()
}

fn below(ty: Typed<'_>, value: Value, set: &FieldSet) -> Option<Value> {
    if set.is_empty() {
        return Some(value);
    }
    match (ty.walk(&value), value) {
        (Walk::Entries, Value::Object(map)) => {
            let map = remove(ty, map, set);
            (!map.is_empty()).then_some(Value::Object(map))
        }
        (Walk::Items, Value::Array(items)) => {
            let keep = |item: Value| match lists::name(ty, &item).ok().and_then(|name| set.get(&name)) {
                None => Some(item),
                Some(branch) if branch.member => None,
                Some(branch) => below(ty.item(), item, &branch.children),
            };
            let items: Vec<Value> = items.into_iter().filter_map(keep).collect();
            (!items.is_empty()).then_some(Value::Array(items))
        }
        // Something in a unit is to go, so the unit goes.
        (Walk::Unit, Value::Object(_) | Value::Array(_)) => None,
        (_, scalar) => Some(scalar),
    }
}

/// The set with every struct in it whose fields are: so that a struct goes when its last field does.
pub(super) fn with_structs(ty: Typed<'_>, set: &FieldSet) -> FieldSet {
    let mut out = set.clone();
    add_structs(ty, &mut out);
    out
}

fn add_structs(ty: Typed<'_>, set: &mut FieldSet) {
    set.retain(|element, branch| {
        if branch.children.is_empty() {
            return;
        }
        let (below, named) = match element.name() {
            Some(name) => {
                let (below, child) = ty.child(name);
                (below, child.named)
            }
            None => (ty.item(), false),
        };
        branch.member |= named;
        add_structs(below, &mut branch.children);
    });
}

/// Brings a set that was made for another version of a schema in line: what is one unit now is owned as one.
pub(super) fn reconcile(ty: Typed<'_>, set: &mut FieldSet) {
    set.retain(|element, branch| {
        if branch.children.is_empty() {
            return;
        }
        let below = match element.name() {
            Some(name) => ty.child(name).0,
            None if matches!(ty.form(), Form::Set | Form::Keyed) => ty.item(),
            None => return,
        };
        match below.form() {
            Form::AtomicMap | Form::AtomicList => {
                branch.children = FieldSet::default();
                branch.member = true;
            }
            Form::Deduced => {}
            _ => reconcile(below, &mut branch.children),
        }
    });
}
