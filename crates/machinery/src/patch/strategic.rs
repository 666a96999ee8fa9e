//! Strategic merge patch: lists of objects merge by a key that the type of the object names.
//!
//! Directives: `$patch` (replace, delete), `$retainKeys`, `$setElementOrder/<field>`,
//! `$deleteFromPrimitiveList/<field>`. Semantics are upstream's (apimachinery/pkg/util/strategicpatch).
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::does_not_apply;
use crate::{StatusError, StatusResult};

const PATCH: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const SET_ORDER: &str = "$setElementOrder/";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";

/// What a type says about merging its fields.
pub trait MergeSchema {
    /// Name of the type, for messages.
    fn name(&self) -> &str;
    /// A field of the type, or the value of a map's key. `None`: the type does not know it, lists replace.
    fn field(&self, name: &str) -> Option<MergeField<'_>>;
}

/// How one field merges.
pub struct MergeField<'a> {
    /// Type of the field's value; for a list, of its items. `None` for values without fields.
    pub schema: Option<Box<dyn MergeSchema + 'a>>,
    /// The list merges instead of being replaced.
    pub merge: bool,
    /// The map is replaced instead of being merged.
    pub replace: bool,
    /// The field that identifies an item; empty for lists of scalars.
    pub merge_key: &'a str,
}

/// A type about which nothing is known.
struct Unknown;

impl MergeSchema for Unknown {
    fn name(&self) -> &str {
        "unknown"
    }

    fn field(&self, _: &str) -> Option<MergeField<'_>> {
        None
    }
}

/// Applies a strategic merge patch, given as the bytes of an object.
pub fn strategic_merge_patch(
    original: &Value,
    patch: &[u8],
    schema: &dyn MergeSchema,
) -> StatusResult<Value> {
    let patch: Map<String, Value> =
        serde_json::from_slice(patch).map_err(|e| StatusError::bad_request(e.to_string()))?;
    strategic_merge(original.clone(), patch, schema)
}

/// Merges a parsed strategic merge patch into a value.
pub fn strategic_merge(
    original: Value,
    patch: Map<String, Value>,
    schema: &dyn MergeSchema,
) -> StatusResult<Value> {
    let original = match original {
        Value::Object(map) => map,
        _ => Map::new(),
    };
    merge_map(original, patch, schema).map(Value::Object)
}

fn bad_format(what: &str) -> StatusError {
    StatusError::bad_request(format!("invalid patch format of {what}"))
}

/// An error upstream hands on as it is, which becomes a 500 without a reason.
fn plain(message: String) -> StatusError {
    StatusError::new(500, "", message)
}

fn no_merge_key(item: &Map<String, Value>, key: &str) -> StatusError {
    let item = Value::Object(item.clone());
    plain(format!("map: {item} does not contain declared merge key: {key}"))
}

fn unknown_directive(directive: &Value, map: Map<String, Value>) -> StatusError {
    plain(format!("unknown patch type: {directive} in map: {}", Value::Object(map)))
}

fn merge_map(
    mut original: Map<String, Value>,
    mut patch: Map<String, Value>,
    schema: &dyn MergeSchema,
) -> StatusResult<Map<String, Value>> {
    match patch.remove(PATCH) {
        None => {}
        Some(Value::String(s)) if s == "replace" => return Ok(patch),
        Some(Value::String(s)) if s == "delete" => return Ok(Map::new()),
        Some(other) => return Err(unknown_directive(&other, patch)),
    }
    retain_keys(&mut original, &mut patch)?;
    merge_ordered_lists(&mut original, &mut patch, schema)?;
    for (key, change) in patch {
        let (key, deletes) = match key.strip_prefix(DELETE_FROM) {
            Some(field) => (field.to_owned(), true),
            None => (key, false),
        };
        if change.is_null() {
            original.remove(&key);
            continue;
        }
        let Some(old) = original.get_mut(&key) else {
            if !deletes {
                original.extend(clean(change).map(|v| (key, v)));
            }
            continue;
        };
        let merged = match (old.take(), change) {
            (Value::Object(old), Value::Object(change)) => {
                let field = schema.field(&key);
                if field.as_ref().is_some_and(|f| f.replace) {
                    Value::Object(change)
                } else {
                    let inner = field.and_then(|f| f.schema);
                    Value::Object(merge_map(old, change, inner.as_deref().unwrap_or(&Unknown))?)
                }
            }
            (Value::Array(old), Value::Array(change)) => {
                Value::Array(merge_field_list(old, change, schema.field(&key), deletes)?)
            }
            (old, _) if deletes => old,
            (_, change) => clean(change).unwrap_or(Value::Null),
        };
        original.insert(key, merged);
    }
    Ok(original)
}

