//! apps/v1 Deployment: rules on the way in.
use machinery::{FieldError, FieldErrors, Object};
use serde_json::Value;

use crate::apps::workload;
use crate::checks;
use crate::core::pod_spec::defaults::fill_template;
use crate::core::pod_spec::warnings;
use crate::rules::{Facts, Rules};
use crate::tree::{At, default_text, default_value, ensure, same, text_of};

/// Rules of deployments.
pub(crate) struct Deployment;

impl Rules for Deployment {
    const FACTS: Facts = Facts::BOTH;

    fn fill_defaults(&self, object: &mut Object) {
        let spec = ensure(&mut object.0, "spec");
        default_value(spec, "replicas", 1);
        let strategy = ensure(spec, "strategy");
        default_text(strategy, "type", "RollingUpdate");
        if text_of(strategy, "type") == "RollingUpdate" {
            let rolling = ensure(strategy, "rollingUpdate");
            default_value(rolling, "maxUnavailable", "25%");
            default_value(rolling, "maxSurge", "25%");
        }
        default_value(spec, "revisionHistoryLimit", 10);
        default_value(spec, "progressDeadlineSeconds", 600);
        fill_template(spec);
    }

    /// Annotations count too: they are copied to the replica sets.
    fn changes_generation(&self, new: &Object, old: &Object) -> bool {
        let annotations = ["metadata", "annotations"];
        !same(new.at(&["spec"]), old.at(&["spec"])) || !same(new.at(&annotations), old.at(&annotations))
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let mut found = warnings::of_name(new, old);
        found.extend(warnings::of_template(new, old, &["spec", "template"]));
        found
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let spec = object.field("spec");
        checks::non_negative(&spec.field("replicas"), errors);
        workload::validate(&spec, "deployment", "ReplicaSet", errors);
        validate_strategy(&spec.field("strategy"), errors);
        checks::non_negative(&spec.field("minReadySeconds"), errors);
        checks::non_negative(&spec.field("revisionHistoryLimit"), errors);
        let progress = spec.field("progressDeadlineSeconds");
        checks::non_negative(&progress, errors);
        if progress.int().is_some_and(|n| n <= spec.field("minReadySeconds").int().unwrap_or(0)) {
            errors.push(progress.invalid("must be greater than minReadySeconds"));
        }
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        self.validate(new, errors);
        checks::immutable(&new.fields(&["spec", "selector"]), &old.fields(&["spec", "selector"]), errors);
    }

    fn validate_status(&self, new: &At, _old: &At, errors: &mut FieldErrors) {
        let status = new.field("status");
        for field in [
            "observedGeneration",
            "replicas",
            "updatedReplicas",
            "readyReplicas",
            "availableReplicas",
            "unavailableReplicas",
            "collisionCount",
        ] {
            checks::non_negative(&status.field(field), errors);
        }
        let count = |field| status.field(field).int().unwrap_or(0);
        let replicas = count("replicas");
        for (field, limit, problem) in [
            ("updatedReplicas", replicas, "cannot be greater than status.replicas"),
            ("readyReplicas", replicas, "cannot be greater than status.replicas"),
            ("availableReplicas", replicas, "cannot be greater than status.replicas"),
            ("availableReplicas", count("readyReplicas"), "cannot be greater than readyReplicas"),
        ] {
            if count(field) > limit {
                errors.push(status.field(field).invalid(problem));
            }
        }
    }

    fn prepare_for_status(&self, new: &mut Object, old: &Object) {
        new.copy_from(old, &["metadata", "labels"]);
    }
}

fn validate_strategy(strategy: &At, errors: &mut FieldErrors) {
    let (ty, rolling) = (strategy.field("type"), strategy.field("rollingUpdate"));
    match ty.text() {
        "Recreate" => {
            if rolling.exists() {
                errors.push(rolling.forbidden("may not be specified when strategy `type` is 'Recreate'"));
            }
        }
        "RollingUpdate" => {
            if !rolling.exists() {
                errors.push(rolling.required("this should be defaulted and never be nil"));
                return;
            }
            let (unavailable, surge) = (rolling.field("maxUnavailable"), rolling.field("maxSurge"));
            checks::int_or_percent(&unavailable, errors);
            checks::int_or_percent(&surge, errors);
            if is_zero(&unavailable) && is_zero(&surge) {
                errors.push(FieldError::invalid(
                    &unavailable.path(),
                    unavailable.get().cloned().unwrap_or(Value::from(0)),
                    "may not be 0 when `maxSurge` is 0",
                ));
            }
            checks::not_above_100_percent(&unavailable, errors);
        }
        _ => checks::one_of(&ty, &["Recreate", "RollingUpdate"], errors),
    }
}

