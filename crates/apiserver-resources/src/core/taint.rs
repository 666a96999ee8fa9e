//! Taints of nodes and tolerations of pods.
use machinery::{FieldError, FieldErrors, names};

use crate::checks;
use crate::tree::At;

const EFFECTS: [&str; 3] = ["NoSchedule", "PreferNoSchedule", "NoExecute"];

fn validate_effect(effect: &At, allow_empty: bool, errors: &mut FieldErrors) {
    match effect.text() {
        "" if allow_empty => {}
        "" => errors.push(effect.required("")),
        _ => checks::one_of(effect, &EFFECTS, errors),
    }
}

/// Checks the taints of a node.
pub(crate) fn validate_taints(taints: &At, errors: &mut FieldErrors) {
    let mut seen: Vec<(&str, &str)> = Vec::new();
    for taint in taints.items() {
        checks::text_rule(&taint.field("key"), names::qualified_name, errors);
        for problem in names::label_value(taint.field("value").text()) {
            errors.push(taint.field("value").invalid(problem));
        }
        validate_effect(&taint.field("effect"), false, errors);
        let pair = (taint.field("effect").text(), taint.field("key").text());
        if seen.contains(&pair) {
            let mut duplicate = taint.duplicate();
            duplicate.detail = "taints must be unique by key and effect pair".into();
            errors.push(duplicate);
        } else {
            seen.push(pair);
        }
    }
}

/// Checks the tolerations of a pod.
pub(crate) fn validate_tolerations(tolerations: &At, errors: &mut FieldErrors) {
    for toleration in tolerations.items() {
        let (key, operator) = (toleration.field("key"), toleration.field("operator"));
        let (value, effect) = (toleration.field("value"), toleration.field("effect"));
        if !key.text().is_empty() {
            checks::text_rule(&key, names::qualified_name, errors);
        }
        if key.text().is_empty() && operator.text() != "Exists" {
            errors.push(operator.invalid(
                "operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
            ));
        }
        if toleration.field("tolerationSeconds").exists() && effect.text() != "NoExecute" {
            errors.push(effect.invalid("effect must be 'NoExecute' when `tolerationSeconds` is set"));
        }
        match operator.text() {
            "" | "Equal" => {
                let problems = names::label_value(value.text());
                if !problems.is_empty() {
                    errors.push(FieldError::invalid(&operator.path(), value.text(), problems.join(";")));
                }
            }
            "Exists" => {
                if !value.text().is_empty() {
                    errors.push(FieldError::invalid(
                        &operator.path(),
                        toleration.get().cloned().unwrap_or_default(),
                        "value must be empty when `operator` is 'Exists'",
                    ));
                }
            }
            "Lt" | "Gt" => {
                if value.text().parse::<i64>().is_err() {
                    errors.push(value.invalid("value must be a valid integer for comparison operators"));
                }
            }
            _ => errors.push(operator.not_supported(&["Equal", "Exists"])),
        }
        validate_effect(&effect, true, errors);
    }
}
