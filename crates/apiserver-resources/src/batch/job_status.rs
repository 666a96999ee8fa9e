//! Checks of a write of a job's status. What was written before these rules is let through as it stands.
use machinery::FieldErrors;

use crate::batch::index_set;
use crate::batch::job::without_value;
use crate::checks;
use crate::tree::{At, same};

/// Whether a condition of a job holds.
fn holds(job: &At, ty: &str) -> bool {
    let conditions = job.fields(&["status", "conditions"]);
    conditions.items().any(|c| c.field("type").text() == ty && c.field("status").text() == "True")
}

fn is_finished(job: &At) -> bool {
    holds(job, "Complete") || holds(job, "Failed")
}

/// Checks a write of the status.
pub(super) fn validate(new: &At, old: &At, errors: &mut FieldErrors) {
    let status = new.field("status");
    for field in ["active", "succeeded", "failed", "ready", "terminating"] {
        checks::non_negative(&status.field(field), errors);
    }
    validate_uncounted(&status.field("uncountedTerminatedPods"), errors);
    validate_conditions(new, old, errors);
    validate_finished(new, old, errors);
    validate_indexes(new, old, errors);
    validate_steps(new, old, errors);
}

fn validate_uncounted(uncounted: &At, errors: &mut FieldErrors) {
    let mut seen: Vec<&str> = Vec::new();
    for list in ["succeeded", "failed"] {
        for uid in uncounted.field(list).items() {
            if uid.text().is_empty() {
                errors.push(uid.invalid("must not be empty"));
            } else if seen.contains(&uid.text()) {
                errors.push(uid.duplicate());
            } else {
                seen.push(uid.text());
            }
        }
    }
}

/// Whether one of these conditions came or went.
fn turned(new: &At, old: &At, types: &[&str]) -> bool {
    types.iter().any(|ty| holds(new, ty) != holds(old, ty))
}

