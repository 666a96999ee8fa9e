//! autoscaling/v2 HorizontalPodAutoscaler: rules on the way in. The first version is converted in [`super::v1`].
use machinery::{FieldErrors, Object, names};
use serde_json::{Value, json};

use crate::autoscaling::metric;
use crate::checks;
use crate::core::resource_list;
use crate::rules::{Facts, Rules};
use crate::tree::{At, Tree, child, default_value, ensure, has};

/// Rules of autoscalers.
pub(crate) struct HorizontalPodAutoscaler;

const MAX_WINDOW: i64 = 3600;
const MAX_PERIOD: i64 = 1800;

impl Rules for HorizontalPodAutoscaler {
    const FACTS: Facts = Facts::STATUS;

    fn fill_defaults(&self, object: &mut Object) {
        let spec = ensure(&mut object.0, "spec");
        default_value(spec, "minReplicas", 1);
        if spec.get("metrics").and_then(Value::as_array).is_none_or(Vec::is_empty) {
            let cpu = json!({"type": "Resource",
                "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 80}}});
            spec.insert("metrics".into(), vec![cpu].into());
        }
        if let Some(behavior) = child(spec, "behavior") {
            fill_rules(
                ensure(behavior, "scaleUp"),
                Some(0),
                json!([
                    {"type": "Pods", "value": 4, "periodSeconds": 15},
                    {"type": "Percent", "value": 100, "periodSeconds": 15},
                ]),
            );
            fill_rules(
                ensure(behavior, "scaleDown"),
                None,
                json!([
                    {"type": "Percent", "value": 100, "periodSeconds": 15},
                ]),
            );
        }
    }

    fn status_at_birth(&self, _object: &Object) -> Option<Value> {
        Some(json!({"desiredReplicas": 0, "currentMetrics": null}))
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let spec = object.field("spec");
        let (least, most) = (spec.field("minReplicas"), spec.field("maxReplicas"));
        if least.int().is_some_and(|n| n < 1) {
            errors.push(least.invalid("must be greater than or equal to 1"));
        }
        checks::above_zero(&most, errors);
        if least.int().is_some_and(|n| most.number() < n) {
            errors.push(most.invalid_as(most.number(), "must be greater than or equal to `minReplicas`"));
        }
        validate_reference(&spec.field("scaleTargetRef"), errors);
        for one in spec.field("metrics").items() {
            metric::validate(&one, errors);
        }
        let behavior = spec.field("behavior");
        for direction in ["scaleUp", "scaleDown"] {
            let rules = behavior.field(direction);
            if rules.exists() {
                validate_rules(&rules, errors);
            }
        }
    }

    fn validate_status(&self, new: &At, _old: &At, errors: &mut FieldErrors) {
        for field in ["currentReplicas", "desiredReplicas"] {
            checks::non_negative(&new.field("status").field(field), errors);
        }
    }
}

fn fill_rules(rules: &mut Tree, window: Option<i64>, policies: Value) {
    default_value(rules, "selectPolicy", "Max");
    if let Some(window) = window {
        default_value(rules, "stabilizationWindowSeconds", window);
    }
    if !has(rules, "policies") {
        rules.insert("policies".into(), policies);
    }
}

/// A reference to an object of whatever version.
pub(super) fn validate_reference(target: &At, errors: &mut FieldErrors) {
    checks::required_text(&target.field("kind"), names::path_segment, errors);
    checks::required_text(&target.field("name"), names::path_segment, errors);
    let version = target.field("apiVersion");
    if version.text().matches('/').count() > 1 {
        errors.push(version.invalid(format!("unexpected GroupVersion string: {}", version.text())));
    }
}

fn validate_rules(rules: &At, errors: &mut FieldErrors) {
    let window = rules.field("stabilizationWindowSeconds");
    if window.number() < 0 {
        errors.push(window.invalid("must be greater than or equal to zero"));
    }
    if window.number() > MAX_WINDOW {
        errors.push(window.invalid(format!("must be less than or equal to {MAX_WINDOW}")));
    }
    let select = rules.field("selectPolicy");
    if select.exists() {
        checks::one_of(&select, &["Disabled", "Max", "Min"], errors);
    }
    let policies = rules.field("policies");
    if policies.is_empty() {
        errors.push(policies.required("must specify at least one Policy"));
    }
    for policy in policies.items() {
        checks::one_of(&policy.field("type"), &["Percent", "Pods"], errors);
        let (value, period) = (policy.field("value"), policy.field("periodSeconds"));
        for at in [&value, &period] {
            if at.number() <= 0 {
                errors.push(at.invalid_as(at.number(), "must be greater than zero"));
            }
        }
        if period.number() > MAX_PERIOD {
            errors.push(period.invalid(format!("must be less than or equal to {MAX_PERIOD}")));
        }
    }
    let tolerance = rules.field("tolerance");
    if resource_list::quantity(&tolerance).is_some_and(|q| q.is_negative()) {
        errors.push(tolerance.invalid("must be greater than or equal to 0"));
    }
}
