//! Checks of one version of a custom resource: subresources, columns, selectable fields.
use machinery::{FieldErrors, names};

use crate::apiextensions::{schema, value};
use crate::checks;
use crate::tree::At;

const MAX_WARNING: usize = 256;
const MAX_SELECTABLE: usize = 8;
const FORMATS: &[&str] = &["byte", "date", "date-time", "double", "float", "int32", "int64", "password"];
const TYPES: &[&str] = &["boolean", "date", "integer", "number", "string"];

/// Checks a version.
pub(super) fn validate(version: &At, errors: &mut FieldErrors) {
    checks::text_rule(&version.field("name"), names::dns1035_label, errors);
    validate_warning(version, errors);
    let root = version.fields(&["schema", "openAPIV3Schema"]);
    if root.exists() {
        let status = version.fields(&["subresources", "status"]).exists();
        let mut found = FieldErrors::new();
        schema::validate(&root, status, &mut found);
        // Only a structural schema says what a default has to be.
        if let Some(tree) = root.get().filter(|_| found.is_empty()) {
            value::validate_defaults(tree, &root.path(), &mut found);
        }
        errors.append(&mut found);
    } else {
        errors.push(root.required("schemas are required"));
    }
    let scale = version.fields(&["subresources", "scale"]);
    if scale.exists() {
        validate_scale(&scale, errors);
    }
    for column in version.field("additionalPrinterColumns").items() {
        validate_column(&column, errors);
    }
    validate_selectable(&version.field("selectableFields"), &root, errors);
}

/// Checks a printed column; errors name the path as upstream's internal type does.
fn validate_column(column: &At, errors: &mut FieldErrors) {
    checks::required(&column.field("name"), errors);
    let ty = column.field("type");
    let types = format!("must be one of {}", TYPES.join(","));
    match ty.text() {
        "" => errors.push(ty.required(types)),
        text if !TYPES.contains(&text) => errors.push(ty.invalid(types)),
        _ => {}
    }
    let format = column.field("format");
    if !format.text().is_empty() && !FORMATS.contains(&format.text()) {
        errors.push(format.invalid(format!("must be one of {}", FORMATS.join(","))));
    }
    let path = column.field("jsonPath");
    let problem = match path.text() {
        "" => Some(path.required("")),
        text if !text.starts_with('.') => Some(path.invalid("must be a simple json path starting with .")),
        _ => None,
    };
    errors.extend(problem.map(|mut problem| {
        problem.path = column.path().child("JSONPath");
        problem
    }));
}

fn validate_warning(version: &At, errors: &mut FieldErrors) {
    let warning = version.field("deprecationWarning");
    if !warning.exists() {
        return;
    }
    if !version.field("deprecated").is_true() {
        errors.push(warning.invalid("can only be set for deprecated versions"));
    }
    if warning.text().is_empty() {
        errors.push(warning.invalid("must not be an empty string"));
    } else if warning.text().chars().count() > MAX_WARNING {
        errors.push(warning.invalid(format!("must be <= {MAX_WARNING} characters long")));
    } else if let Some(index) = warning.text().char_indices().position(|(_, c)| c.is_control()) {
        errors.push(warning.invalid(format!(
            "must only contain printable UTF-8 characters; non-printable character found at index {index}"
        )));
    }
}

fn validate_scale(scale: &At, errors: &mut FieldErrors) {
    for (field, roots, word) in [
        ("specReplicasPath", &[".spec."][..], ".spec"),
        ("statusReplicasPath", &[".status."], ".status"),
        ("labelSelectorPath", &[".spec.", ".status."], "either .spec or .status"),
    ] {
        let path = scale.field(field);
        if path.text().is_empty() {
            if field != "labelSelectorPath" {
                errors.push(path.required(""));
            }
        } else if !path.text().starts_with('.') {
            errors.push(path.invalid("must be a simple json path starting with ."));
        } else if !roots.iter().any(|root| path.text().starts_with(root)) {
            errors.push(path.invalid(format!("should be a json path under {word}")));
        }
    }
}

/// The schema of the field at a path like `.spec.a`.
fn field_at<'v>(root: &At<'v>, path: &str) -> Result<At<'v>, String> {
    let steps = path.strip_prefix('.').ok_or_else(|| format!("expected [ or . but got: {path}"))?;
    let mut at = root.clone();
    for step in steps.split('.') {
        if step.contains(['[', ']']) {
            return Err("array notation is not allowed".to_owned());
        }
        at = at.field("properties").key(step);
        if !at.exists() {
            return Err("does not refer to a valid field".to_owned());
        }
    }
    Ok(at)
}

fn validate_selectable(fields: &At, schema: &At, errors: &mut FieldErrors) {
    let mut seen: Vec<&str> = Vec::new();
    for field in fields.items() {
        let path = field.field("jsonPath");
        if path.text().is_empty() {
            errors.push(path.required(""));
            continue;
        }
        let found = match field_at(schema, path.text()) {
            Ok(found) => found,
            Err(why) => {
                errors.push(path.invalid(format!("is an invalid path: {why}")));
                continue;
            }
        };
        if path.text().starts_with(".metadata") {
            errors.push(path.invalid("must not point to fields in metadata"));
        }
        if !matches!(found.field("type").text(), "string" | "boolean" | "integer") {
            errors.push(path.invalid("must point to a field of type string, boolean or integer. Enum string fields and strings with formats are allowed."));
        }
        if seen.contains(&path.text()) {
            errors.push(path.duplicate());
        } else {
            seen.push(path.text());
        }
    }
    if seen.len() > MAX_SELECTABLE {
        errors.push(fields.too_many(MAX_SELECTABLE));
    }
}
