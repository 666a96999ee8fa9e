//! What workloads that keep pods running share: a selector, and a template whose labels it matches.
use machinery::FieldErrors;

use crate::checks;
use crate::core::pod_spec::validation::{validate_restarts_always, validate_template};
use crate::tree::At;

/// Checks selector and template. `word` is how upstream calls the kind in errors about the selector.
pub(crate) fn validate(spec: &At, word: &str, kind: &str, errors: &mut FieldErrors) {
    let selector = spec.field("selector");
    if selector.exists() {
        checks::label_selector(&selector, errors);
        if checks::selects_everything(&selector) {
            errors.push(selector.invalid(format!("empty selector is invalid for {word}")));
        }
    } else {
        errors.push(selector.required(""));
    }
    let template = spec.field("template");
    let labels = template.field("metadata").field("labels");
    if selector.exists()
        && !checks::selects_everything(&selector)
        && !checks::selector_matches(&selector, &labels)
    {
        let shown = labels.get().cloned().unwrap_or_else(|| serde_json::json!({}));
        errors.push(machinery::FieldError::invalid(
            &labels.path(),
            shown,
            "`selector` does not match template `labels`",
        ));
    }
    validate_template(&template, errors);
    validate_restarts_always(&template, kind, errors);
}

/// Checks the status of what keeps a number of pods: of replica sets and replication controllers.
pub(crate) fn validate_replicas_status(status: &At, errors: &mut FieldErrors) {
    let fields =
        ["replicas", "fullyLabeledReplicas", "readyReplicas", "availableReplicas", "observedGeneration"];
    for field in fields {
        checks::non_negative(&status.field(field), errors);
    }
    let count = |field| status.field(field).number();
    for field in &fields[1..4] {
        if count(field) > count("replicas") {
            errors.push(status.field(field).invalid("cannot be greater than status.replicas"));
        }
    }
    if count("availableReplicas") > count("readyReplicas") {
        errors.push(status.field("availableReplicas").invalid("cannot be greater than readyReplicas"));
    }
}
