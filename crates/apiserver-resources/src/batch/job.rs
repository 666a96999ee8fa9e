//! batch/v1 Job: rules on the way in.
use machinery::{FieldErrors, Object};
use serde_json::Value;

use crate::checks;
use crate::core::pod_spec::defaults::fill_template;
use crate::core::pod_spec::validation::validate_template;
use crate::core::pod_spec::warnings::warnings;
use crate::rules::{Facts, Rules};
use crate::strategy::Propagation;
use crate::tree::{At, Tree, child, default_text, default_value, each, ensure, has, same};

/// Rules of jobs.
pub(crate) struct Job;

const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";
const MAX_PARALLEL_INDEXED: i64 = 100_000;

impl Rules for Job {
    const FACTS: Facts = Facts::BOTH;

    fn fill_defaults(&self, object: &mut Object) {
        let spec = ensure(&mut object.0, "spec");
        // Without any of the two, one pod does the work once.
        if !has(spec, "completions") && !has(spec, "parallelism") {
            spec.insert("completions".into(), 1.into());
        }
        default_value(spec, "parallelism", 1);
        let per_index = has(spec, "backoffLimitPerIndex");
        default_value(spec, "backoffLimit", if per_index { i32::MAX } else { 6 });
        default_value(spec, "completionMode", "NonIndexed");
        default_value(spec, "suspend", false);
        default_value(spec, "manualSelector", false);
        if let Some(policy) = child(spec, "podFailurePolicy") {
            for rule in each(policy, "rules") {
                for pattern in each(rule, "onPodConditions") {
                    default_text(pattern, "status", "True");
                }
            }
        }
        let replacement = if has(spec, "podFailurePolicy") { "Failed" } else { "TerminatingOrFailed" };
        default_value(spec, "podReplacementPolicy", replacement);
        fill_template(spec);
        label_as_template(object);
    }

