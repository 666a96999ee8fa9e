//! batch/v1 CronJob: rules on the way in.
use machinery::{FieldError, FieldErrors, Object};

use crate::batch::job::{self, fill_job_template, validate_job_spec};
use crate::batch::schedule;
use crate::checks;
use crate::core::pod_spec::warnings;
use crate::rules::{Facts, Rules};
use crate::tree::{At, default_text, default_value, ensure, same};

/// Rules of cron jobs.
pub(crate) struct CronJob;

/// Names of its jobs add 11 characters, and those may have 63.
const MAX_NAME: usize = 52;

impl Rules for CronJob {
    const FACTS: Facts = Facts::BOTH;

    fn fill_defaults(&self, object: &mut Object) {
        let spec = ensure(&mut object.0, "spec");
        default_text(spec, "concurrencyPolicy", "Allow");
        default_value(spec, "suspend", false);
        default_value(spec, "successfulJobsHistoryLimit", 3);
        default_value(spec, "failedJobsHistoryLimit", 1);
        fill_job_template(spec);
    }

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let mut found = warnings::of_name(new, old);
        let path = ["spec", "jobTemplate", "spec"];
        if !old.is_some_and(|old| old.generation() == new.generation()) {
            found.extend(job::spec_warnings(new, old, &path));
        }
        if old.is_some() && new.str_at(&["spec", "schedule"]).contains("TZ") {
            found.push("cannot use TZ or CRON_TZ in spec.spec.schedule, use timeZone instead, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details".to_owned());
        }
        found
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        validate_spec(&object.field("spec"), None, errors);
        let name = object.fields(&["metadata", "name"]);
        if name.text().len() > MAX_NAME {
            errors.push(name.invalid(format!("must be no more than {MAX_NAME} characters")));
        }
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        validate_spec(&new.field("spec"), Some(&old.field("spec")), errors);
    }
}

fn validate_spec(spec: &At, old: Option<&At>, errors: &mut FieldErrors) {
    let (at, zone) = (spec.field("schedule"), spec.field("timeZone"));
    if at.text().is_empty() {
        errors.push(at.required(""));
    } else {
        if let Some(problem) = schedule::problem(at.text()) {
            errors.push(at.invalid(problem));
        }
        // Once it was let through.
        let known = old.is_some_and(|old| old.field("schedule").text().contains("TZ"));
        match (at.text().contains("TZ"), known) {
            (true, true) if zone.exists() => {
                errors.push(at.invalid("cannot use both timeZone field and TZ or CRON_TZ in schedule"));
            }
            (true, false) => {
                errors.push(at.invalid("cannot use TZ or CRON_TZ in schedule, use timeZone field instead"));
            }
            _ => {}
        }
    }
    checks::non_negative(&spec.field("startingDeadlineSeconds"), errors);
    if zone.exists() && old.is_none_or(|old| !same(old.field("timeZone").get(), zone.get())) {
        validate_zone(&zone, errors);
    }
    checks::required_one_of(&spec.field("concurrencyPolicy"), &["Allow", "Forbid", "Replace"], errors);
    let job = spec.fields(&["jobTemplate", "spec"]);
    validate_job_spec(&job, errors);
    if job.field("selector").exists() {
        errors.push(job.field("selector").invalid("`selector` will be auto-generated"));
    }
    if job.field("manualSelector").is_true() {
        errors.push(job.field("manualSelector").not_supported(&["nil", "false"]));
    }
    for limit in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
        checks::non_negative(&spec.field(limit), errors);
    }
}

/// Every part of a name is short and plain.
fn is_zone_part(part: &str) -> bool {
    (1..=14).contains(&part.len())
        && !matches!(part, "." | "..")
        && !part.starts_with('-')
        && part.bytes().all(|b| b.is_ascii_alphanumeric() || b".-_+".contains(&b))
}

fn validate_zone(zone: &At, errors: &mut FieldErrors) {
    let text = zone.text();
    if text.is_empty() {
        errors.push(FieldError::invalid(&zone.path(), "", "timeZone must be nil or non-empty string"));
        return;
    }
    if !text.split('/').all(is_zone_part) {
        errors.push(zone.invalid(format!("unknown time zone {text}")));
        return;
    }
    if text.eq_ignore_ascii_case("Local") {
        errors.push(
            zone.invalid(
                "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones",
            ),
        );
    } else if jiff::tz::TimeZone::get(text).is_err() {
        errors.push(zone.invalid(format!("unknown time zone {text}")));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::strategy_for;

    fn problems(path: &[&str], value: Value) -> Vec<String> {
        let mut object = Object::from_value(json!({"apiVersion": "batch/v1", "kind": "CronJob",
            "metadata": {"name": "c"}, "spec": {"schedule": "* * * * *", "jobTemplate": {"spec": {"template":
            {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}}}}}))
        .unwrap();
        object.set(path, value);
        let strategy = strategy_for("batch", "cronjobs", "");
        strategy.fill_defaults(&mut object);
        strategy.admit_create(&mut object).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn errors_have_upstreams_words() {
        assert_eq!(problems(&["spec", "suspend"], json!(true)), [""; 0]);
        assert_eq!(problems(&["spec", "schedule"], json!("")), ["spec.schedule: Required value"]);
        assert_eq!(
            problems(&["spec", "timeZone"], json!("Mars/Phobos")),
            ["spec.timeZone: Invalid value: \"Mars/Phobos\": unknown time zone Mars/Phobos"]
        );
        assert_eq!(
            problems(&["metadata", "name"], json!("c".repeat(53))),
            [format!(
                "metadata.name: Invalid value: {:?}: must be no more than 52 characters",
                "c".repeat(53)
            )]
        );
    }
}
