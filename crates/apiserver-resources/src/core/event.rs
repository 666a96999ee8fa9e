//! v1 Event and events.k8s.io/v1 Event: rules on the way in.
use machinery::{FieldErrors, Object};

use crate::rules::{Facts, Rules};
use crate::tree::At;

/// Rules of events of the core group.
pub(crate) struct Event;

impl Rules for Event {
    const FACTS: Facts = Facts::PLAIN;

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        check_namespace(object, "involvedObject", errors);
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

/// Rules of events of their own group.
pub(crate) struct NewEvent;

impl Rules for NewEvent {
    const FACTS: Facts = Facts::PLAIN;

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        check_namespace(object, "regarding", errors);
    }

    fn allows_create_on_update(&self) -> bool {
        true
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        let text = |path: &[&str]| object.str_at(path).to_owned();
        vec![
            ("regarding.kind", text(&["regarding", "kind"])),
            ("regarding.namespace", text(&["regarding", "namespace"])),
            ("regarding.name", text(&["regarding", "name"])),
            ("regarding.uid", text(&["regarding", "uid"])),
            ("regarding.apiVersion", text(&["regarding", "apiVersion"])),
            ("regarding.resourceVersion", text(&["regarding", "resourceVersion"])),
            ("regarding.fieldPath", text(&["regarding", "fieldPath"])),
            ("reason", text(&["reason"])),
            ("reportingController", text(&["reportingController"])),
            ("type", text(&["type"])),
        ]
    }
}

/// An event lives with its object; those of cluster-wide objects live in `default`.
fn check_namespace(object: &At, involved: &'static str, errors: &mut FieldErrors) {
    let namespace = object.field("metadata").field("namespace");
    let at = object.field(involved).field("namespace");
    let fits = match at.text() {
        "" => matches!(namespace.text(), "" | "default"),
        involved => involved == namespace.text(),
    };
    if !fits {
        errors.push(at.invalid("does not match event.namespace"));
    }
}
