//! apps/v1 Deployment: rules on the way in.
use machinery::Object;

use crate::core::pod_spec::defaults::fill_template;
use crate::rules::{Facts, Rules};
use crate::tree::{default_text, default_value, ensure, same, text_of};

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

    fn prepare_for_status(&self, new: &mut Object, old: &Object) {
        new.copy_from(old, &["metadata", "labels"]);
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
            Some(&json!({"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}}))
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
}
