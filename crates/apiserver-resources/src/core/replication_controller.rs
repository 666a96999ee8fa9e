//! v1 ReplicationController: rules on the way in.
use machinery::{FieldErrors, Object};
use serde_json::{Value, json};

use crate::apps::workload::validate_replicas_status;
use crate::checks;
use crate::core::pod_spec::defaults::fill_template;
use crate::core::pod_spec::validation::{validate_restarts_always, validate_template};
use crate::core::pod_spec::warnings;
use crate::rules::{Facts, Rules};
use crate::strategy::Propagation;
use crate::tree::{At, below, default_value, ensure};

/// Rules of replication controllers.
pub(crate) struct ReplicationController;

impl Rules for ReplicationController {
    const FACTS: Facts = Facts::BOTH;

    fn fill_defaults(&self, object: &mut Object) {
        let spec = ensure(&mut object.0, "spec");
        default_value(spec, "replicas", 1);
        fill_template(spec);
        let labels = below(spec, &["template", "metadata"]).and_then(|m| m.get("labels")).cloned();
        let Some(labels @ Value::Object(_)) = labels else { return };
        // A controller without a selector selects what it makes.
        if spec.get("selector").is_none_or(|s| s.as_object().is_none_or(serde_json::Map::is_empty)) {
            spec.insert("selector".into(), labels.clone());
        }
        if object.labels().next().is_none() {
            object.set(&["metadata", "labels"], labels);
        }
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
        checks::non_negative(&spec.field("minReadySeconds"), errors);
        let selector = spec.field("selector");
        if selector.is_empty() {
            errors.push(selector.required(""));
        }
        checks::non_negative(&spec.field("replicas"), errors);
        let template = spec.field("template");
        let labels = template.field("metadata").field("labels");
        let matches = selector.entries().all(|(key, value)| labels.key(key).get() == value.get());
        if !selector.is_empty() && !matches {
            errors.push(labels.invalid("`selector` does not match template `labels`"));
        }
        validate_template(&template, errors);
        validate_restarts_always(&template, "ReplicationController", errors);
    }

    fn validate_status(&self, new: &At, _old: &At, errors: &mut FieldErrors) {
        validate_replicas_status(&new.field("status"), errors);
    }

    fn default_propagation(&self) -> Propagation {
        Propagation::Orphan
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        vec![("status.replicas", object.i64_at(&["status", "replicas"]).unwrap_or(0).to_string())]
    }
}
