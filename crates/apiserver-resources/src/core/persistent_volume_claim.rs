//! v1 PersistentVolumeClaim: rules on the way in.
use machinery::{FieldErrors, Object};
use serde_json::{Value, json};

use crate::checks;
use crate::core::pod_spec::defaults::fill_claim_spec;
use crate::core::resource_list;
use crate::rules::{Facts, Rules};
use crate::tree::{At, Tree, ensure, same};

/// Rules of volume claims.
pub(crate) struct PersistentVolumeClaim;

/// How a volume may be mounted.
pub(crate) const ACCESS_MODES: [&str; 4] =
    ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];

impl Rules for PersistentVolumeClaim {
    const FACTS: Facts = Facts::STATUS;

    fn fill_defaults(&self, object: &mut Object) {
        let spec = ensure(&mut object.0, "spec");
        fill_claim_spec(spec);
        sync_data_source(spec);
    }

    fn status_at_birth(&self, _object: &Object) -> Option<Value> {
        Some(json!({"phase": "Pending"}))
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        validate_claim_spec(&object.field("spec"), errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        self.validate(new, errors);
        let (spec, old_spec) = (new.field("spec"), old.field("spec"));
        let bound = old.field("status").field("phase").text() == "Bound";
        let mutable: &[&str] =
            if bound { &["resources", "volumeAttributesClassName"] } else { &["volumeName"] };
        let names = spec.tree().into_iter().flatten().chain(old_spec.tree().into_iter().flatten());
        let changed = names.map(|(k, _)| k.as_str()).any(|k| {
            let value = |at: &At| at.tree().and_then(|t| t.get(k)).cloned();
            // A volume name may be set once.
            let may = mutable.contains(&k) && (k != "volumeName" || old_spec.field("volumeName").is_empty());
            !may && !same(value(&spec).as_ref(), value(&old_spec).as_ref())
        });
        if changed {
            errors.push(spec.forbidden("spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"));
        }
        let request =
            |at: &At| resource_list::quantity(&at.fields(&["resources", "requests"]).key("storage"));
        if let (true, Some(after), Some(before)) = (bound, request(&spec), request(&old_spec))
            && after < before
        {
            let at = spec.fields(&["resources", "requests"]).key("storage");
            errors.push(at.forbidden("field can not be less than status.capacity"));
        }
    }
}

/// `dataSource` and `dataSourceRef` name the same thing where only one is set.
fn sync_data_source(spec: &mut Tree) {
    let (old, new) = (spec.get("dataSource").cloned(), spec.get("dataSourceRef").cloned());
    match (old, new) {
        (Some(source), None) if !source.is_null() => {
            spec.insert("dataSourceRef".into(), source);
        }
        (None, Some(source)) if source.get("namespace").is_none() && !source.is_null() => {
            spec.insert("dataSource".into(), source);
        }
        _ => {}
    }
}

/// Checks access modes.
pub(crate) fn validate_access_modes(modes: &At, supported: &[&str], errors: &mut FieldErrors) {
    if modes.is_empty() {
        errors.push(modes.required(""));
    }
    for mode in modes.items() {
        if !supported.contains(&mode.text()) {
            let mut error = mode.not_supported(supported);
            error.path = modes.path();
            errors.push(error);
        }
    }
    if modes.len() > 1 && modes.items().any(|m| m.text() == "ReadWriteOncePod") {
        errors.push(modes.forbidden("may not use ReadWriteOncePod with other access modes"));
    }
}

/// Checks the specification of a claim, of a template for one too.
pub(crate) fn validate_claim_spec(spec: &At, errors: &mut FieldErrors) {
    let modes = spec.field("accessModes");
    if modes.is_empty() {
        errors.push(modes.required("at least 1 access mode is required"));
    } else {
        validate_access_modes(&modes, &ACCESS_MODES, errors);
    }
    if spec.field("selector").exists() {
        checks::label_selector(&spec.field("selector"), errors);
    }
    let requests = spec.fields(&["resources", "requests"]);
    let storage = requests.key("storage");
    if storage.exists() {
        resource_list::validate_quantity(&storage, errors);
        if resource_list::quantity(&storage).is_some_and(|q| q.is_zero()) {
            errors.push(storage.invalid("must be greater than zero"));
        }
    } else {
        errors.push(storage.required(""));
    }
    let class = spec.field("storageClassName");
    if !class.text().is_empty() {
        checks::text_rule(&class, machinery::names::dns1123_subdomain, errors);
    }
    checks::one_of_or_empty(&spec.field("volumeMode"), &["Block", "Filesystem"], errors);
}
