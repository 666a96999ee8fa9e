//! v1 Namespace: rules on the way in.
use machinery::{FieldErrors, Object};
use serde_json::{Value, json};

use crate::rules::{Facts, Rules, keep_all_but};
use crate::strategy::Strategy;
use crate::tree::{At, ensure};

const NAME_LABEL: &str = "kubernetes.io/metadata.name";

/// Rules of namespaces.
pub(crate) struct Namespace;

fn finalizers(object: &Object) -> &[Value] {
    object.list_at(&["spec", "finalizers"])
}

impl Rules for Namespace {
    const FACTS: Facts = Facts::STATUS;

    fn fill_defaults(&self, object: &mut Object) {
        let name = object.name().to_owned();
        if !name.is_empty() && object.label(NAME_LABEL).is_none() {
            let labels = ensure(ensure(&mut object.0, "metadata"), "labels");
            labels.insert(NAME_LABEL.into(), name.into());
        }
        if object.str_at(&["status", "phase"]).is_empty() {
            object.set(&["status", "phase"], "Active");
        }
    }

    fn status_at_birth(&self, _object: &Object) -> Option<Value> {
        Some(json!({"phase": "Active"}))
    }

    fn prepare_for_create(&self, object: &mut Object) {
        if !finalizers(object).iter().any(|f| f == "kubernetes") {
            let mut all = finalizers(object).to_vec();
            all.push("kubernetes".into());
            object.set(&["spec", "finalizers"], all);
        }
        // With generateName the name is known only now.
        self.fill_defaults(object);
    }

    fn prepare_for_update(&self, new: &mut Object, old: &Object) {
        new.copy_from(old, &["spec", "finalizers"]);
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        for finalizer in object.fields(&["spec", "finalizers"]).items() {
            crate::meta::validate_finalizer(&finalizer, errors);
        }
    }

    fn validate_update(&self, _new: &At, _old: &At, _errors: &mut FieldErrors) {}

    fn validate_status(&self, new: &At, _old: &At, errors: &mut FieldErrors) {
        let phase = new.fields(&["status", "phase"]);
        let deleting = new.fields(&["metadata", "deletionTimestamp"]).exists();
        match (deleting, phase.text()) {
            (true, text) if text != "Terminating" => {
                errors.push(phase.invalid("may only be 'Terminating' if `deletionTimestamp` is not empty"))
            }
            (false, text) if text != "Active" => {
                errors.push(phase.invalid("may only be 'Active' if `deletionTimestamp` is empty"))
            }
            _ => {}
        }
    }

    fn holds_deletion(&self, object: &Object) -> bool {
        !finalizers(object).is_empty()
    }

    fn begin_deletion(&self, object: &mut Object) {
        object.set(&["status", "phase"], "Terminating");
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        vec![("status.phase", object.str_at(&["status", "phase"]).to_owned())]
    }
}

/// Rules of the `finalize` subresource, the only way to change `spec.finalizers`.
pub(crate) struct Finalize;

impl Strategy for Finalize {
    fn fill_defaults(&self, object: &mut Object) {
        Namespace.fill_defaults(object);
    }

    fn admit_create(&self, _object: &mut Object) -> FieldErrors {
        FieldErrors::new()
    }

    fn admit_update(&self, new: &mut Object, old: &Object) -> FieldErrors {
        let finalizers = new.at(&["spec", "finalizers"]).cloned();
        keep_all_but("status", new, old);
        new.copy_from(old, &["status"]);
        match finalizers {
            Some(finalizers) => new.set(&["spec", "finalizers"], finalizers),
            None => {
                new.remove(&["spec", "finalizers"]);
            }
        }
        let mut errors = FieldErrors::new();
        for finalizer in At::object(new).fields(&["spec", "finalizers"]).items() {
            crate::meta::validate_finalizer(&finalizer, &mut errors);
        }
        errors
    }

    fn holds_deletion(&self, object: &Object) -> bool {
        Namespace.holds_deletion(object)
    }

    fn selectable_fields(&self, object: &Object) -> Vec<(&'static str, String)> {
        Namespace.selectable_fields(object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::strategy_for;

    fn object(value: Value) -> Object {
        Object::from_value(value).unwrap()
    }

    #[test]
    fn a_new_namespace_is_active_and_has_its_finalizer_and_label() {
        let mut ns =
            object(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}, "status": {}}));
        let strategy = strategy_for("", "namespaces", "");
        strategy.fill_defaults(&mut ns);
        assert!(strategy.admit_create(&mut ns).is_empty());
        assert_eq!(
            ns.into_value(),
            json!({"apiVersion": "v1", "kind": "Namespace",
                "metadata": {"name": "a", "labels": {"kubernetes.io/metadata.name": "a"}},
                "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}})
        );
    }

    #[test]
    fn only_finalize_changes_the_finalizers() {
        let old = object(json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"},
            "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}}));
        let mut new = old.clone();
        new.remove(&["spec", "finalizers"]);
        let mut plain = new.clone();
        assert!(strategy_for("", "namespaces", "").admit_update(&mut plain, &old).is_empty());
        assert_eq!(plain, old);
        assert!(strategy_for("", "namespaces", "finalize").admit_update(&mut new, &old).is_empty());
        assert!(new.list_at(&["spec", "finalizers"]).is_empty());
    }
}
