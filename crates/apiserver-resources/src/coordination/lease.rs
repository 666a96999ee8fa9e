//! coordination.k8s.io/v1 Lease: rules on the way in.
use machinery::FieldErrors;

use crate::checks;
use crate::rules::{Facts, Rules};
use crate::tree::At;

/// Rules of leases.
pub(crate) struct Lease;

impl Rules for Lease {
    const FACTS: Facts = Facts::PLAIN;

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let spec = object.field("spec");
        checks::positive(&spec.field("leaseDurationSeconds"), errors);
        checks::non_negative(&spec.field("leaseTransitions"), errors);
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }
}
