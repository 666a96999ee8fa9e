//! JSON patch (RFC 6902) with the limits and liberties of upstream's library.
use std::borrow::Cow;

use json_patch::{Patch, PatchOperation};
use serde_json::Value;

use super::does_not_apply;
use crate::{StatusError, StatusResult};

/// The most operations of one patch.
pub const MAX_OPERATIONS: usize = 10_000;
/// The most bytes that `copy` may add in one patch.
const MAX_COPIED: usize = 3 << 20;
/// The deepest nesting an operation may reach: `copy` into itself would otherwise double it each time.
const MAX_DEPTH: usize = 100;

/// Applies a JSON patch, given as the bytes of its list of operations.
pub fn json_patch(original: &Value, patch: &[u8]) -> StatusResult<Value> {
    let mut operations: Value = serde_json::from_slice(patch)
        .map_err(|e| StatusError::bad_request(format!("error decoding patch: {e}")))?;
    let count = operations.as_array().map_or(0, Vec::len);
    if count > MAX_OPERATIONS {
        return Err(StatusError::too_large(format!(
            "Request entity is too large: The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {count}"
        )));
    }
    let mut document = original.clone();
    let mut copied = 0;
    for operation in operations.as_array_mut().into_iter().flatten() {
        resolve_negative_indexes(&document, operation);
        let Patch(one) = serde_json::from_value(Value::Array(vec![operation.take()]))
            .map_err(|e| StatusError::bad_request(format!("error decoding patch: {e}")))?;
        for operation in &one {
            apply(&mut document, operation, &mut copied)?;
        }
    }
    if count == 0 && !operations.is_array() {
        return Err(StatusError::bad_request("error decoding patch: not a list of operations"));
    }
    Ok(document)
}

fn apply(document: &mut Value, operation: &PatchOperation, copied: &mut usize) -> StatusResult<()> {
    match operation {
        PatchOperation::Test(test) => {
            // What is absent equals null.
            let found = document.pointer(test.path.as_str()).unwrap_or(&Value::Null);
            return if *found == test.value { Ok(()) } else { Err(does_not_apply()) };
        }
        PatchOperation::Copy(copy) => {
            if let Some(value) = document.pointer(copy.from.as_str()) {
                *copied = copied.saturating_add(serde_json::to_vec(value).map_or(0, |v| v.len()));
            }
            if *copied > MAX_COPIED {
                return Err(does_not_apply());
            }
        }
        _ => {}
    }
    let placed = match operation {
        PatchOperation::Add(o) => Some((&o.path, Some(&o.value))),
        PatchOperation::Replace(o) => Some((&o.path, Some(&o.value))),
        PatchOperation::Move(o) => Some((&o.path, document.pointer(o.from.as_str()))),
        PatchOperation::Copy(o) => Some((&o.path, document.pointer(o.from.as_str()))),
        PatchOperation::Remove(_) | PatchOperation::Test(_) => None,
    };
    if let Some((path, Some(value))) = placed
        && path.count() + depth(value) > MAX_DEPTH
    {
        return Err(does_not_apply());
    }
    json_patch::patch_unsafe(document, std::slice::from_ref(operation)).map_err(|_| does_not_apply())
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// Upstream's library lets an index count from the end (`/items/-1`).
fn resolve_negative_indexes(document: &Value, operation: &mut Value) {
    for field in ["path", "from"] {
        let Some(pointer) = operation.get(field).and_then(Value::as_str) else {
            continue;
        };
        if let Cow::Owned(resolved) = resolve(document, pointer) {
            operation[field] = resolved.into();
        }
    }
}

fn resolve<'a>(document: &Value, pointer: &'a str) -> Cow<'a, str> {
    if !pointer.contains("/-") {
        return Cow::Borrowed(pointer);
    }
    let mut at = Some(document);
    let mut out = String::with_capacity(pointer.len());
    for token in pointer.split('/').skip(1) {
        out.push('/');
        let back = token.strip_prefix('-').and_then(|n| n.parse::<usize>().ok());
        let index = match (at, back) {
            (Some(Value::Array(items)), Some(back)) => items.len().checked_sub(back),
            _ => None,
        };
        let token = match index {
            Some(i) => Cow::Owned(i.to_string()),
            None => Cow::Borrowed(token),
        };
        at = at.and_then(|v| v.pointer(&format!("/{token}")));
        out.push_str(&token);
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(original: Value, patch: Value, expect: Result<Value, u16>) {
        let got = json_patch(&original, patch.to_string().as_bytes()).map_err(|e| e.code());
        assert_eq!(got, expect, "{patch}");
    }

    #[test]
    fn applies_or_refuses_as_a_whole() {
        let o = || json!({"a": [1, 2], "b": {"c": 1}});
        check(o(), json!([]), Ok(o()));
        check(
            o(),
            json!([{"op": "add", "path": "/a/-", "value": 3}]),
            Ok(json!({"a": [1, 2, 3], "b": {"c": 1}})),
        );
        check(o(), json!([{"op": "remove", "path": "/a/-1"}]), Ok(json!({"a": [1], "b": {"c": 1}})));
        check(o(), json!([{"op": "replace", "path": "/x", "value": 3}]), Err(422));
        check(o(), json!([{"op": "remove", "path": "/x"}]), Err(422));
        check(o(), json!([{"op": "add", "path": "/x/y", "value": 3}]), Err(422));
        check(
            o(),
            json!([{"op": "copy", "from": "/a", "path": "/d"}]),
            Ok(json!({"a": [1, 2], "b": {"c": 1}, "d": [1, 2]})),
        );
        check(
            o(),
            json!([{"op": "move", "from": "/b/c", "path": "/d"}]),
            Ok(json!({"a": [1, 2], "b": {}, "d": 1})),
        );
        check(o(), json!([{"op": "frob", "path": "/x"}]), Err(400));
        check(o(), json!({"op": "remove"}), Err(400));
        check(o(), json!(vec![json!({"op": "test", "path": "/b/c", "value": 1}); 10_001]), Err(413));
    }

    #[test]
    fn what_is_absent_equals_null() {
        check(json!({}), json!([{"op": "test", "path": "/a/b", "value": null}]), Ok(json!({})));
        check(json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": null}]), Err(422));
        check(json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 1}]), Ok(json!({"a": 1})));
    }

    #[test]
    fn copies_are_bounded() {
        let doubling: Vec<Value> =
            (0..30).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"})).collect();
        check(json!({"a": ["x".repeat(1000)]}), json!(doubling), Err(422));
        let nesting = json!({"op": "copy", "from": "/a", "path": "/a/b"});
        check(json!({"a": {}}), json!(vec![nesting.clone(); 2]), Ok(json!({"a": {"b": {"b": {}}}})));
        check(json!({"a": {}}), json!(vec![nesting; 200]), Err(422));
    }
}
