//! autoscaling/v2 HorizontalPodAutoscaler: rules on the way in.
use machinery::{FieldErrors, Object, names};
use serde_json::{Value, json};

use crate::checks;
use crate::rules::{Facts, Rules};
use crate::tree::{At, child, default_value, ensure, has};

/// Rules of autoscalers.
pub(crate) struct HorizontalPodAutoscaler;

impl Rules for HorizontalPodAutoscaler {
    const FACTS: Facts = Facts::STATUS;

    fn fill_defaults(&self, object: &mut Object) {
        let v1 = object.api_version() == "autoscaling/v1";
        let spec = ensure(&mut object.0, "spec");
        default_value(spec, "minReplicas", 1);
        if v1 {
            return;
        }
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
        Some(json!({"desiredReplicas": 0}))
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let spec = object.field("spec");
        let (least, most, target) =
            (spec.field("minReplicas"), spec.field("maxReplicas"), spec.field("scaleTargetRef"));
        if least.int().is_some_and(|n| n < 1) {
            errors.push(least.invalid("must be greater than or equal to 1"));
        }
        if most.int().unwrap_or(0) < 1 {
            let shown = most.int().unwrap_or(0);
            errors.push(machinery::FieldError::invalid(&most.path(), shown, "must be greater than 0"));
        }
        if least.int().is_some_and(|n| most.int().unwrap_or(0) < n) {
            errors.push(most.invalid("must be greater than or equal to `minReplicas`"));
        }
        for field in ["kind", "name"] {
            let at = target.field(field);
            if at.text().is_empty() {
                errors.push(at.required(""));
            } else {
                checks::text_rule(&at, names::path_segment, errors);
            }
        }
    }
}

fn fill_rules(rules: &mut crate::tree::Tree, window: Option<i64>, policies: Value) {
    default_value(rules, "selectPolicy", "Max");
    if let Some(window) = window {
        default_value(rules, "stabilizationWindowSeconds", window);
    }
    if !has(rules, "policies") {
        rules.insert("policies".into(), policies);
    }
}
