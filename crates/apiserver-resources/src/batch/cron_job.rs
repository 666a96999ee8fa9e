//! batch/v1 CronJob: rules on the way in.
use machinery::{FieldError, FieldErrors, Object};

use crate::batch::job::{fill_job_template, validate_job_spec};
use crate::batch::schedule;
use crate::checks;
use crate::core::pod_spec::warnings::warnings;
use crate::rules::{Facts, Rules};
use crate::tree::{At, default_text, default_value, ensure};

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
        warnings(new, old, &["spec", "jobTemplate", "spec", "template", "spec"])
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let name = object.fields(&["metadata", "name"]);
        if name.text().len() > MAX_NAME {
            errors.push(name.invalid(format!("must be no more than {MAX_NAME} characters")));
        }
        let spec = object.field("spec");
        let (at, zone) = (spec.field("schedule"), spec.field("timeZone"));
        if at.text().is_empty() {
            errors.push(at.required(""));
        } else {
            if at.text().contains("TZ") {
                errors.push(at.invalid("cannot use TZ or CRON_TZ in schedule, use timeZone field instead"));
            } else if let Some(problem) = schedule::problem(at.text()) {
                errors.push(at.invalid(problem));
            }
            if zone.exists() {
                validate_zone(&zone, errors);
            }
        }
        checks::non_negative(&spec.field("startingDeadlineSeconds"), errors);
        let policy = spec.field("concurrencyPolicy");
        if policy.text().is_empty() {
            errors.push(policy.required(""));
        } else {
            checks::one_of(&policy, &["Allow", "Forbid", "Replace"], errors);
        }
        let template = spec.field("jobTemplate");
        checks::labels(&template.field("metadata").field("labels"), errors);
        validate_job_spec(&template.field("spec"), errors);
        let job = template.field("spec");
        if job.field("manualSelector").is_true() {
            errors.push(job.field("manualSelector").not_supported(&["nil", "false"]));
        }
        if job.field("selector").exists() {
            errors.push(job.field("selector").invalid("`selector` will be auto-generated"));
        }
        for limit in ["successfulJobsHistoryLimit", "failedJobsHistoryLimit"] {
            checks::non_negative(&spec.field(limit), errors);
        }
    }
}

fn validate_zone(zone: &At, errors: &mut FieldErrors) {
    let text = zone.text();
    if text.is_empty() {
        errors.push(FieldError::invalid(&zone.path(), "", "timeZone must be nil or non-empty string"));
    } else if text.eq_ignore_ascii_case("Local") {
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