/// Nothing, 0 or `0%`.
pub(crate) fn is_zero(at: &At) -> bool {
    match at.get() {
        None => true,
        Some(Value::String(_)) => checks::percent_of(at) == Some(0),
        Some(value) => value.as_i64() == Some(0),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::strategy_for;

    fn deployment() -> Object {
        let mut object = Object::from_value(json!({"apiVersion": "apps/v1", "kind": "Deployment",
            "metadata": {"name": "d"}, "spec": {"selector": {"matchLabels": {"a": "b"}},
            "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}}}}))
        .unwrap();
        strategy_for("apps", "deployments", "").fill_defaults(&mut object);
        object
    }

    #[test]
    fn defaults_are_those_of_a_rolling_update() {
        let d = deployment();
        assert_eq!(d.i64_at(&["spec", "replicas"]), Some(1));
        assert_eq!(
            d.at(&["spec", "strategy"]),
            Some(
                &json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}})
            )
        );
        assert_eq!(d.i64_at(&["spec", "progressDeadlineSeconds"]), Some(600));
        assert_eq!(d.str_at(&["spec", "template", "spec", "restartPolicy"]), "Always");
        assert_eq!(d.at(&["spec", "template", "spec", "enableServiceLinks"]), None);
    }

    #[test]
    fn spec_and_annotations_raise_the_generation_and_labels_do_not() {
        let strategy = strategy_for("apps", "deployments", "");
        let mut old = deployment();
        strategy.admit_create(&mut old);
        let after = |path: &[&str], value: &str| {
            let mut new = old.clone();
            new.set(path, value);
            strategy.admit_update(&mut new, &old);
            new.generation()
        };
        assert_eq!(after(&["metadata", "labels", "x"], "y"), Some(1));
        assert_eq!(after(&["metadata", "annotations", "x"], "y"), Some(2));
        assert_eq!(after(&["spec", "template", "metadata", "labels", "x"], "y"), Some(2));
        assert_eq!(after(&["status", "x"], "y"), Some(1));
    }

    fn problems(path: &[&str], value: Value) -> Vec<String> {
        let mut new = deployment();
        new.set(path, value);
        let strategy = strategy_for("apps", "deployments", "");
        strategy.admit_create(&mut new).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn errors_have_upstreams_words() {
        assert!(problems(&["spec", "replicas"], json!(1)).is_empty());
        for (path, value, expected) in [
            (
                &["spec", "template", "metadata", "labels"][..],
                json!({"a": "c"}),
                "spec.template.metadata.labels: Invalid value: {\"a\":\"c\"}: `selector` does not match template `labels`",
            ),
            (&["spec", "selector"], Value::Null, "spec.selector: Required value"),
            (
                &["spec", "replicas"],
                json!(-1),
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                &["spec", "template", "spec", "restartPolicy"],
                json!("Never"),
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
            ),
            (
                &["spec", "template", "spec", "containers"],
                json!([]),
                "spec.template.spec.containers: Required value",
            ),
            (
                &["spec", "strategy"],
                json!({"type": "Recreate", "rollingUpdate": {}}),
                "spec.strategy.rollingUpdate: Forbidden: may not be specified when strategy `type` is 'Recreate'",
            ),
            (
                &["spec", "strategy", "rollingUpdate"],
                json!({"maxUnavailable": "0%", "maxSurge": 0}),
                "spec.strategy.rollingUpdate.maxUnavailable: Invalid value: \"0%\": may not be 0 when `maxSurge` is 0",
            ),
        ] {
            assert_eq!(problems(path, value), [expected]);
        }
    }

    #[test]
    fn the_selector_stays() {
        let old = deployment();
        let mut new = old.clone();
        new.set(&["spec", "selector", "matchLabels"], json!({"a": "c"}));
        new.set(&["spec", "template", "metadata", "labels"], json!({"a": "c"}));
        let errors = strategy_for("apps", "deployments", "").admit_update(&mut new, &old);
        assert_eq!(
            errors.iter().map(ToString::to_string).collect::<Vec<_>>(),
            ["spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"c\"}}: field is immutable"]
        );
    }
}