/// Drops from the original what `$retainKeys` does not name.
fn retain_keys(original: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> StatusResult<()> {
    let Some(keys) = patch.remove(RETAIN_KEYS) else {
        return Ok(());
    };
    let Value::Array(keys) = keys else {
        return Err(bad_format("retainKeys"));
    };
    let keys: BTreeSet<&str> = keys.iter().filter_map(Value::as_str).collect();
    let unnamed = |key: &str, value: &Value| {
        !value.is_null()
            && !key.starts_with(SET_ORDER)
            && !key.starts_with(DELETE_FROM)
            && !keys.contains(key)
    };
    if patch.iter().any(|(key, value)| unnamed(key, value)) {
        return Err(bad_format("retainKeys"));
    }
    original.retain(|key, _| keys.contains(key.as_str()));
    Ok(())
}

/// Merges the lists for which the patch gives an order, and brings them into it.
fn merge_ordered_lists(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    schema: &dyn MergeSchema,
) -> StatusResult<()> {
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(SET_ORDER)).cloned().collect();
    for directive in directives {
        let Some(order) = patch.remove(&directive) else {
            continue;
        };
        let Value::Array(order) = order else {
            return Err(bad_format("setElementOrder list"));
        };
        let key = &directive[SET_ORDER.len()..];
        let old = match original.get(key) {
            None | Some(Value::Null) => None,
            Some(Value::Array(items)) => Some(items.clone()),
            Some(_) => return Err(bad_format("setElementOrder list")),
        };
        let change = match patch.get(key) {
            None | Some(Value::Null) => None,
            Some(Value::Array(items)) => Some(items.clone()),
            Some(_) => return Err(bad_format("setElementOrder list")),
        };
        if patch.get(key).is_some_and(Value::is_null) {
            continue;
        }
        let field = schema.field(key);
        let merge_key = field.as_ref().map_or("", |f| f.merge_key).to_owned();
        if let Some(change) = &change {
            check_order(change, &order, &merge_key)?;
        }
        let merged = match (&old, change) {
            (None, None) => continue,
            (Some(old), None) => old.clone(),
            (None, Some(change)) => change.into_iter().filter_map(clean).collect(),
            (Some(old), Some(change)) => merge_field_list(old.clone(), change, field, false)?,
        };
        let old = old.unwrap_or_default();
        original.insert(key.to_owned(), Value::Array(in_order(merged, &order, &old, &merge_key)));
        patch.remove(key);
    }
    Ok(())
}

/// Fails where the patch's own items do not follow the order it gives.
fn check_order(patch: &[Value], order: &[Value], merge_key: &str) -> StatusResult<()> {
    let mut at = 0;
    let items = patch.iter().filter(|item| item.get(PATCH).is_none());
    for item in items {
        match order[at..].iter().position(|o| same(item, o, merge_key)) {
            Some(i) => at += i + 1,
            None => {
                return Err(plain(format!(
                    "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                    Value::from(patch),
                    Value::from(order)
                )));
            }
        }
    }
    Ok(())
}

fn merge_field_list(
    original: Vec<Value>,
    patch: Vec<Value>,
    field: Option<MergeField<'_>>,
    deletes: bool,
) -> StatusResult<Vec<Value>> {
    match field {
        Some(field) if field.merge => merge_list(original, patch, &field, deletes),
        _ if deletes => Ok(original.into_iter().filter(|v| !patch.contains(v)).collect()),
        _ => Ok(patch),
    }
}

fn merge_list(
    mut original: Vec<Value>,
    mut patch: Vec<Value>,
    field: &MergeField<'_>,
    deletes: bool,
) -> StatusResult<Vec<Value>> {
    let all = || original.iter().chain(&patch);
    if all().any(Value::is_array) {
        return Err(does_not_apply());
    }
    let maps = all().filter(|v| v.is_object()).count();
    if maps != 0 && maps != original.len() + patch.len() {
        return Err(plain("list element types are not identical".to_owned()));
    }
    if maps == 0 {
        if deletes {
            original.retain(|v| !patch.contains(v));
            return Ok(original);
        }
        let mut merged: Vec<Value> = Vec::with_capacity(original.len() + patch.len());
        for value in original.iter().chain(&patch) {
            if !merged.contains(value) {
                merged.push(value.clone());
            }
        }
        return Ok(in_order(merged, &patch, &original, ""));
    }
    let schema = field.schema.as_deref().unwrap_or(&Unknown);
    if field.merge_key.is_empty() {
        return Err(plain(format!("cannot merge lists without merge key for {}", schema.name())));
    }
    apply_item_directives(&mut original, &mut patch, field.merge_key)?;
    let (order, server_order) = (patch.clone(), original.clone());
    let mut merged = original;
    for item in patch {
        let Value::Object(item) = item else { continue };
        let Some(id) = item.get(field.merge_key) else {
            return Err(no_merge_key(&item, field.merge_key));
        };
        match merged.iter_mut().find(|v| v.get(field.merge_key) == Some(id)) {
            Some(old) => {
                let map = match old.take() {
                    Value::Object(map) => map,
                    _ => Map::new(),
                };
                *old = Value::Object(merge_map(map, item, schema)?);
            }
            None => merged.extend(clean(Value::Object(item))),
        }
    }
    Ok(in_order(merged, &order, &server_order, field.merge_key))
}

