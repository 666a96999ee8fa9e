//! v1 PersistentVolumeClaim: rules on the way in.
use machinery::{FieldErrors, Object, Quantity};
use serde_json::{Value, json};

use crate::checks;
use crate::core::persistent_volume::class_warnings;
use crate::core::pod_spec::defaults::fill_claim_spec;
use crate::core::pod_spec::warnings;
use crate::core::resource_list;
use crate::rules::{Facts, Rules};
use crate::tree::{At, Tree, child, ensure, same};

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

    fn warnings(&self, new: &Object, _old: Option<&Object>) -> Vec<String> {
        let mut found = class_warnings(new);
        warnings::of_claim(&At::object(new).field("spec"), &mut found);
        found
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        validate_claim_spec(&object.field("spec"), errors);
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        self.validate(new, errors);
        let (spec, before) = (new.field("spec"), old.field("spec"));
        let bound = new.fields(&["status", "phase"]).text() == "Bound";
        let mut munged = spec.tree().cloned().unwrap_or_default();
        let mut allow = |field: &str| match before.tree().and_then(|t| t.get(field)) {
            Some(value) => {
                munged.insert(field.to_owned(), value.clone());
            }
            None => {
                munged.remove(field);
            }
        };
        allow("volumeAttributesClassName");
        // A volume is found once, and a class may be given to a claim that has none.
        if before.field("volumeName").is_empty() {
            allow("volumeName");
        }
        if !before.field("storageClassName").exists()
            && !old.fields(&["metadata", "annotations"]).key(CLASS_ANNOTATION).exists()
        {
            allow("storageClassName");
        }
        if bound {
            let was = before.fields(&["resources", "requests"]).key("storage").get().cloned();
            let requests = child(&mut munged, "resources").and_then(|r| child(r, "requests"));
            if let (Some(requests), Some(was)) = (requests, was) {
                requests.insert("storage".into(), was);
            }
        }
        if !same(Some(&Value::Object(munged)), before.get()) {
            errors.push(spec.forbidden("spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims"));
        }
        let at = spec.fields(&["resources", "requests"]).key("storage");
        let wanted = resource_list::quantity(&at);
        let was = resource_list::quantity(&before.fields(&["resources", "requests"]).key("storage"));
        let has = resource_list::quantity(&old.fields(&["status", "capacity"]).key("storage"))
            .unwrap_or_else(|| Quantity::from_value(0));
        if let (Some(wanted), Some(was)) = (wanted, was)
            && wanted < was
            && wanted <= has
        {
            let mut error = at.forbidden("field can not be less than status.capacity");
            error.path = spec.path().child("resources").child("requests").child("storage");
            errors.push(error);
        }
        checks::immutable(&spec.field("volumeMode"), &before.field("volumeMode"), errors);
        let (class, was) =
            (spec.field("volumeAttributesClassName"), before.field("volumeAttributesClassName"));
        if was.exists() && !class.exists() {
            errors.push(class.forbidden("update from non-nil value to nil is forbidden"));
        }
    }

    fn validate_status(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        let (status, before) = (new.field("status"), old.field("status"));
        for (_, quantity) in status.field("capacity").entries() {
            resource_list::validate_quantity(&quantity, errors);
        }
        for field in ["allocatedResources", "allocatedResourceStatuses"] {
            for (name, value) in status.field(field).entries() {
                if before.field(field).key(name).get() == value.get() {
                    continue;
                }
                for problem in machinery::names::qualified_name(name) {
                    errors.push(value.invalid_as(name, problem));
                }
            }
        }
    }
}

const CLASS_ANNOTATION: &str = "volume.beta.kubernetes.io/storage-class";

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
    let resources = spec.field("resources");
    let storage = resources.field("requests").key("storage");
    let mut found = FieldErrors::new();
    if storage.exists() {
        resource_list::validate_positive(&storage, &mut found);
    } else {
        found.push(storage.required(""));
    }
    // Upstream leaves `requests` out of the path.
    for mut error in found {
        error.path = resources.path().key("storage");
        errors.push(error);
    }
    let class = spec.field("storageClassName");
    if !class.text().is_empty() {
        checks::text_rule(&class, machinery::names::dns1123_subdomain, errors);
    }
    checks::one_of_or_empty(&spec.field("volumeMode"), &["Block", "Filesystem"], errors);
    let class = spec.field("volumeAttributesClassName");
    checks::optional_text(&class, machinery::names::dns1123_subdomain, errors);
    validate_data_sources(spec, errors);
}

/// What a volume is filled from.
fn validate_data_sources(spec: &At, errors: &mut FieldErrors) {
    let (old, new) = (spec.field("dataSource"), spec.field("dataSourceRef"));
    for source in [&old, &new] {
        if !source.exists() {
            continue;
        }
        checks::required(&source.field("name"), errors);
        let (kind, group) = (source.field("kind"), source.field("apiGroup"));
        checks::required(&kind, errors);
        if group.text().is_empty() {
            if !matches!(kind.text(), "" | "PersistentVolumeClaim") {
                errors.push(source.invalid_as(
                    kind.text(),
                    "must be 'PersistentVolumeClaim' when referencing the default apiGroup",
                ));
            }
        } else {
            checks::text_rule(&group, machinery::names::dns1123_subdomain, errors);
        }
    }
    if new.field("namespace").exists() {
        checks::optional_text(&new.field("namespace"), machinery::names::dns1123_label, errors);
        if old.exists() {
            errors.push(spec.invalid_as(
                "spec.dataSource",
                "may not be specified when dataSourceRef.namespace is specified",
            ));
        }
    } else if old.exists() && new.exists() && !same(old.get(), new.get()) {
        errors.push(spec.invalid_as("spec.dataSource", "must match dataSourceRef"));
    }
}
