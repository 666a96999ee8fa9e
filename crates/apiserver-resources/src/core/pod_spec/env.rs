//! Checks of environment variables, and of references to fields of the pod.
use machinery::{FieldError, FieldErrors, names};

use crate::checks;
use crate::core::resource_list;
use crate::tree::At;

const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];
const VOLUME_FIELDS: [&str; 5] =
    ["metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations", "metadata.uid"];
const RESOURCES: [&str; 6] = [
    "limits.cpu",
    "limits.ephemeral-storage",
    "limits.memory",
    "requests.cpu",
    "requests.ephemeral-storage",
    "requests.memory",
];

/// Checks environment variables.
pub(crate) fn validate_env(env: &At, errors: &mut FieldErrors) {
    for variable in env.items() {
        let name = variable.field("name");
        if name.text().is_empty() {
            errors.push(name.required(""));
        } else {
            checks::text_rule(&name, names::relaxed_env_var_name, errors);
        }
        let from = variable.field("valueFrom");
        if from.exists() {
            validate_value_from(&from, !variable.field("value").text().is_empty(), errors);
        }
    }
}

fn validate_value_from(from: &At, has_value: bool, errors: &mut FieldErrors) {
    let field = from.field("fieldRef");
    let resource = from.field("resourceFieldRef");
    let (config, secret, file) =
        (from.field("configMapKeyRef"), from.field("secretKeyRef"), from.field("fileKeyRef"));
    let sources = [&field, &resource, &config, &secret, &file].iter().filter(|s| s.exists()).count();
    if field.exists() {
        validate_field_ref(&field, &ENV_FIELDS, errors);
    }
    if resource.exists() {
        validate_resource_ref(&resource, false, errors);
    }
    for reference in [&config, &secret] {
        if reference.exists() {
            checks::required(&reference.field("name"), errors);
            let key = reference.field("key");
            if key.text().is_empty() {
                errors.push(key.required(""));
            } else {
                checks::text_rule(&key, names::config_map_key, errors);
            }
        }
    }
    if file.exists() {
        for part in ["volumeName", "path", "key"] {
            checks::required(&file.field(part), errors);
        }
    }
    let invalid = |detail| FieldError::invalid(&from.path(), "", detail);
    match sources {
        0 => errors.push(invalid(
            "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
        )),
        _ if has_value => errors.push(invalid("may not be specified when `value` is not empty")),
        1 => {}
        _ => errors.push(invalid("may not have more than one field specified at a time")),
    }
}

/// `metadata.labels['key']` gives the field and the key.
fn split_subscript(path: &str) -> Option<(&str, &str)> {
    path.strip_suffix("']")?.split_once("['")
}

fn validate_field_ref(at: &At, supported: &[&str], errors: &mut FieldErrors) {
    let (version, path) = (at.field("apiVersion"), at.field("fieldPath"));
    if version.text().is_empty() {
        errors.push(version.required(""));
        return;
    }
    if path.text().is_empty() {
        errors.push(path.required(""));
        return;
    }
    if version.text() != "v1" {
        errors.push(
            path.invalid(format!("error converting fieldPath: unsupported pod version: {}", version.text())),
        );
        return;
    }
    match split_subscript(path.text()) {
        Some(("metadata.annotations", key)) => {
            errors.extend(names::qualified_name(&key.to_lowercase()).into_iter().map(|p| path.invalid(p)));
        }
        Some(("metadata.labels", key)) => {
            errors.extend(names::qualified_name(key).into_iter().map(|p| path.invalid(p)));
        }
        Some((field, _)) => {
            errors.push(FieldError::invalid(&path.path(), field, "does not support subscript"));
        }
        None => checks::one_of(&path, supported, errors),
    }
}

fn validate_resource_ref(at: &At, in_volume: bool, errors: &mut FieldErrors) {
    let (container, resource, divisor) =
        (at.field("containerName"), at.field("resource"), at.field("divisor"));
    if in_volume && container.text().is_empty() {
        errors.push(container.required(""));
        return;
    }
    let name = resource.text();
    if name.is_empty() {
        errors.push(resource.required(""));
        return;
    }
    if !name.starts_with("limits.hugepages-") && !name.starts_with("requests.hugepages-") {
        checks::one_of(&resource, &RESOURCES, errors);
    }
    let Some(quantity) = resource_list::quantity(&divisor).filter(|q| !q.is_zero()) else { return };
    let text = quantity.to_string();
    if name.ends_with(".cpu") {
        if !matches!(text.as_str(), "1m" | "1") {
            errors
                .push(divisor.invalid("only divisor's values 1m and 1 are supported with the cpu resource"));
        }
    } else if !matches!(
        text.as_str(),
        "1" | "1k" | "1M" | "1G" | "1T" | "1P" | "1E" | "1Ki" | "1Mi" | "1Gi" | "1Ti" | "1Pi" | "1Ei"
    ) {
        errors.push(divisor.invalid(
            "only divisor's values 1, 1k, 1M, 1G, 1T, 1P, 1E, 1Ki, 1Mi, 1Gi, 1Ti, 1Pi, 1Ei are supported with the memory resource",
        ));
    }
}

/// Checks sources of many variables at once.
pub(crate) fn validate_env_from(env_from: &At, errors: &mut FieldErrors) {
    for source in env_from.items() {
        let prefix = source.field("prefix");
        if !prefix.text().is_empty() {
            checks::text_rule(&prefix, names::relaxed_env_var_name, errors);
        }
        let (config, secret) = (source.field("configMapRef"), source.field("secretRef"));
        for reference in [&config, &secret] {
            if reference.exists() {
                checks::required(&reference.field("name"), errors);
            }
        }
        match (config.exists(), secret.exists()) {
            (false, false) => errors.push(FieldError::invalid(
                &env_from.path(),
                "",
                "must specify one of: `configMapRef` or `secretRef`",
            )),
            (true, true) => errors.push(FieldError::invalid(
                &env_from.path(),
                "",
                "may not have more than one field specified at a time",
            )),
            _ => {}
        }
    }
}

/// Checks a file of a downward API volume.
pub(crate) fn validate_downward_file(item: &At, errors: &mut FieldErrors) {
    let (field, resource) = (item.field("fieldRef"), item.field("resourceFieldRef"));
    if field.exists() {
        validate_field_ref(&field, &VOLUME_FIELDS, errors);
        if resource.exists() {
            errors.push(FieldError::invalid(
                &item.path(),
                "resource",
                "fieldRef and resourceFieldRef can not be specified simultaneously",
            ));
        }
    } else if resource.exists() {
        validate_resource_ref(&resource, true, errors);
    } else {
        errors.push(FieldError::required(&item.path(), "one of fieldRef and resourceFieldRef is required"));
    }
}
