//! Rules of `ObjectMeta`, which all kinds share, in upstream's words (apimachinery/pkg/api/validation/objectmeta.go).
use std::collections::BTreeSet;

use machinery::{FieldErrors, Object, names};

use crate::checks;
use crate::tree::At;

/// What a name must look like: all its problems.
pub type NameRule = fn(&str) -> Vec<String>;

/// Checks the metadata of an object, new or changed. The store has filled name and namespace by now.
pub fn validate_object_meta(object: &Object, namespaced: bool, name_rule: NameRule) -> FieldErrors {
    let mut errors = FieldErrors::new();
    // The root of the metadata of a custom resource has no schema, so the cursor starts at the object.
    let meta = At::object(object).field("metadata");
    let (generate_name, name, namespace) =
        (meta.field("generateName"), meta.field("name"), meta.field("namespace"));
    if !generate_name.is_empty() {
        let masked = names::mask_trailing_dash(generate_name.text());
        errors.extend(name_rule(&masked).into_iter().map(|p| generate_name.invalid(p)));
    }
    if name.is_empty() {
        errors.push(name.required("name or generateName is required"));
    } else {
        checks::text_rule(&name, name_rule, &mut errors);
    }
    if namespaced {
        if namespace.is_empty() {
            errors.push(namespace.required(""));
        } else {
            checks::text_rule(&namespace, names::dns1123_label, &mut errors);
        }
    } else if !namespace.is_empty() {
        errors.push(namespace.forbidden("not allowed on this type"));
    }
    checks::non_negative(&meta.field("generation"), &mut errors);
    validate_rest(&meta, is_built_in(object), &mut errors);
    errors
}

/// Checks a change of the metadata of an object.
pub fn validate_object_meta_update(new: &Object, old: &Object) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let (new_meta, old_meta) = (At::object(new).field("metadata"), At::object(old).field("metadata"));
    if old.is_deleting() {
        let before: BTreeSet<&str> = old.finalizers().collect();
        let added: BTreeSet<&str> = new.finalizers().filter(|f| !before.contains(f)).collect();
        if !added.is_empty() {
            let listed: Vec<String> = added.iter().map(|f| format!("{f:?}")).collect();
            errors.push(new_meta.field("finalizers").forbidden(format!(
                "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
                listed.join(", ")
            )));
        }
    }
    for field in
        ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"]
    {
        checks::immutable(&new_meta.field(field), &old_meta.field(field), &mut errors);
    }
    let generation = new_meta.field("generation");
    if generation.int().unwrap_or(0) < old_meta.field("generation").int().unwrap_or(0) {
        errors.push(generation.invalid("must not be decremented"));
    }
    validate_rest(&new_meta, is_built_in(new), &mut errors);
    errors
}

fn is_built_in(object: &Object) -> bool {
    let (group, version) = object.api_version().split_once('/').unwrap_or(("", object.api_version()));
    api::kinds::by_kind(group, version, object.kind()).is_some()
}

fn validate_rest(meta: &At, built_in: bool, errors: &mut FieldErrors) {
    checks::labels(&meta.field("labels"), errors);
    checks::annotations(&meta.field("annotations"), errors);
    validate_owners(&meta.field("ownerReferences"), errors);
    validate_finalizers(&meta.field("finalizers"), built_in, errors);
    validate_managers(&meta.field("managedFields"), errors);
}

/// The rest of what an entry says is read before it gets here.
fn validate_managers(managed: &At, errors: &mut FieldErrors) {
    for entry in managed.items() {
        for (field, max) in [("manager", 128), ("subresource", 256)] {
            let at = entry.field(field);
            if at.text().len() > max {
                errors.push(machinery::FieldError::too_long(&at.path(), max));
            }
        }
    }
}

fn validate_owners(owners: &At, errors: &mut FieldErrors) {
    let mut controller: Option<String> = None;
    for owner in owners.items() {
        let api_version = owner.field("apiVersion");
        let version = api_version.text().rsplit('/').next().unwrap_or("");
        if version.is_empty() {
            errors.push(api_version.invalid("version must not be empty"));
        }
        for field in ["kind", "name", "uid"] {
            let at = owner.field(field);
            if at.text().is_empty() {
                let empty =
                    machinery::FieldError::invalid(&at.path(), "", format!("{field} must not be empty"));
                errors.push(empty);
            }
        }
        if api_version.text() == "v1" && owner.field("kind").text() == "Event" {
            errors.push(owner.invalid("/v1, Kind=Event is disallowed from being an owner"));
        }
        if owner.field("controller").is_true() {
            let name = owner.field("name").text();
            match &controller {
                Some(first) => errors.push(owners.invalid(format!(
                    "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
                ))),
                None => controller = Some(name.to_owned()),
            }
        }
    }
}

