//! Checks of what a job makes of pods that fail, and of when it has succeeded.
use machinery::{FieldErrors, names};

use crate::batch::index_set;
use crate::batch::job::without_value;
use crate::checks;
use crate::tree::At;

const MAX_RULES: usize = 20;
const MAX_VALUES: usize = 255;
const MAX_PATTERNS: usize = 20;
const MAX_INDEXES_TEXT: usize = 64 * 1024;

/// `Required value: valid values: ["A" "B"]`, or an unsupported one.
fn required_one_of(at: &At, supported: &[&str], errors: &mut FieldErrors) {
    if at.text().is_empty() {
        let listed: Vec<String> = supported.iter().map(|s| format!("{s:?}")).collect();
        errors.push(at.required(format!("valid values: [{}]", listed.join(" "))));
    } else {
        checks::one_of(at, supported, errors);
    }
}

/// Checks the policy for failed pods.
pub(super) fn validate_failure(spec: &At, errors: &mut FieldErrors) {
    let rules = spec.field("podFailurePolicy").field("rules");
    if rules.len() > MAX_RULES {
        errors.push(rules.too_many(MAX_RULES));
    }
    let pod = spec.fields(&["template", "spec"]);
    let containers: Vec<&str> = ["containers", "initContainers"]
        .into_iter()
        .flat_map(|list| pod.field(list).items().map(|c| c.field("name").text()).collect::<Vec<_>>())
        .collect();
    for rule in rules.items() {
        let action = rule.field("action");
        if action.text() == "FailIndex" {
            if !spec.field("backoffLimitPerIndex").exists() {
                errors.push(action.invalid("requires the backoffLimitPerIndex to be set"));
            }
        } else {
            required_one_of(&action, &["Count", "FailIndex", "FailJob", "Ignore"], errors);
        }
        let (codes, conditions) = (rule.field("onExitCodes"), rule.field("onPodConditions"));
        if codes.exists() {
            validate_exit_codes(&codes, &containers, errors);
        }
        if conditions.len() > MAX_PATTERNS {
            errors.push(conditions.too_many(MAX_PATTERNS));
        }
        for pattern in conditions.items() {
            checks::text_rule(&pattern.field("type"), names::qualified_name, errors);
            required_one_of(&pattern.field("status"), &["False", "True", "Unknown"], errors);
        }
        match (codes.exists(), !conditions.is_empty()) {
            (false, false) => errors
                .push(without_value(&rule, "specifying one of OnExitCodes and OnPodConditions is required")),
            (true, true) => errors.push(without_value(
                &rule,
                "specifying both OnExitCodes and OnPodConditions is not supported",
            )),
            _ => {}
        }
    }
}

fn validate_exit_codes(codes: &At, containers: &[&str], errors: &mut FieldErrors) {
    let (operator, name, values) =
        (codes.field("operator"), codes.field("containerName"), codes.field("values"));
    required_one_of(&operator, &["In", "NotIn"], errors);
    if name.exists() && !containers.contains(&name.text()) {
        errors.push(name.invalid("must be one of the container or initContainer names in the pod template"));
    }
    if values.is_empty() {
        errors
            .push(values.invalid_as(serde_json::Value::Array(Vec::new()), "at least one value is required"));
    } else if values.len() > MAX_VALUES {
        errors.push(values.too_many(MAX_VALUES));
    }
    let mut seen: Vec<i64> = Vec::new();
    for value in values.items() {
        if operator.text() == "In" && value.number() == 0 {
            errors.push(value.invalid_as(0, "must not be 0 for the In operator"));
        }
        if seen.contains(&value.number()) {
            errors.push(value.duplicate());
        }
        seen.push(value.number());
    }
    if !seen.is_sorted() {
        errors.push(values.invalid("must be ordered"));
    }
}

/// Checks when a job has succeeded.
pub(super) fn validate_success(spec: &At, errors: &mut FieldErrors) {
    let rules = spec.field("successPolicy").field("rules");
    if rules.is_empty() {
        errors
            .push(rules.required("at least one rules must be specified when the successPolicy is specified"));
    }
    if rules.len() > MAX_RULES {
        errors.push(rules.too_many(MAX_RULES));
    }
    let completions = spec.field("completions").number();
    for rule in rules.items() {
        let (count, indexes) = (rule.field("succeededCount"), rule.field("succeededIndexes"));
        if !count.exists() && !indexes.exists() {
            errors
                .push(rule.required("at least one of succeededCount or succeededIndexes must be specified"));
        }
        let mut total = 0;
        if indexes.exists() {
            if indexes.text().len() > MAX_INDEXES_TEXT {
                errors.push(indexes.too_long(MAX_INDEXES_TEXT));
            }
            match index_set::parse(indexes.text(), completions) {
                Ok(intervals) => total = index_set::size(&intervals),
                Err(why) => errors.push(indexes.invalid(format!("error parsing succeededIndexes: {why}"))),
            }
        }
        let Some(wanted) = count.int() else { continue };
        checks::non_negative(&count, errors);
        if wanted > completions {
            errors.push(count.invalid(format!(
                "must be less than or equal to {completions} (the number of specified completions)"
            )));
        }
        if indexes.exists() && wanted > total {
            errors.push(count.invalid(format!(
                "must be less than or equal to {total} (the number of indexes in the specified succeededIndexes field)"
            )));
        }
    }
}
