//! policy/v1 PodDisruptionBudget: rules on the way in.
use machinery::{FieldErrors, Object};
use serde_json::{Value, json};

use crate::checks;
use crate::rules::{Facts, Rules};
use crate::tree::At;

/// Rules of disruption budgets.
pub(crate) struct PodDisruptionBudget;

impl Rules for PodDisruptionBudget {
    const FACTS: Facts = Facts::BOTH;

    fn status_at_birth(&self, _object: &Object) -> Option<Value> {
        Some(json!({"disruptionsAllowed": 0, "currentHealthy": 0, "desiredHealthy": 0, "expectedPods": 0}))
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let spec = object.field("spec");
        let (least, most) = (spec.field("minAvailable"), spec.field("maxUnavailable"));
        if least.exists() && most.exists() {
            errors.push(spec.invalid("minAvailable and maxUnavailable cannot be both set"));
        }
        for bound in [&least, &most] {
            checks::int_or_percent(bound, errors);
            checks::not_above_100_percent(bound, errors);
        }
        checks::label_selector(&spec.field("selector"), errors);
        let policy = spec.field("unhealthyPodEvictionPolicy");
        if policy.exists() {
            checks::one_of(&policy, &["AlwaysAllow", "IfHealthyBudget"], errors);
        }
    }

    fn validate_status(&self, new: &At, _old: &At, errors: &mut FieldErrors) {
        checks::conditions(&new.fields(&["status", "conditions"]), errors);
        for field in ["disruptionsAllowed", "currentHealthy", "desiredHealthy", "expectedPods"] {
            checks::non_negative(&new.field("status").field(field), errors);
        }
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }
}
