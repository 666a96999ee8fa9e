//! Rules of `ObjectMeta`, which all kinds share.
use machinery::FieldErrors;

use crate::tree::At;

/// Checks the form of a finalizer's name.
pub(crate) fn validate_finalizer(_at: &At, _errors: &mut FieldErrors) {}
