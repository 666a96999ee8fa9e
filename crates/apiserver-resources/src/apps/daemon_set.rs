//! apps/v1 DaemonSet: rules on the way in.
use machinery::{FieldErrors, Object};
use serde_json::{Value, json};

use crate::apps::deployment::is_zero;
use crate::apps::workload;
use crate::checks;
use crate::core::pod_spec::defaults::fill_template;
use crate::core::pod_spec::warnings;
use crate::rules::{Facts, Rules};
use crate::tree::{At, default_text, default_value, ensure, text_of};

/// Rules of daemon sets.
pub(crate) struct DaemonSet;

impl Rules for DaemonSet {
    const FACTS: Facts = Facts::BOTH;

    fn fill_defaults(&self, object: &mut Object) {
        let spec = ensure(&mut object.0, "spec");
        let strategy = ensure(spec, "updateStrategy");
        default_text(strategy, "type", "RollingUpdate");
        if text_of(strategy, "type") == "RollingUpdate" {
            let rolling = ensure(strategy, "rollingUpdate");
            default_value(rolling, "maxUnavailable", 1);
            default_value(rolling, "maxSurge", 0);
        }
        default_value(spec, "revisionHistoryLimit", 10);
        fill_template(spec);
    }

    fn status_at_birth(&self, _object: &Object) -> Option<Value> {
        Some(json!({
            "currentNumberScheduled": 0, "numberMisscheduled": 0, "desiredNumberScheduled": 0, "numberReady": 0,
        }))
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        warnings::of_template(new, old, &["spec", "template"])
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let spec = object.field("spec");
        workload::validate(&spec, "daemonset", "DaemonSet", errors);
        checks::non_negative(&spec.field("minReadySeconds"), errors);
        validate_strategy(&spec.field("updateStrategy"), errors);
        checks::non_negative(&spec.field("revisionHistoryLimit"), errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        self.validate(new, errors);
        checks::immutable(&new.fields(&["spec", "selector"]), &old.fields(&["spec", "selector"]), errors);
    }

    fn validate_status(&self, new: &At, _old: &At, errors: &mut FieldErrors) {
        for field in [
            "currentNumberScheduled",
            "numberMisscheduled",
            "desiredNumberScheduled",
            "numberReady",
            "observedGeneration",
            "updatedNumberScheduled",
            "numberAvailable",
            "numberUnavailable",
        ] {
            checks::non_negative(&new.field("status").field(field), errors);
        }
    }
}

fn validate_strategy(strategy: &At, errors: &mut FieldErrors) {
    let (ty, rolling) = (strategy.field("type"), strategy.field("rollingUpdate"));
    match ty.text() {
        "OnDelete" => {}
        "RollingUpdate" => {
            if !rolling.exists() {
                errors.push(rolling.required(""));
                return;
            }
            let (unavailable, surge) = (rolling.field("maxUnavailable"), rolling.field("maxSurge"));
            checks::int_or_percent(&unavailable, errors);
            checks::int_or_percent(&surge, errors);
            checks::not_above_100_percent(&unavailable, errors);
            checks::not_above_100_percent(&surge, errors);
            match (is_zero(&unavailable), is_zero(&surge)) {
                (false, false) => {
                    errors.push(surge.invalid("may not be set when maxUnavailable is non-zero"))
                }
                (true, true) => errors.push(unavailable.required("cannot be 0 when maxSurge is 0")),
                _ => {}
            }
        }
        _ => checks::one_of(&ty, &["RollingUpdate", "OnDelete"], errors),
    }
}
