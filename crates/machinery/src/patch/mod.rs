//! The three patches that work on trees: JSON patch, JSON merge patch, strategic merge patch.
//! Errors are what upstream's server answers (apiserver/pkg/endpoints/handlers/patch.go).
mod json;
mod merge;
mod strategic;

pub use json::{MAX_OPERATIONS, json_patch};
pub use merge::{merge, merge_patch};
pub use strategic::{MergeField, MergeSchema, strategic_merge, strategic_merge_patch};

use crate::StatusError;

/// 422 without a word of why, as upstream answers where a patch does not fit the object.
fn does_not_apply() -> StatusError {
    let mut e =
        StatusError::new(422, "Invalid", "the server rejected our request due to an error in our request");
    e.details_mut();
    e
}
