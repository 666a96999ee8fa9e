//! Lists of resources: name to quantity.
use serde_json::Value;

use crate::tree::{Tree, child};

/// Writes every quantity of the list in a field in its canonical form.
pub(crate) fn fill(tree: &mut Tree, field: &str) {
    let Some(list) = child(tree, field) else { return };
    for value in list.values_mut() {
        canonical(value);
    }
}

/// Writes the quantity in a field in its canonical form.
pub(crate) fn fill_one(tree: &mut Tree, field: &str) {
    if let Some(value) = tree.get_mut(field) {
        canonical(value);
    }
}

/// What is no quantity stays, for validation to find.
fn canonical(value: &mut Value) {
    if let Value::Number(number) = value {
        *value = Value::String(number.to_string());
    }
}
