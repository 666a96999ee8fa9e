//! v1 Event and events.k8s.io/v1 Event: rules on the way in.
use machinery::{FieldError, FieldErrors, Object, names};

use crate::checks;
use crate::rules::{Facts, Rules};
use crate::tree::{At, same};

/// Rules of events of the core group.
pub(crate) struct Event;

impl Rules for Event {
    const FACTS: Facts = Facts::PLAIN;

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        validate_any(object, "reportingComponent", errors);
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        let text = |path: &[&str]| object.str_at(path).to_owned();
        let mut source = text(&["source", "component"]);
        if source.is_empty() {
            source = text(&["reportingComponent"]);
        }
        vec![
            ("involvedObject.kind", text(&["involvedObject", "kind"])),
            ("involvedObject.namespace", text(&["involvedObject", "namespace"])),
            ("involvedObject.name", text(&["involvedObject", "name"])),
            ("involvedObject.uid", text(&["involvedObject", "uid"])),
            ("involvedObject.apiVersion", text(&["involvedObject", "apiVersion"])),
            ("involvedObject.resourceVersion", text(&["involvedObject", "resourceVersion"])),
            ("involvedObject.fieldPath", text(&["involvedObject", "fieldPath"])),
            ("reason", text(&["reason"])),
            ("reportingComponent", text(&["reportingComponent"])),
            ("source", source),
            ("type", text(&["type"])),
        ]
    }
}

/// Rules of events of their own group. They see an event as it is stored, in the core version.
pub(crate) struct NewEvent;

/// What a repetition may not change.
const FIXED: [&str; 13] = [
    "involvedObject",
    "reason",
    "message",
    "source",
    "firstTimestamp",
    "lastTimestamp",
    "count",
    "type",
    "eventTime",
    "action",
    "related",
    "reportingComponent",
    "reportingInstance",
];

impl Rules for NewEvent {
    const FACTS: Facts = Facts::PLAIN;

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        validate_any(object, "reportingController", errors);
        validate_series(object, errors);
        let time = object.field("eventTime");
        if !time.exists() {
            errors.push(time.required(""));
        }
        validate_reporter(object, "reportingController", errors);
        if object.field("message").text().len() > MAX_MESSAGE {
            errors.push(object.field("message").too_long(MAX_MESSAGE));
        }
        let ty = object.field("type");
        if !matches!(ty.text(), "Normal" | "Warning") {
            errors.push(ty.invalid_as("", format!("has invalid value: {}", ty.text())));
        }
        for old in ["firstTimestamp", "lastTimestamp"] {
            if object.field(old).exists() {
                errors.push(object.field(old).invalid_as("", "needs to be unset"));
            }
        }
        if object.field("count").number() != 0 {
            errors.push(object.field("count").invalid_as("", "needs to be unset"));
        }
        let source = object.field("source");
        if !source.field("component").is_empty() || !source.field("host").is_empty() {
            errors.push(source.invalid_as("", "needs to be unset"));
        }
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        validate_any(new, "reportingController", errors);
        if !same(new.field("series").get(), old.field("series").get()) {
            validate_series(new, errors);
        }
        for field in FIXED {
            checks::immutable(&new.field(field), &old.field(field), errors);
        }
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        let known = Event.selectable_fields(object).into_iter();
        known.filter_map(|(core, value)| Some((new_field(core)?, value))).collect()
    }
}

/// The selectable fields of an event under the names of the core group and of their own.
const FIELD_NAMES: [(&str, &str); 10] = [
    ("involvedObject.kind", "regarding.kind"),
    ("involvedObject.namespace", "regarding.namespace"),
    ("involvedObject.name", "regarding.name"),
    ("involvedObject.uid", "regarding.uid"),
    ("involvedObject.apiVersion", "regarding.apiVersion"),
    ("involvedObject.resourceVersion", "regarding.resourceVersion"),
    ("involvedObject.fieldPath", "regarding.fieldPath"),
    ("reason", "reason"),
    ("reportingComponent", "reportingController"),
    ("type", "type"),
];

fn new_field(core: &str) -> Option<&'static str> {
    FIELD_NAMES.iter().find(|(name, _)| *name == core).map(|(_, new)| *new)
}

/// What a stored event calls the field that events.k8s.io calls so.
pub(crate) fn core_field(new: &str) -> Option<&'static str> {
    FIELD_NAMES.iter().find(|(_, name)| *name == new).map(|(core, _)| *core)
}

const MAX_WORD: usize = 128;
const MAX_MESSAGE: usize = 1024;

/// What every event has to have, whichever group it came by.
fn validate_any(object: &At, reporter: &'static str, errors: &mut FieldErrors) {
    let namespace = object.field("metadata").field("namespace");
    let involved = object.field("involvedObject").field("namespace");
    // An event lives with its object; those of cluster-wide objects live in `default`.
    let fits = match (object.field("eventTime").exists(), involved.text()) {
        (false, "") => matches!(namespace.text(), "" | "default"),
        (true, "") => matches!(namespace.text(), "default" | "kube-system"),
        (false, text) => text == namespace.text(),
        (true, _) => true,
    };
    if !fits {
        errors.push(involved.invalid("does not match event.namespace"));
    }
    if object.field("eventTime").exists() && reporter == "reportingComponent" {
        validate_reporter(object, reporter, errors);
        let message = object.field("message");
        if message.text().len() > MAX_MESSAGE {
            errors.push(message.invalid_as("", format!("can have at most {MAX_MESSAGE} characters")));
        }
    }
}

/// Who reports, and what was done why. `name`: what the writer calls the reporter.
fn validate_reporter(object: &At, name: &str, errors: &mut FieldErrors) {
    let reporter = object.field("reportingComponent");
    let path = machinery::FieldPath::new(name);
    if reporter.text().is_empty() {
        errors.push(FieldError::required(&path, ""));
    }
    let problems = names::qualified_name(reporter.text());
    errors.extend(problems.into_iter().map(|p| FieldError::invalid(&path, reporter.text(), p)));
    for field in ["reportingInstance", "action", "reason"] {
        let at = object.field(field);
        checks::required(&at, errors);
        if at.text().len() > MAX_WORD {
            errors.push(at.invalid_as("", format!("can have at most {MAX_WORD} characters")));
        }
    }
}

fn validate_series(object: &At, errors: &mut FieldErrors) {
    let series = object.field("series");
    if !series.exists() {
        return;
    }
    if series.field("count").number() < 2 {
        errors.push(series.field("count").invalid_as("", "should be at least 2"));
    }
    if !series.field("lastObservedTime").exists() {
        errors.push(series.field("lastObservedTime").required(""));
    }
}