    fn prepare_for_create(&self, object: &mut Object) {
        if object.bool_at(&["spec", "manualSelector"]) != Some(true) {
            let (name, uid) = (object.name().to_owned(), object.uid().to_owned());
            select_own_pods(ensure(&mut object.0, "spec"), &name, &uid);
        }
        label_as_template(object);
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        warnings(new, old, &["spec", "template", "spec"])
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let spec = object.field("spec");
        let selector = spec.field("selector");
        if selector.exists() {
            checks::label_selector(&selector, errors);
        } else {
            errors.push(selector.required(""));
        }
        let labels = spec.fields(&["template", "metadata", "labels"]);
        if spec.field("manualSelector").bool() != Some(true) {
            validate_generated(object, &labels, errors);
        }
        if selector.exists() && !checks::selector_matches(&selector, &labels) {
            errors.push(labels.invalid("`selector` does not match template `labels`"));
        }
        validate_job_spec(&spec, errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        self.validate(new, errors);
        let (spec, old_spec) = (new.field("spec"), old.field("spec"));
        let (completions, old_completions) = (spec.field("completions"), old_spec.field("completions"));
        let elastic = spec.field("completionMode").text() == "Indexed"
            && completions.int() == spec.field("parallelism").int();
        if !elastic {
            checks::immutable(&completions, &old_completions, errors);
        }
        for field in [
            "selector",
            "completionMode",
            "podFailurePolicy",
            "backoffLimitPerIndex",
            "managedBy",
            "successPolicy",
        ] {
            checks::immutable(&spec.field(field), &old_spec.field(field), errors);
        }
        validate_template_update(new, old, errors);
    }

    fn validate_status(&self, new: &At, _old: &At, errors: &mut FieldErrors) {
        let status = new.field("status");
        for field in ["active", "succeeded", "failed", "ready", "terminating"] {
            checks::non_negative(&status.field(field), errors);
        }
        let holds = |ty: &str| {
            status
                .field("conditions")
                .items()
                .any(|c| c.field("type").text() == ty && c.field("status").text() == "True")
        };
        if holds("Complete") && holds("Failed") {
            errors.push(
                status.field("conditions").invalid("cannot set Complete=True and Failed=true conditions"),
            );
        }
    }

    fn default_propagation(&self) -> Propagation {
        Propagation::Orphan
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        vec![("status.successful", object.i64_at(&["status", "succeeded"]).unwrap_or(0).to_string())]
    }
}

/// A job without labels has those of its pods.
fn label_as_template(job: &mut Object) {
    let labels = job.at(&["spec", "template", "metadata", "labels"]).cloned();
    let unlabelled = job.labels().next().is_none();
    if let (Some(labels @ Value::Object(_)), true) = (labels, unlabelled) {
        job.set(&["metadata", "labels"], labels);
    }
}

/// A job selects its pods by its own uid, which nothing else has.
fn select_own_pods(spec: &mut Tree, name: &str, uid: &str) {
    let labels = ensure(ensure(ensure(spec, "template"), "metadata"), "labels");
    for (key, value) in [("job-name", name), (NAME_LABEL, name), ("controller-uid", uid), (UID_LABEL, uid)] {
        default_value(labels, key, value);
    }
    let selector = ensure(ensure(spec, "selector"), "matchLabels");
    default_value(selector, UID_LABEL, uid);
}

fn validate_generated(object: &At, labels: &At, errors: &mut FieldErrors) {
    let metadata = object.field("metadata");
    for (key, field, problem) in [
        (UID_LABEL, "uid", "must be '{}'"),
        ("controller-uid", "uid", "must be '{}'"),
        (NAME_LABEL, "name", "must be '{}'"),
        ("job-name", "name", "must be '{}'"),
    ] {
        let wanted = metadata.field(field).text();
        let label = labels.key(key);
        if !label.exists() {
            errors.push(label.required(problem.replace("{}", wanted)));
        } else if label.text() != wanted {
            errors.push(label.invalid(problem.replace("{}", wanted)));
        }
    }
    let selector = object.fields(&["spec", "selector", "matchLabels"]).key(UID_LABEL);
    if selector.text() != metadata.field("uid").text() {
        errors.push(object.field("spec").field("selector").invalid("`selector` not auto-generated"));
    }
}

/// Checks a job specification, of a template for one too.
pub(crate) fn validate_job_spec(spec: &At, errors: &mut FieldErrors) {
    for field in [
        "parallelism",
        "completions",
        "activeDeadlineSeconds",
        "backoffLimit",
        "ttlSecondsAfterFinished",
        "backoffLimitPerIndex",
        "maxFailedIndexes",
    ] {
        checks::non_negative(&spec.field(field), errors);
    }
    let (mode, completions, parallelism) =
        (spec.field("completionMode"), spec.field("completions"), spec.field("parallelism"));
    checks::one_of_or_empty(&mode, &["NonIndexed", "Indexed"], errors);
    if mode.text() == "Indexed" {
        if !completions.exists() {
            errors.push(completions.required("when completion mode is Indexed"));
        }
        if parallelism.int().is_some_and(|n| n > MAX_PARALLEL_INDEXED) {
            errors.push(parallelism.invalid(format!(
                "must be less than or equal to {MAX_PARALLEL_INDEXED} when completion mode is Indexed"
            )));
        }
    } else {
        for field in ["backoffLimitPerIndex", "maxFailedIndexes"] {
            if spec.field(field).exists() {
                errors.push(spec.field(field).invalid("requires indexed completion mode"));
            }
        }
    }
    let template = spec.field("template");
    validate_template(&template, errors);
    let restart = template.field("spec").field("restartPolicy");
    let failure_policy = spec.field("podFailurePolicy");
    if !matches!(restart.text(), "OnFailure" | "Never") {
        errors.push(restart.required("valid values: \"OnFailure\", \"Never\""));
    }
    if failure_policy.exists() && restart.text() != "Never" {
        errors.push(restart.invalid("only \"Never\" is supported when podFailurePolicy is specified"));
    }
    let replacement = spec.field("podReplacementPolicy");
    if replacement.exists() {
        if failure_policy.exists() {
            checks::one_of(&replacement, &["Failed"], errors);
        } else {
            checks::one_of(&replacement, &["Failed", "TerminatingOrFailed"], errors);
        }
    }
    validate_failure_policy(&failure_policy, errors);
}

fn validate_failure_policy(policy: &At, errors: &mut FieldErrors) {
    const MAX_RULES: usize = 20;
    let rules = policy.field("rules");
    if rules.len() > MAX_RULES {
        errors.push(machinery::FieldError::too_many(&rules.path(), rules.len(), MAX_RULES));
    }
    for rule in rules.items() {
        let action = rule.field("action");
        checks::one_of(&action, &["Count", "FailIndex", "FailJob", "Ignore"], errors);
        let (codes, conditions) = (rule.field("onExitCodes"), rule.field("onPodConditions"));
        match (codes.exists(), !conditions.is_empty()) {
            (false, false) => {
                errors.push(rule.invalid("specifying one of OnExitCodes and OnPodConditions is required"));
            }
            (true, true) => {
                errors.push(rule.invalid("specifying both OnExitCodes and OnPodConditions is not supported"));
            }
            _ => {}
        }
        if codes.exists() {
            checks::one_of(&codes.field("operator"), &["In", "NotIn"], errors);
            if codes.field("values").is_empty() {
                errors.push(codes.field("values").invalid("at least one value is required"));
            }
        }
    }
}

/// A template may change only in where its pods may run, and only while the job is suspended and never started.
fn validate_template_update(new: &At, old: &At, errors: &mut FieldErrors) {
    let template = new.fields(&["spec", "template"]);
    let before = old.fields(&["spec", "template"]);
    let suspended = old.fields(&["spec", "suspend"]).is_true();
    let started = old.fields(&["status", "startTime"]).exists();
    let mut munged = template.get().cloned().unwrap_or_default();
    if suspended && !started {
        let of = |path: [&str; 2]| before.get().and_then(|t| t.get(path[0])?.get(path[1])).cloned();
        for path in [
            ["metadata", "annotations"],
            ["metadata", "labels"],
            ["spec", "nodeSelector"],
            ["spec", "affinity"],
            ["spec", "tolerations"],
            ["spec", "schedulingGates"],
        ] {
            if let Some(part) = munged.get_mut(path[0]).and_then(Value::as_object_mut) {
                match of(path) {
                    Some(value) => {
                        part.insert(path[1].into(), value);
                    }
                    None => {
                        part.remove(path[1]);
                    }
                }
            }
        }
    }
    if !same(Some(&munged), before.get()) {
        errors.push(template.invalid("field is immutable"));
    }
}

/// The template of a job in another object gets the defaults of its pods only.
pub(crate) fn fill_job_template(owner: &mut Tree) {
    let spec = ensure(ensure(owner, "jobTemplate"), "spec");
    ensure(spec, "template");
    fill_template(spec);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::strategy_for;

    fn job() -> Object {
        let mut object = Object::from_value(json!({"apiVersion": "batch/v1", "kind": "Job",
            "metadata": {"name": "pi", "uid": "u1"}, "spec": {"template": {"spec": {"restartPolicy": "Never",
            "containers": [{"name": "c", "image": "i"}]}}}}))
        .unwrap();
        strategy_for("batch", "jobs", "").fill_defaults(&mut object);
        object
    }

    fn texts(errors: FieldErrors) -> Vec<String> {
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_new_job_selects_its_own_pods() {
        let mut j = job();
        assert_eq!(texts(strategy_for("batch", "jobs", "").admit_create(&mut j)), [""; 0]);
        assert_eq!(
            j.at(&["spec", "selector"]),
            Some(&json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u1"}}))
        );
        assert_eq!(
            j.at(&["spec", "template", "metadata", "labels"]),
            Some(&json!({"batch.kubernetes.io/controller-uid": "u1", "batch.kubernetes.io/job-name": "pi",
                "controller-uid": "u1", "job-name": "pi"}))
        );
        let spec = ["completions", "parallelism", "backoffLimit"].map(|f| j.i64_at(&["spec", f]));
        assert_eq!(spec, [Some(1), Some(1), Some(6)]);
        assert_eq!(j.str_at(&["spec", "podReplacementPolicy"]), "TerminatingOrFailed");
    }

    #[test]
    fn a_job_that_always_restarts_is_refused() {
        let mut j = job();
        j.set(&["spec", "template", "spec", "restartPolicy"], "Always");
        assert_eq!(
            texts(strategy_for("batch", "jobs", "").admit_create(&mut j)),
            ["spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\""]
        );
    }

    #[test]
    fn template_selector_and_completions_stay() {
        let strategy = strategy_for("batch", "jobs", "");
        let mut old = job();
        strategy.admit_create(&mut old);
        let mut new = old.clone();
        new.set(&["spec", "completions"], 2);
        new.set(&["spec", "parallelism"], 5);
        new.set(&["spec", "template", "spec", "nodeSelector"], json!({"a": "b"}));
        let errors = texts(strategy.admit_update(&mut new, &old));
        assert_eq!(errors.len(), 2, "{errors:?}");
        assert_eq!(errors[0], "spec.completions: Invalid value: 2: field is immutable");
        assert!(
            errors[1].starts_with("spec.template: Invalid value: ")
                && errors[1].ends_with(": field is immutable")
        );
        new.set(&["spec", "completions"], 1);
        let mut suspended = old.clone();
        suspended.set(&["spec", "suspend"], true);
        assert_eq!(texts(strategy.admit_update(&mut new, &suspended)), [""; 0]);
    }
}