fn validate_finalizers(finalizers: &At, built_in: bool, errors: &mut FieldErrors) {
    let (mut orphan, mut foreground) = (false, false);
    for finalizer in finalizers.items() {
        for problem in names::qualified_name(finalizer.text()) {
            errors.push(machinery::FieldError::invalid(&finalizers.path(), finalizer.text(), problem));
        }
        orphan |= finalizer.text() == "orphan";
        foreground |= finalizer.text() == "foregroundDeletion";
    }
    if orphan && foreground {
        errors.push(finalizers.invalid("finalizer orphan and foregroundDeletion cannot be both set"));
    }
    if built_in {
        for finalizer in finalizers.items() {
            validate_qualified(&finalizer, errors);
        }
    }
}

/// A finalizer without a domain must be one of the standard ones.
fn validate_qualified(at: &At, errors: &mut FieldErrors) {
    let name = at.text();
    if !name.contains('/') && !matches!(name, "kubernetes" | "orphan" | "foregroundDeletion") {
        errors.push(at.invalid("name is neither a standard finalizer name nor is it fully qualified"));
    }
}

/// Checks one of a namespace's own finalizers.
pub(crate) fn validate_finalizer(at: &At, errors: &mut FieldErrors) {
    checks::text_rule(at, names::qualified_name, errors);
    validate_qualified(at, errors);
}

/// What names of a resource must look like.
pub fn name_rule(group: &str, plural: &str) -> NameRule {
    match (group, plural) {
        ("", "namespaces") => names::dns1123_label,
        ("", "services") => names::dns1035_label,
        ("apps", "statefulsets") => names::dns1123_label,
        ("rbac.authorization.k8s.io" | "apiregistration.k8s.io", _) => names::path_segment,
        ("networking.k8s.io", "ipaddresses") => checks::canonical_ip,
        ("certificates.k8s.io", "certificatesigningrequests") => any_name,
        ("certificates.k8s.io", "clustertrustbundles") => trust_bundle_name,
        _ => names::dns1123_subdomain,
    }
}

/// Requests for certificates may be called anything.
fn any_name(_name: &str) -> Vec<String> {
    Vec::new()
}

/// `signer:name`, where the signer's `/` reads `:`.
fn trust_bundle_name(name: &str) -> Vec<String> {
    names::dns1123_subdomain(name.rsplit(':').next().unwrap_or(name))
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn config_map(metadata: Value) -> Object {
        Object::from_value(json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata})).unwrap()
    }

    fn problems(metadata: Value) -> Vec<String> {
        validate_object_meta(&config_map(metadata), true, names::dns1123_subdomain)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn metadata_of_all_kinds_is_checked_in_upstreams_words() {
        for (metadata, expected) in [
            (json!({"name": "a", "namespace": "b"}), vec![]),
            (
                json!({}),
                vec![
                    "metadata.name: Required value: name or generateName is required",
                    "metadata.namespace: Required value",
                ],
            ),
            (
                json!({"name": "a", "namespace": "b", "labels": {"k": "a b"}}),
                vec![
                    "metadata.labels: Invalid value: \"a b\": a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
                ],
            ),
            (
                json!({"name": "a", "namespace": "b", "finalizers": ["foo"]}),
                vec![
                    "metadata.finalizers[0]: Invalid value: \"foo\": name is neither a standard finalizer name nor is it fully qualified",
                ],
            ),
            (
                json!({"name": "a", "namespace": "b", "annotations": {"k": "x".repeat(262_144)}}),
                vec!["metadata.annotations: Too long: may not be more than 262144 bytes"],
            ),
            (
                json!({"name": "a", "namespace": "b", "ownerReferences": [
                    {"apiVersion": "v1", "kind": "Pod", "name": "p", "uid": ""}]}),
                vec!["metadata.ownerReferences[0].uid: Invalid value: \"\": uid must not be empty"],
            ),
        ] {
            assert_eq!(problems(metadata), expected);
        }
    }

    #[test]
    fn a_generated_name_may_end_in_a_dash() {
        assert!(problems(json!({"generateName": "a-", "name": "a-12345", "namespace": "b"})).is_empty());
    }

    #[test]
    fn identity_does_not_change() {
        let old = config_map(json!({"name": "a", "namespace": "b", "uid": "1"}));
        let new = config_map(json!({"name": "a", "namespace": "b", "uid": "2"}));
        let problems: Vec<String> =
            validate_object_meta_update(&new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(problems, ["metadata.uid: Invalid value: \"2\": field is immutable"]);
    }

    #[test]
    fn a_dying_object_takes_no_new_finalizer() {
        let old = config_map(
            json!({"name": "a", "deletionTimestamp": "2026-01-01T00:00:00Z", "finalizers": ["x/a"]}),
        );
        let mut new = old.clone();
        new.set(&["metadata", "finalizers"], json!(["x/a", "x/b"]));
        let problems: Vec<String> =
            validate_object_meta_update(&new, &old).iter().map(ToString::to_string).collect();
        assert_eq!(
            problems,
            [
                "metadata.finalizers: Forbidden: no new finalizers can be added if the object is being deleted, found new finalizers []string{\"x/b\"}"
            ]
        );
    }
}
