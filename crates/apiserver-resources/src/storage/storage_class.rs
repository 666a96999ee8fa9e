//! storage.k8s.io/v1 StorageClass and VolumeAttributesClass: rules on the way in.
use machinery::{FieldErrors, Object, names};
use serde_json::Value;

use crate::checks;
use crate::core::pod_spec::warnings::old_label;
use crate::rules::{Facts, Rules};
use crate::tree::{At, default_text, default_value, same};

/// Rules of storage classes.
pub(crate) struct StorageClass;

const MAX_PARAMETERS: usize = 512;
const MAX_PARAMETERS_SIZE: usize = 256 * 1024;

impl Rules for StorageClass {
    const FACTS: Facts = Facts::PLAIN;

    fn fill_defaults(&self, object: &mut Object) {
        default_value(&mut object.0, "reclaimPolicy", "Delete");
        default_text(&mut object.0, "volumeBindingMode", "Immediate");
    }

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut found = Vec::new();
        for term in At::object(new).field("allowedTopologies").items() {
            for key in term.field("matchLabelExpressions").items().map(|e| e.field("key")) {
                if let Some(text) = old_label(key.text()) {
                    found.push(format!("{}: {text}", key.path()));
                }
            }
        }
        found
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        validate_provisioner(&object.field("provisioner"), errors);
        validate_parameters(&object.field("parameters"), true, errors);
        checks::one_of_or_empty(&object.field("reclaimPolicy"), &["Delete", "Retain"], errors);
        checks::one_of(&object.field("volumeBindingMode"), &["Immediate", "WaitForFirstConsumer"], errors);
        validate_topologies(&object.field("allowedTopologies"), errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        for field in ["parameters", "provisioner", "reclaimPolicy"] {
            forbid_change(new, old, field, errors);
        }
        checks::immutable(&new.field("volumeBindingMode"), &old.field("volumeBindingMode"), errors);
    }
}

fn forbid_change(new: &At, old: &At, field: &'static str, errors: &mut FieldErrors) {
    if !same(new.field(field).get(), old.field(field).get()) {
        errors.push(new.field(field).forbidden(format!("updates to {field} are forbidden.")));
    }
}

fn validate_provisioner(at: &At, errors: &mut FieldErrors) {
    if at.text().is_empty() {
        errors.push(at.required(""));
        return;
    }
    let lower = at.text().to_lowercase();
    errors.extend(names::qualified_name(&lower).into_iter().map(|p| at.invalid_as(lower.as_str(), p)));
}

fn validate_parameters(at: &At, may_be_empty: bool, errors: &mut FieldErrors) {
    if at.entries().count() > MAX_PARAMETERS {
        errors.push(at.too_long(MAX_PARAMETERS));
        return;
    }
    let mut size = 0;
    for (key, value) in at.entries() {
        if key.is_empty() {
            errors.push(at.invalid_as("", "field can not be empty."));
        }
        size += key.len() + value.text().len();
    }
    if size > MAX_PARAMETERS_SIZE {
        errors.push(at.too_long(MAX_PARAMETERS_SIZE));
    }
    if !may_be_empty && at.is_empty() {
        errors.push(at.required("must contain at least one key/value pair"));
    }
}

fn validate_topologies(terms: &At, errors: &mut FieldErrors) {
    let mut seen: Vec<Option<&Value>> = Vec::new();
    for term in terms.items() {
        let expressions = term.field("matchLabelExpressions");
        let mut keys: Vec<&str> = Vec::new();
        for expression in expressions.items() {
            let (key, values) = (expression.field("key"), expression.field("values"));
            if values.is_empty() {
                errors.push(values.required(""));
            }
            for (i, value) in values.items().enumerate() {
                if values.items().take(i).any(|v| v.text() == value.text()) {
                    errors.push(value.duplicate());
                }
            }
            checks::text_rule(&key, names::qualified_name, errors);
            if keys.contains(&key.text()) {
                errors.push(key.duplicate());
            }
            keys.push(key.text());
        }
        if seen.iter().any(|before| same(*before, expressions.get())) {
            errors.push(machinery::FieldError::duplicate(&expressions.path(), ""));
        }
        seen.push(expressions.get());
    }
}

/// Rules of classes of volume attributes.
pub(crate) struct VolumeAttributesClass;

impl Rules for VolumeAttributesClass {
    const FACTS: Facts = Facts::PLAIN;

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        validate_provisioner(&object.field("driverName"), errors);
        validate_parameters(&object.field("parameters"), false, errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        for field in ["driverName", "parameters"] {
            forbid_change(new, old, field, errors);
        }
        self.validate(new, errors);
    }
}
