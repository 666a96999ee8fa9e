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
        let (strategy, preferred) = (spec.field("strategy"), spec.field("preferredHolder"));
        if strategy.text().contains('/') {
            checks::text_rule(&strategy, machinery::names::qualified_name, errors);
        } else if strategy.exists() {
            checks::one_of(&strategy, &["OldestEmulationVersion"], errors);
        }
        if !preferred.text().is_empty() && strategy.text().is_empty() {
            errors.push(preferred.invalid("may only be specified when strategy is defined"));
        }
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }
}
