//! Cells of jobs and cron jobs.
use jiff::Timestamp;
use machinery::Object;
use serde_json::Value;

use super::{age, containers, holds, human_duration, number, or, selector, since};

fn completions(job: &Object) -> String {
    let succeeded = number(job, &["status", "succeeded"]);
    match (job.i64_at(&["spec", "completions"]), number(job, &["spec", "parallelism"])) {
        (Some(wanted), _) => format!("{succeeded}/{wanted}"),
        (None, parallelism) if parallelism > 1 => format!("{succeeded}/1 of {parallelism}"),
        (None, _) => format!("{succeeded}/1"),
    }
}

fn duration(job: &Object, now: Timestamp) -> String {
    let Ok(start) = job.str_at(&["status", "startTime"]).parse::<Timestamp>() else { return String::new() };
    let end = job.str_at(&["status", "completionTime"]).parse().unwrap_or(now);
    human_duration(end.duration_since(start).as_secs())
}

fn status(job: &Object) -> &'static str {
    match () {
        () if holds(job, "Complete") => "Complete",
        () if holds(job, "Failed") => "Failed",
        () if job.is_deleting() => "Terminating",
        () if holds(job, "Suspended") => "Suspended",
        () if holds(job, "FailureTarget") => "FailureTarget",
        () if holds(job, "SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

pub(super) fn job(job: &Object, now: Timestamp) -> Vec<Value> {
    let [names, images] = containers(job.at(&["spec", "template"]));
    vec![
        job.name().into(),
        status(job).into(),
        completions(job).into(),
        duration(job, now).into(),
        age(job, now),
        names,
        images,
        selector(job.at(&["spec", "selector"])).into(),
    ]
}

pub(super) fn cron_job(object: &Object, now: Timestamp) -> Vec<Value> {
    let last = object.str_at(&["status", "lastScheduleTime"]);
    let [names, images] = containers(object.at(&["spec", "jobTemplate", "spec", "template"]));
    let suspend = match object.bool_at(&["spec", "suspend"]) {
        None => "<unset>",
        Some(true) => "True",
        Some(false) => "False",
    };
    vec![
        object.name().into(),
        object.str_at(&["spec", "schedule"]).into(),
        or(object.str_at(&["spec", "timeZone"]), "<none>"),
        suspend.into(),
        object.list_at(&["status", "active"]).len().into(),
        if last.is_empty() { "<none>".into() } else { since(last, now).into() },
        age(object, now),
        names,
        images,
        selector(object.at(&["spec", "jobTemplate", "spec", "selector"])).into(),
    ]
}
