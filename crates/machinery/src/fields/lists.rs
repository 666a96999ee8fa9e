//! The names of the items of lists.
use std::collections::BTreeMap;

use serde_json::{Map, Value};

use super::element::Element;
use super::schema::{Form, Typed};

/// The name of one item of the list at a place.
pub(super) fn name(list: Typed<'_>, item: &Value) -> Result<Element, String> {
    if list.form() == Form::Set {
        return match item {
            Value::Object(_) => Err("associative list without keys has an element that's a map type".into()),
            Value::Array(_) => Err("not supported: associative list with lists as elements".into()),
            Value::Null => Err("associative list without keys has an element that's an explicit null".into()),
            scalar => Ok(Element::value(scalar)),
        };
    }
    let item = match item {
        Value::Object(item) => item,
        Value::Null => return Err("associative list with keys may not have a null element".into()),
        _ => return Err("associative list with keys may not have non-map elements".into()),
    };
    let at = list.item();
    let mut keys = Map::new();
    let mut names = Vec::new();
    while let Some(key) = list.schema.key(list.at, names.len()) {
        let value = item.get(key).cloned().or_else(|| list.schema.key_default(at.at, key));
        if let Some(value) = value {
            keys.insert(key.to_owned(), value);
        }
        names.push(format!("{key:?}"));
    }
    if keys.is_empty() {
        return Err(format!(
            "associative list with keys has an element that omits all key fields [{}] (and doesn't have default values for any key fields)",
            names.join(" ")
        ));
    }
    Ok(Element::key(keys))
}

/// The names of all items; an error where one has none.
pub(super) fn names(list: Typed<'_>, items: &[Value]) -> Result<Vec<Element>, String> {
    items.iter().map(|item| name(list, item)).collect()
}

/// The items by name. More than one of a name is a list that is not as it should be, and still is stored.
pub(super) fn group(names: Vec<Element>, items: &[Value]) -> BTreeMap<Element, Vec<&Value>> {
    let mut groups: BTreeMap<Element, Vec<&Value>> = BTreeMap::new();
    for (name, item) in names.into_iter().zip(items) {
        groups.entry(name).or_default().push(item);
    }
    groups
}
