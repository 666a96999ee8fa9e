//! apiextensions.k8s.io/v1 CustomResourceDefinition: rules on the way in. The schemas have rules of their own.
use machinery::{FieldError, FieldErrors, Object, names};
use serde_json::{Value, json};

use crate::checks;
use crate::rules::{Facts, Rules};
use crate::tree::{At, child, default_text, default_value, ensure, text_of};

/// Rules of definitions.
pub(crate) struct CustomResourceDefinition;

impl Rules for CustomResourceDefinition {
    const FACTS: Facts = Facts::BOTH;

    fn fill_defaults(&self, object: &mut Object) {
        let spec = ensure(&mut object.0, "spec");
        if let Some(names) = child(spec, "names") {
            let kind = text_of(names, "kind").to_owned();
            default_text(names, "singular", &kind.to_lowercase());
            default_text(names, "listKind", &format!("{kind}List"));
        }
        let conversion = ensure(spec, "conversion");
        default_text(conversion, "strategy", "None");
        let service = child(conversion, "webhook")
            .and_then(|w| child(w, "clientConfig"))
            .and_then(|c| child(c, "service"));
        if let Some(service) = service {
            default_value(service, "port", 443);
        }
    }

    /// Objects may be stored in the storage version from the start.
    fn status_at_birth(&self, object: &Object) -> Option<Value> {
        let stored: Vec<Value> = object
            .list_at(&["spec", "versions"])
            .iter()
            .filter(|v| v.get("storage") == Some(&Value::Bool(true)))
            .filter_map(|v| v.get("name").cloned())
            .collect();
        Some(json!({"conditions": [], "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": stored}))
    }

    fn prepare_for_update(&self, new: &mut Object, _old: &Object) {
        let storage: Vec<Value> = new
            .list_at(&["spec", "versions"])
            .iter()
            .filter(|v| v.get("storage") == Some(&Value::Bool(true)))
            .filter_map(|v| v.get("name").cloned())
            .collect();
        let mut stored = new.list_at(&["status", "storedVersions"]).to_vec();
        for version in storage {
            if !stored.contains(&version) {
                stored.push(version);
            }
        }
        new.set(&["status", "storedVersions"], stored);
    }

    fn validate(&self, object: &At, errors: &mut FieldErrors) {
        let spec = object.field("spec");
        let (group, declared) = (spec.field("group"), spec.field("names"));
        let (name, plural) = (object.field("metadata").field("name"), declared.field("plural"));
        let wanted = format!("{}.{}", plural.text(), group.text());
        if name.text() != wanted {
            errors.push(name.invalid("must be spec.names.plural+\".\"+spec.group"));
        }
        if group.text().is_empty() {
            errors.push(group.required(""));
        } else {
            checks::text_rule(&group, names::dns1123_subdomain, errors);
            if !group.text().contains('.') {
                errors.push(group.invalid("should be a domain with at least one dot"));
            }
        }
        checks::one_of(&spec.field("scope"), &["Cluster", "Namespaced"], errors);
        validate_versions(&spec, errors);
        for field in ["plural", "singular", "kind", "listKind"] {
            let at = declared.field(field);
            if at.text().is_empty() {
                errors.push(at.required(""));
            } else {
                let lower = at.text().to_lowercase();
                let shown = if field.ends_with("ind") { lower.as_str() } else { at.text() };
                errors.extend(names::dns1035_label(shown).into_iter().map(|p| at.invalid(p)));
            }
        }
        for list in ["shortNames", "categories"] {
            for item in declared.field(list).items() {
                checks::text_rule(&item, names::dns1035_label, errors);
            }
        }
        if declared.field("kind").text() == declared.field("listKind").text()
            && !declared.field("kind").is_empty()
        {
            errors.push(declared.field("listKind").invalid("kind and listKind may not be the same"));
        }
    }

    fn validate_update(&self, new: &At, old: &At, errors: &mut FieldErrors) {
        self.validate(new, errors);
        let established = old
            .fields(&["status", "conditions"])
            .items()
            .any(|c| c.field("type").text() == "Established" && c.field("status").text() == "True");
        if established {
            for path in [&["spec", "scope"][..], &["spec", "names", "kind"]] {
                checks::immutable(&new.fields(path), &old.fields(path), errors);
            }
        }
        for path in [&["spec", "group"][..], &["spec", "names", "plural"]] {
            checks::immutable(&new.fields(path), &old.fields(path), errors);
        }
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }
}

fn validate_versions(spec: &At, errors: &mut FieldErrors) {
    let versions = spec.field("versions");
    if versions.is_empty() {
        errors.push(versions.required("must have exactly one version marked as storage version"));
        return;
    }
    let mut seen: Vec<&str> = Vec::new();
    for version in versions.items() {
        let name = version.field("name");
        checks::text_rule(&name, names::dns1035_label, errors);
        if seen.contains(&name.text()) {
            errors.push(FieldError::invalid(
                &versions.path(),
                versions.get().cloned().unwrap_or_default(),
                "must contain unique version names",
            ));
        }
        seen.push(name.text());
        if !version.fields(&["schema", "openAPIV3Schema"]).exists() {
            errors.push(version.field("schema").field("openAPIV3Schema").required("schemas are required"));
        }
    }
    if versions.items().filter(|v| v.field("storage").is_true()).count() != 1 {
        errors.push(versions.invalid("must have exactly one version marked as storage version"));
    }
}