/// Carries out the `$patch` of items of a list and leaves the items without one.
fn apply_item_directives(
    original: &mut Vec<Value>,
    patch: &mut Vec<Value>,
    merge_key: &str,
) -> StatusResult<()> {
    let mut replace = false;
    let mut kept = Vec::with_capacity(patch.len());
    for item in std::mem::take(patch) {
        let Value::Object(map) = &item else { continue };
        match map.get(PATCH) {
            None => kept.push(item),
            Some(Value::String(s)) if s == "delete" => {
                let Some(id) = map.get(merge_key) else {
                    return Err(no_merge_key(map, merge_key));
                };
                original.retain(|v| v.get(merge_key) != Some(id));
            }
            Some(Value::String(s)) if s == "replace" => replace = true,
            Some(Value::String(s)) if s == "merge" => {
                return Err(plain("merging lists cannot yet be specified in the patch".to_owned()));
            }
            Some(other) => return Err(unknown_directive(other, map.clone())),
        }
    }
    if replace {
        *original = kept;
    } else {
        *patch = kept;
    }
    Ok(())
}

fn same(a: &Value, b: &Value, merge_key: &str) -> bool {
    if merge_key.is_empty() {
        a == b
    } else {
        matches!((a.get(merge_key), b.get(merge_key)), (Some(a), Some(b)) if a == b)
    }
}

/// Orders a merged list: items the patch names in the patch's order, others in the server's, and between the
/// two kinds the server's order where it knows both, else the patch's items first.
fn in_order(merged: Vec<Value>, order: &[Value], server_order: &[Value], merge_key: &str) -> Vec<Value> {
    let find = |list: &[Value], item: &Value| list.iter().position(|o| same(o, item, merge_key));
    let (mut named, mut others) = (Vec::new(), Vec::new());
    for item in merged {
        match find(order, &item) {
            Some(i) => named.push((i, item)),
            None => others.push((find(server_order, &item), item)),
        }
    }
    named.sort_by_key(|(i, _)| *i);
    others.sort_by_key(|(i, _)| *i);
    let mut out = Vec::with_capacity(named.len() + others.len());
    let mut named = named.into_iter().map(|(_, item)| (find(server_order, &item), item)).peekable();
    let mut others = others.into_iter().peekable();
    loop {
        let take_other = match (others.peek(), named.peek()) {
            (None, None) => return out,
            (Some(_), None) => true,
            (None, Some(_)) => false,
            (Some((other, _)), Some((name, _))) => {
                matches!((other, name), (Some(other), Some(name)) if other < name)
            }
        };
        let next = if take_other { others.next() } else { named.next() };
        out.extend(next.map(|(_, item)| item));
    }
}

