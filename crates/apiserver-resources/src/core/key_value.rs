//! What ConfigMap and Secret share: keys, size, immutability.
use base64::Engine as _;
use machinery::{FieldError, FieldErrors};

use crate::tree::{At, same};

/// Most bytes of all values together.
pub(crate) const MAX_SIZE: usize = 1024 * 1024;

/// Checks the key of an entry.
pub(crate) fn check_key(at: &At, key: &str, rule: fn(&str) -> Vec<String>, errors: &mut FieldErrors) {
    errors.extend(rule(key).into_iter().map(|problem| FieldError::invalid(&at.path(), key, problem)));
}

/// Bytes that base64 text stands for.
pub(crate) fn decoded_len(text: &str) -> usize {
    base64::engine::general_purpose::STANDARD.decode(text).map_or(0, |bytes| bytes.len())
}

/// What is marked `immutable` keeps its mark and its values.
pub(crate) fn check_immutable(new: &At, old: &At, fields: &[&'static str], errors: &mut FieldErrors) {
    if !old.field("immutable").is_true() {
        return;
    }
    let problem = "field is immutable when `immutable` is set";
    if !new.field("immutable").is_true() {
        errors.push(new.field("immutable").forbidden(problem));
    }
    for field in fields {
        if !same(new.field(field).get(), old.field(field).get()) {
            errors.push(new.field(field).forbidden(problem));
        }
    }
}
