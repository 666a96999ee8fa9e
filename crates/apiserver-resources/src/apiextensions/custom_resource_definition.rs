//! apiextensions.k8s.io/v1 CustomResourceDefinition: rules on the way in. The schemas have rules of their own.
use machinery::{FieldErrors, Object, names};
use serde_json::{Value, json};

use crate::apiextensions::{conversion, schema, version};
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

    fn warnings(&self, new: &Object, old: Option<&Object>) -> Vec<String> {
        let formats = |object: &Object| {
            let mut found = Vec::new();
            for version in At::object(object).fields(&["spec", "versions"]).items() {
                schema::unknown_formats(&version.fields(&["schema", "openAPIV3Schema"]), 0, &mut found);
            }
            found
        };
        let before = old.map(formats).unwrap_or_default();
        let new = formats(new).into_iter().filter(|format| !before.contains(format));
        new.map(|format| format!("unrecognized format {format:?}")).collect()
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
        checks::required_one_of(&spec.field("scope"), &["Cluster", "Namespaced"], errors);
        let preserve = spec.field("preserveUnknownFields");
        if preserve.is_true() {
            errors.push(preserve.invalid("cannot set to true, set x-kubernetes-preserve-unknown-fields to true in spec.versions[*].schema instead"));
        }
        validate_versions(&spec, errors);
        validate_names(&declared, errors);
        conversion::validate(&spec.field("conversion"), errors);
        validate_approval(object, group.text(), errors);
        validate_stored(object, errors);
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

    fn validate_status(&self, new: &At, _old: &At, errors: &mut FieldErrors) {
        validate_stored(new, errors);
    }

    fn allows_unconditional_update(&self) -> bool {
        false
    }
}

/// Objects may be stored in any of these versions, so none of them may go.
fn validate_stored(object: &At, errors: &mut FieldErrors) {
    let stored = object.fields(&["status", "storedVersions"]);
    if stored.is_empty() {
        errors.push(stored.invalid_as(Value::Array(Vec::new()), "must have at least one stored version"));
    }
    let versions = object.fields(&["spec", "versions"]);
    for version in stored.items() {
        if !versions.items().any(|v| v.field("name").text() == version.text()) {
            errors.push(version.invalid("must appear in spec.versions"));
        }
    }
}

fn validate_names(declared: &At, errors: &mut FieldErrors) {
    for field in ["plural", "singular"] {
        checks::required_text(&declared.field(field), names::dns1035_label, errors);
    }
    for field in ["kind", "listKind"] {
        let at = declared.field(field);
        if at.text().is_empty() {
            errors.push(at.required(""));
            continue;
        }
        let problems = names::dns1035_label(&at.text().to_lowercase());
        if !problems.is_empty() {
            errors.push(
                at.invalid(format!(
                    "may have mixed case, but should otherwise match: {}",
                    problems.join(",")
                )),
            );
        }
    }
    for list in ["shortNames", "categories"] {
        for item in declared.field(list).items() {
            checks::text_rule(&item, names::dns1035_label, errors);
        }
    }
    let (kind, list) = (declared.field("kind"), declared.field("listKind"));
    if !kind.text().is_empty() && kind.text() == list.text() {
        errors.push(list.invalid("kind and listKind may not be the same"));
    }
}

const APPROVAL: &str = "api-approved.kubernetes.io";

/// Groups of the community are its own to give.
fn validate_approval(object: &At, group: &str, errors: &mut FieldErrors) {
    let protected = ["k8s.io", "kubernetes.io"]
        .iter()
        .any(|domain| group == *domain || group.strip_suffix(domain).is_some_and(|g| g.ends_with('.')));
    if !protected {
        return;
    }
    let approval = object.fields(&["metadata", "annotations"]).key(APPROVAL);
    let see = "see https://github.com/kubernetes/enhancements/pull/1111";
    if !approval.exists() || approval.text().is_empty() {
        errors.push(
            approval.required(format!("protected groups must have approval annotation {APPROVAL:?}, {see}")),
        );
    } else if !approval.text().starts_with("unapproved") && !approval.text().contains("://") {
        errors.push(approval.invalid(format!(
            "protected groups must have approval annotation {APPROVAL:?} with either a URL or a reason starting with \"unapproved\", {see}"
        )));
    }
}

fn validate_versions(spec: &At, errors: &mut FieldErrors) {
    let versions = spec.field("versions");
    if versions.is_empty() {
        errors.push(versions.required("must have exactly one version marked as storage version"));
        return;
    }
    let mut seen: Vec<&str> = Vec::new();
    let mut unique = true;
    for version in versions.items() {
        version::validate(&version, errors);
        let name = version.field("name").text();
        unique &= !seen.contains(&name);
        seen.push(name);
    }
    if !unique {
        errors.push(versions.invalid("must contain unique version names"));
    }
    if versions.items().filter(|v| v.field("storage").is_true()).count() != 1 {
        errors.push(versions.invalid("must have exactly one version marked as storage version"));
    }
}
