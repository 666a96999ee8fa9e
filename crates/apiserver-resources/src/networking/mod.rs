//! The networking.k8s.io group.
pub(crate) mod address;
pub(crate) mod ingress;
pub(crate) mod ingress_class;
pub(crate) mod network_policy;

use machinery::{FieldErrors, names};

use crate::checks;
use crate::tree::At;

/// Checks a reference that names group, kind and name.
fn validate_typed_reference(reference: &At, errors: &mut FieldErrors) {
    let group = reference.field("apiGroup");
    if group.exists() {
        checks::text_rule(&group, names::dns1123_subdomain, errors);
    }
    checks::required_text(&reference.field("kind"), names::path_segment, errors);
    checks::required_text(&reference.field("name"), names::path_segment, errors);
}
