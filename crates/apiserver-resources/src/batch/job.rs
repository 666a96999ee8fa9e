//! batch/v1 Job: rules on the way in.
use machinery::{FieldError, FieldErrors, Object, names};
use serde_json::{Map, Value};

use crate::batch::{job_policy, job_status};
use crate::checks;
use crate::core::pod_spec::defaults::fill_template;
use crate::core::pod_spec::validation::validate_template;
use crate::core::pod_spec::warnings;
use crate::rules::{Facts, Rules};
use crate::strategy::Propagation;
use crate::tree::{At, Tree, child, default_text, default_value, each, ensure, has, same};

/// Rules of jobs.
pub(crate) struct Job;

const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";
const NAME_LABEL: &str = "batch.kubernetes.io/job-name";
const MAX_PARALLEL_INDEXED: i64 = 100_000;
const MAX_FAILED_INDEXES: i64 = 100_000;
/// Above this many completions, retries for each index have lower bounds.
const MANY_COMPLETIONS: i64 = 100_000;
const MAX_PARALLEL_OF_MANY: i64 = 10_000;
const MAX_FAILED_OF_MANY: i64 = 10_000;
const MAX_MANAGER: usize = 63;

/// Warnings about the specification of a job, at a path of an object.
pub(super) fn spec_warnings(new: &Object, old: Option<&Object>, path: &[&'static str]) -> Vec<String> {
    let spec = At::object(new).fields(path);
    let mut found = Vec::new();
    let many = spec.field("completions").number() > 100_000 && spec.field("parallelism").number() > 10_000;
    if spec.field("completionMode").text() == "Indexed" && many {
        found.push(format!(
            "{}: In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail",
            spec.path()
        ));
    }
    found.extend(warnings::of_template(new, old, &[path, &["template"]].concat()));
    found
}

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
        let mut found = warnings::of_name(new, old);
        // An update does not change what pods there are.
        if old.is_none() {
            found.extend(spec_warnings(new, None, &["spec"]));
        }
        found
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let spec = object.field("spec");
        if spec.field("manualSelector").bool() != Some(true) {
            validate_generated(object, errors);
        }
        validate_spec(&spec, errors);
        let (name, completions) = (object.fields(&["metadata", "name"]), spec.field("completions").number());
        if spec.field("completionMode").text() == "Indexed" && completions > 0 {
            // Each pod gets a host name with its index.
            let last = format!("{}-{}", name.text(), completions - 1);
            if !names::dns1123_label(&last).is_empty() {
                errors.push(
                    name.invalid(format!("will not able to create pod with invalid DNS label: {last}")),
                );
            }
        }
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        let (spec, old_spec) = (new.field("spec"), old.field("spec"));
        validate_spec(&spec, errors);
        validate_completions(&spec, &old_spec, errors);
        checks::immutable(&spec.field("selector"), &old_spec.field("selector"), errors);
        validate_template_update(new, old, errors);
        for field in
            ["completionMode", "podFailurePolicy", "backoffLimitPerIndex", "managedBy", "successPolicy"]
        {
            checks::immutable(&spec.field(field), &old_spec.field(field), errors);
        }
    }

    fn validate_status(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        job_status::validate(new, old, errors);
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

/// `Invalid value` that shows none.
pub(super) fn without_value(at: &At, problem: &str) -> FieldError {
    let mut error = at.invalid(problem);
    error.value = None;
    error
}

fn validate_generated(object: &At, errors: &mut FieldErrors) {
    let (metadata, spec) = (object.field("metadata"), object.field("spec"));
    let template = spec.fields(&["template", "metadata"]);
    let labels = template.field("labels");
    let expected: [(&str, &'static str); 4] =
        [("controller-uid", "uid"), ("job-name", "name"), (UID_LABEL, "uid"), (NAME_LABEL, "name")];
    for (key, field) in expected {
        let (wanted, label) = (metadata.field(field).text(), labels.key(key));
        if !label.exists() {
            errors.push(label.required(format!("must be '{wanted}'")));
        } else if label.text() != wanted {
            let shown = labels.get().cloned().unwrap_or_default();
            errors.push(label.invalid_as(shown, format!("must be '{wanted}'")));
        }
    }
    let selector = spec.field("selector");
    let generated: Map<String, Value> = expected
        .iter()
        .map(|(key, field)| ((*key).to_owned(), metadata.field(field).text().into()))
        .collect();
    if selector.exists() && !checks::selector_matches_map(&selector, &generated) {
        errors.push(selector.invalid("`selector` not auto-generated"));
    }
}

fn validate_spec(spec: &At, errors: &mut FieldErrors) {
    validate_job_spec(spec, errors);
    let selector = spec.field("selector");
    if selector.exists() {
        checks::label_selector(&selector, errors);
    } else {
        errors.push(selector.required(""));
    }
    let labels = spec.fields(&["template", "metadata", "labels"]);
    if selector.exists() && !checks::selector_matches(&selector, &labels) {
        let shown = labels.get().cloned().unwrap_or_default();
        errors.push(labels.invalid_as(shown, "`selector` does not match template `labels`"));
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
    let (per_index, max_failed) = (spec.field("backoffLimitPerIndex"), spec.field("maxFailedIndexes"));
    if max_failed.exists() && !per_index.exists() {
        errors.push(per_index.required("when maxFailedIndexes is specified"));
    }
    let manager = spec.field("managedBy");
    if manager.exists() {
        checks::domain_prefixed_path(&manager, errors);
        if manager.text().len() > MAX_MANAGER {
            errors.push(manager.too_long(MAX_MANAGER));
        }
    }
    let mode = spec.field("completionMode");
    if mode.exists() {
        checks::one_of(&mode, &["NonIndexed", "Indexed"], errors);
    }
    match mode.text() {
        "Indexed" => validate_indexed(spec, errors),
        "" | "NonIndexed" => {
            for field in [&per_index, &max_failed] {
                if field.exists() {
                    errors.push(field.invalid("requires indexed completion mode"));
                }
            }
        }
        _ => {}
    }
    let (failure_policy, success_policy) = (spec.field("podFailurePolicy"), spec.field("successPolicy"));
    if failure_policy.exists() {
        job_policy::validate_failure(spec, errors);
    }
    if success_policy.exists() {
        if mode.text() == "Indexed" {
            job_policy::validate_success(spec, errors);
        } else {
            errors.push(success_policy.invalid("requires indexed completion mode"));
        }
    }
    let replacement = spec.field("podReplacementPolicy");
    if replacement.exists() {
        if failure_policy.exists() {
            checks::one_of(&replacement, &["Failed"], errors);
        } else {
            checks::one_of(&replacement, &["Failed", "TerminatingOrFailed"], errors);
        }
    }
    let template = spec.field("template");
    validate_template(&template, errors);
    let restart = template.field("spec").field("restartPolicy");
    match restart.text() {
        "" | "Always" => errors.push(restart.required("valid values: \"OnFailure\", \"Never\"")),
        "OnFailure" if failure_policy.exists() => {
            errors.push(restart.invalid("only \"Never\" is supported when podFailurePolicy is specified"));
        }
        _ => checks::one_of(&restart, &["OnFailure", "Never"], errors),
    }
}

fn validate_indexed(spec: &At, errors: &mut FieldErrors) {
    let (completions, parallelism, failed) =
        (spec.field("completions"), spec.field("parallelism"), spec.field("maxFailedIndexes"));
    if !completions.exists() {
        errors.push(completions.required("when completion mode is Indexed"));
    }
    if parallelism.number() > MAX_PARALLEL_INDEXED {
        errors.push(parallelism.invalid(format!(
            "must be less than or equal to {MAX_PARALLEL_INDEXED} when completion mode is Indexed"
        )));
    }
    if completions.int().is_some_and(|all| failed.int().is_some_and(|failed| failed > all)) {
        errors.push(failed.invalid("must be less than or equal to completions"));
    }
    if failed.number() > MAX_FAILED_INDEXES {
        errors.push(failed.invalid(format!("must be less than or equal to {MAX_FAILED_INDEXES}")));
    }
    if completions.number() <= MANY_COMPLETIONS || !spec.field("backoffLimitPerIndex").exists() {
        return;
    }
    if !failed.exists() {
        errors
            .push(failed.required(format!("must be specified when completions is above {MANY_COMPLETIONS}")));
    }
    for (at, most) in [(&parallelism, MAX_PARALLEL_OF_MANY), (&failed, MAX_FAILED_OF_MANY)] {
        if at.number() > most {
            errors.push(at.invalid(format!(
                "must be less than or equal to {most} when completions are above {MANY_COMPLETIONS} and used with backoff limit per index"
            )));
        }
    }
}

/// An indexed job may change its completions together with its parallelism.
fn validate_completions(spec: &At, old: &At, errors: &mut FieldErrors) {
    let (completions, before) = (spec.field("completions"), old.field("completions"));
    if spec.field("completionMode").text() != "Indexed" {
        checks::immutable(&completions, &before, errors);
    } else if completions.exists()
        && completions.int() != before.int()
        && completions.int() != spec.field("parallelism").int()
    {
        errors.push(completions.invalid("can only be modified in tandem with spec.parallelism"));
    }
}

/// A template may change only in where its pods may run, and only while the job is suspended and never started.
fn validate_template_update(new: &At, old: &At, errors: &mut FieldErrors) {
    let template = new.fields(&["spec", "template"]);
    let before = old.fields(&["spec", "template"]);
    let suspended = old.fields(&["spec", "suspend"]).is_true();
    let started = old.fields(&["status", "startTime"]).exists();
    let mut munged = before.get().cloned().unwrap_or_default();
    if suspended && !started {
        let put = |munged: &mut Value, path: &[&str]| {
            let Some(part) = path[..path.len() - 1].iter().try_fold(munged, |v, key| v.get_mut(*key)) else {
                return;
            };
            let Some(part) = part.as_object_mut() else { return };
            let key = path[path.len() - 1];
            match template.get().and_then(|t| path.iter().try_fold(t, |v, key| v.get(*key))) {
                Some(value) => {
                    part.insert(key.to_owned(), value.clone());
                }
                None => {
                    part.remove(key);
                }
            }
        };
        for path in [
            &["metadata", "annotations"][..],
            &["metadata", "labels"],
            &["spec", "nodeSelector"],
            &["spec", "tolerations"],
            &["spec", "schedulingGates"],
        ] {
            put(&mut munged, path);
        }
        // Of affinity, only that to nodes.
        if let Some(spec) = munged.get_mut("spec").and_then(Value::as_object_mut) {
            ensure(spec, "affinity");
        }
        put(&mut munged, &["spec", "affinity", "nodeAffinity"]);
        let pointer = "/spec/affinity";
        let empty = munged.pointer(pointer).is_some_and(|a| a.as_object().is_some_and(Map::is_empty));
        let unset = template.fields(&["spec", "affinity"]).get().is_none();
        if empty
            && unset
            && let Some(spec) = munged.get_mut("spec").and_then(Value::as_object_mut)
        {
            spec.remove("affinity");
        }
    }
    if !same(template.get(), Some(&munged)) {
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
