//! JSON merge patch (RFC 7386).
use serde_json::{Map, Value};

use crate::{StatusError, StatusResult};

/// Applies a JSON merge patch, given as the bytes of an object.
pub fn merge_patch(original: &Value, patch: &[u8]) -> StatusResult<Value> {
    let patch: Map<String, Value> = serde_json::from_slice(patch)
        .map_err(|e| StatusError::bad_request(format!("error decoding patch: {e}")))?;
    let mut merged = original.clone();
    merge(&mut merged, &Value::Object(patch));
    Ok(merged)
}

/// Merges a patch into a value: null removes, objects merge, the rest replaces.
pub fn merge(value: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *value = patch.clone();
        return;
    };
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    let Value::Object(map) = value else { return };
    for (key, change) in patch {
        if change.is_null() {
            map.remove(key);
        } else {
            merge(map.entry(key.as_str()).or_insert(Value::Null), change);
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn null_removes_objects_merge_the_rest_replaces() {
        let original = json!({"a": {"b": 1, "c": 2}, "l": [1, 2], "s": "x"});
        for (patch, expect) in [
            (json!({}), original.clone()),
            (json!({"a": {"b": null}}), json!({"a": {"c": 2}, "l": [1, 2], "s": "x"})),
            (
                json!({"l": [3], "s": {"t": null, "u": 1}}),
                json!({"a": {"b": 1, "c": 2}, "l": [3], "s": {"u": 1}}),
            ),
            (json!({"a": null, "n": {"m": {"k": null}}}), json!({"l": [1, 2], "s": "x", "n": {"m": {}}})),
        ] {
            let got = merge_patch(&original, patch.to_string().as_bytes());
            assert_eq!(got.map_err(|e| e.code()), Ok(expect), "{patch}");
        }
        assert_eq!(merge_patch(&original, b"[]").map_err(|e| e.code()), Err(400));
    }
}