fn changed(new: &At, old: &At, fields: &[&'static str]) -> bool {
    fields.iter().any(|f| !same(new.field("status").field(f).get(), old.field("status").field(f).get()))
}

fn validate_conditions(new: &At, old: &At, errors: &mut FieldErrors) {
    let conditions = new.fields(&["status", "conditions"]);
    let (complete, failed) = (holds(new, "Complete"), holds(new, "Failed"));
    let (met, target) = (holds(new, "SuccessCriteriaMet"), holds(new, "FailureTarget"));
    let mut check = |wrong: bool, problem: &str| {
        if wrong {
            errors.push(without_value(&conditions, problem));
        }
    };
    check(
        complete && failed && turned(new, old, &["Complete", "Failed"]),
        "cannot set Complete=True and Failed=true conditions",
    );
    check(
        complete && target && turned(new, old, &["Complete", "FailureTarget"]),
        "cannot set Complete=True and FailureTarget=true conditions",
    );
    check(
        failed && !target && (turned(new, old, &["Failed", "FailureTarget"])),
        "cannot set Failed=True condition without the FailureTarget=true condition",
    );
    check(
        complete && !met && turned(new, old, &["Complete", "SuccessCriteriaMet"]),
        "cannot set Complete=True condition without the SuccessCriteriaMet=true condition",
    );
    check(met && failed, "cannot set SuccessCriteriaMet=True and Failed=true conditions");
    check(met && target, "cannot set SuccessCriteriaMet=True and FailureTarget=true conditions");
    check(
        complete && !met && new.fields(&["spec", "successPolicy"]).exists(),
        "cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True",
    );
    for ty in ["Failed", "Complete", "FailureTarget"] {
        check(holds(old, ty) && !holds(new, ty), &format!("cannot disable the terminal {ty}=True condition"));
    }
    let was_met = holds(old, "SuccessCriteriaMet");
    check(was_met && !met, "cannot disable the SuccessCriteriaMet=True condition");
    check(
        holds(old, "Complete") && !was_met && met,
        "cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions",
    );
}

fn validate_finished(new: &At, old: &At, errors: &mut FieldErrors) {
    let status = new.field("status");
    let (active, start, completion) =
        (status.field("active"), status.field("startTime"), status.field("completionTime"));
    let complete = holds(new, "Complete");
    if turned(new, old, &["Complete"]) || changed(new, old, &["completionTime"]) {
        if completion.exists() && !complete {
            errors.push(
                completion.invalid("cannot set completionTime when there is no Complete=True condition"),
            );
        }
        if !completion.exists() && complete {
            errors.push(completion.required("completionTime is required for Complete jobs"));
        }
    }
    // Times in this form order as their texts do.
    if changed(new, old, &["startTime", "completionTime"])
        && start.exists()
        && completion.exists()
        && completion.text() < start.text()
    {
        errors.push(completion.invalid("completionTime cannot be set before startTime"));
    }
    let finished = is_finished(new);
    let ends = finished != is_finished(old);
    if finished {
        let counts = |fields: &[&'static str]| ends || changed(new, old, fields);
        if active.number() > 0 && counts(&["active"]) {
            errors.push(active.invalid("active>0 is invalid for finished job"));
        }
        let spec = new.field("spec");
        let never_ran = spec.field("suspend").is_true() && spec.field("completions").int() == Some(0);
        if !start.exists() && counts(&["startTime"]) && !never_ran {
            errors.push(start.required("startTime is required for finished job"));
        }
        let uncounted = status.field("uncountedTerminatedPods");
        let waiting = uncounted.field("succeeded").len() + uncounted.field("failed").len();
        if waiting > 0 && counts(&["uncountedTerminatedPods"]) {
            errors.push(uncounted.invalid("uncountedTerminatedPods needs to be empty for finished job"));
        }
        let terminating = status.field("terminating");
        if terminating.number() > 0 && counts(&["terminating"]) {
            errors.push(terminating.invalid("terminating>0 is invalid for finished job"));
        }
    }
    let ready = status.field("ready");
    if ready.number() > active.number() && changed(new, old, &["ready", "active"]) {
        errors.push(ready.invalid("cannot set more ready pods than active"));
    }
}

fn validate_indexes(new: &At, old: &At, errors: &mut FieldErrors) {
    let (spec, status) = (new.field("spec"), new.field("status"));
    let (done, failed) = (status.field("completedIndexes"), status.field("failedIndexes"));
    let (done_changed, failed_changed) =
        (changed(new, old, &["completedIndexes"]), changed(new, old, &["failedIndexes"]));
    let per_index = spec.field("backoffLimitPerIndex").exists();
    let completions = spec.field("completions").int();
    let read = |at: &At| index_set::parse(at.text(), completions.unwrap_or(0));
    if completions.is_some() {
        if done_changed && let Err(why) = read(&done) {
            errors.push(done.invalid(format!("error parsing completedIndexes: {why}")));
        }
        if failed_changed
            && per_index
            && let Err(why) = read(&failed)
        {
            errors.push(failed.invalid(format!("error parsing failedIndexes: {why}")));
        }
    }
    if done_changed && !done.is_empty() && spec.field("completionMode").text() != "Indexed" {
        errors.push(done.invalid("cannot set non-empty completedIndexes when non-indexed completion mode"));
    }
    if failed_changed && failed.exists() && !per_index {
        errors.push(failed.invalid("cannot set non-null failedIndexes when backoffLimitPerIndex is null"));
    }
    if (done_changed || failed_changed)
        && completions.is_some()
        && let (Ok(done), Ok(bad)) = (read(&done), read(&failed))
        && let Some(index) = index_set::overlap(&done, &bad)
    {
        errors.push(failed.invalid(format!("failedIndexes and completedIndexes overlap at index: {index}")));
    }
}

/// What may only go one way.
fn validate_steps(new: &At, old: &At, errors: &mut FieldErrors) {
    let (spec, status, before) = (new.field("spec"), new.field("status"), old.field("status"));
    let shrinks = |field| status.field(field).number() < before.field(field).number();
    if shrinks("failed") {
        let at = status.field("failed");
        errors.push(at.invalid_as(at.number(), "cannot decrease the failed counter"));
    }
    // An elastic job may be made smaller.
    let elastic = spec.field("completionMode").text() == "Indexed"
        && spec.field("completions").int() == spec.field("parallelism").int();
    if shrinks("succeeded") && !elastic {
        let at = status.field("succeeded");
        errors.push(at.invalid_as(at.number(), "cannot decrease the succeeded counter"));
    }
    let completion = status.field("completionTime");
    let completed = before.field("completionTime");
    if completion.exists() && completed.exists() && completion.text() != completed.text() {
        errors.push(completion.invalid("completionTime cannot be mutated"));
    }
    let (start, started) = (status.field("startTime"), before.field("startTime"));
    let suspended = |job: &At| holds(job, "Suspended");
    let resumes = suspended(old) && !suspended(new);
    if started.exists() && start.text() != started.text() && !spec.field("suspend").is_true() && !resumes {
        errors.push(start.required("startTime cannot be removed for unsuspended job"));
    }
}