/// What is left of a patch's value that is taken as a whole: no nulls, no directives.
fn clean(value: Value) -> Option<Value> {
    match value {
        Value::Null => None,
        Value::Object(map) => {
            if map.get(PATCH).is_some_and(|d| d == "delete") {
                return None;
            }
            let fields = map
                .into_iter()
                .filter(|(k, _)| {
                    k != PATCH && k != RETAIN_KEYS && !k.starts_with(SET_ORDER) && !k.starts_with(DELETE_FROM)
                })
                .filter_map(|(k, v)| Some((k, clean(v)?)));
            Some(Value::Object(fields.collect()))
        }
        Value::Array(items) => Some(Value::Array(items.into_iter().filter_map(clean).collect())),
        scalar => Some(scalar),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// `items` merges by name, `names` merges as scalars, `plain` and `raw` replace.
    struct Type;

    impl MergeSchema for Type {
        fn name(&self) -> &str {
            "Type"
        }

        fn field(&self, name: &str) -> Option<MergeField<'_>> {
            let inner = || Some(Box::new(Type) as Box<dyn MergeSchema>);
            let field = |schema, merge, merge_key| MergeField { schema, merge, replace: false, merge_key };
            match name {
                "items" => Some(field(inner(), true, "name")),
                "names" => Some(field(None, true, "")),
                "inner" => Some(field(inner(), false, "")),
                _ => None,
            }
        }
    }

    fn check(original: Value, patch: Value, expect: Result<Value, u16>) {
        let got = strategic_merge_patch(&original, patch.to_string().as_bytes(), &Type);
        assert_eq!(got.map_err(|e| e.code()), expect, "{patch}");
    }

    #[test]
    fn merges_maps_and_replaces_plain_lists() {
        check(
            json!({"a": 1, "inner": {"x": 1, "y": 2}, "plain": [1, 2]}),
            json!({"inner": {"y": null, "z": 3}, "plain": [3], "n": {"k": null, "m": 1}}),
            Ok(json!({"a": 1, "inner": {"x": 1, "z": 3}, "plain": [3], "n": {"m": 1}})),
        );
    }

    #[test]
    fn merges_lists_by_key_with_the_patch_first() {
        check(
            json!({"items": [{"name": "a", "v": 1}, {"name": "b", "v": 1}]}),
            json!({"items": [{"name": "c"}, {"name": "b", "v": 2, "items": [{"name": "x"}]}]}),
            Ok(
                json!({"items": [{"name": "c"}, {"name": "a", "v": 1}, {"name": "b", "v": 2, "items": [{"name": "x"}]}]}),
            ),
        );
        check(json!({"items": [{"name": "a"}]}), json!({"items": [{"v": 1}]}), Err(500));
    }

    #[test]
    fn obeys_directives_in_lists() {
        let o = || json!({"items": [{"name": "a", "v": 1}, {"name": "b"}]});
        check(
            o(),
            json!({"items": [{"name": "a", "$patch": "delete"}]}),
            Ok(json!({"items": [{"name": "b"}]})),
        );
        check(
            o(),
            json!({"items": [{"$patch": "replace"}, {"name": "z"}]}),
            Ok(json!({"items": [{"name": "z"}]})),
        );
        check(o(), json!({"items": [{"name": "a", "$patch": "frob"}]}), Err(500));
        check(
            o(),
            json!({"items": [{"name": "n", "$retainKeys": ["name"], "inner": {"$patch": "delete"}}]}),
            Ok(json!({"items": [{"name": "n"}, {"name": "a", "v": 1}, {"name": "b"}]})),
        );
    }

    #[test]
    fn obeys_directives_in_maps() {
        let o = || json!({"inner": {"x": 1, "y": 2}});
        check(o(), json!({"inner": {"$patch": "replace", "z": 1}}), Ok(json!({"inner": {"z": 1}})));
        check(o(), json!({"inner": {"$patch": "delete"}}), Ok(json!({"inner": {}})));
        check(o(), json!({"inner": {"$patch": "frob"}}), Err(500));
        check(
            o(),
            json!({"inner": {"$retainKeys": ["y", "z"], "z": 1}}),
            Ok(json!({"inner": {"y": 2, "z": 1}})),
        );
        check(o(), json!({"inner": {"$retainKeys": ["y"], "z": 1}}), Err(400));
        check(o(), json!({"inner": {"$retainKeys": "y"}}), Err(400));
    }

    #[test]
    fn sets_the_order_of_elements() {
        let o = || json!({"items": [{"name": "a"}, {"name": "s"}, {"name": "b"}]});
        check(
            o(),
            json!({"$setElementOrder/items": [{"name": "b"}, {"name": "a"}]}),
            Ok(json!({"items": [{"name": "s"}, {"name": "b"}, {"name": "a"}]})),
        );
        check(
            o(),
            json!({"$setElementOrder/items": [{"name": "b"}, {"name": "c"}, {"name": "a"}], "items": [{"name": "c", "v": 1}]}),
            Ok(json!({"items": [{"name": "s"}, {"name": "b"}, {"name": "c", "v": 1}, {"name": "a"}]})),
        );
        check(o(), json!({"$setElementOrder/items": [{"name": "a"}], "items": [{"name": "c"}]}), Err(500));
        check(o(), json!({"$setElementOrder/items": 1}), Err(400));
        check(json!({}), json!({"$setElementOrder/items": [{"name": "a"}]}), Ok(json!({})));
    }

    #[test]
    fn merges_and_deletes_scalars() {
        let o = || json!({"names": ["a", "b", "c"]});
        check(o(), json!({"names": ["d", "a"]}), Ok(json!({"names": ["d", "a", "b", "c"]})));
        check(o(), json!({"$deleteFromPrimitiveList/names": ["b", "x"]}), Ok(json!({"names": ["a", "c"]})));
        check(
            o(),
            json!({"$deleteFromPrimitiveList/names": ["b"], "$setElementOrder/names": ["d", "a"], "names": ["d"]}),
            Ok(json!({"names": ["d", "a", "c"]})),
        );
        check(json!({}), json!({"$deleteFromPrimitiveList/names": ["b"]}), Ok(json!({})));
    }

    #[test]
    fn refuses_what_is_no_object() {
        check(json!({}), json!([]), Err(400));
        check(json!({"names": [[1]]}), json!({"names": [[2]]}), Err(422));
    }
}
