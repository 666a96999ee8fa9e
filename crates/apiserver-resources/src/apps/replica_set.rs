//! apps/v1 ReplicaSet: rules on the way in.
use machinery::{FieldErrors, Object};
use serde_json::{Value, json};

use crate::apps::workload;
use crate::checks;
use crate::core::pod_spec::defaults::fill_template;
use crate::core::pod_spec::warnings;
use crate::rules::{Facts, Rules};
use crate::tree::{At, default_value, ensure};

/// Rules of replica sets.
pub(crate) struct ReplicaSet;

impl Rules for ReplicaSet {
    const FACTS: Facts = Facts::BOTH;

    fn fill_defaults(&self, object: &mut Object) {
        let spec = ensure(&mut object.0, "spec");
        default_value(spec, "replicas", 1);
        fill_template(spec);
    }

    fn status_at_birth(&self, _object: &Object) -> Option<Value> {
        Some(json!({"replicas": 0}))
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let mut found = warnings::of_name(new, old);
        found.extend(warnings::of_template(new, old, &["spec", "template"]));
        found
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let spec = object.field("spec");
        checks::non_negative(&spec.field("replicas"), errors);
        checks::non_negative(&spec.field("minReadySeconds"), errors);
        // Upstream says "deployment" here too.
        workload::validate(&spec, "deployment", "ReplicaSet", errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        self.validate(new, errors);
        checks::immutable(&new.fields(&["spec", "selector"]), &old.fields(&["spec", "selector"]), errors);
    }

    fn validate_status(&self, new: &At, _old: &At, errors: &mut FieldErrors) {
        workload::validate_replicas_status(&new.field("status"), errors);
    }
}
