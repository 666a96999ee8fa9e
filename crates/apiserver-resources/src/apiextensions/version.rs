//! Checks of one version of a custom resource: subresources, columns, selectable fields.
use machinery::{FieldErrors, names};

use crate::apiextensions::schema;
use crate::checks;
use crate::tree::At;

const MAX_WARNING: usize = 256;
const MAX_SELECTABLE: usize = 8;
const FORMATS: [&str; 9] =
    ["byte", "date", "date-time", "double", "float", "int32", "int64", "binary", "password"];

/// Checks a version.
pub(super) fn validate(version: &At, errors: &mut FieldErrors) {
    checks::text_rule(&version.field("name"), names::dns1035_label, errors);
    validate_warning(version, errors);
    let root = version.fields(&["schema", "openAPIV3Schema"]);
    if root.exists() {
        schema::validate(&root, errors);
    } else {
        errors.push(root.required("schemas are required"));
    }
    let scale = version.fields(&["subresources", "scale"]);
    if scale.exists() {
        validate_scale(&scale, errors);
    }
    for column in version.field("additionalPrinterColumns").items() {
        checks::required(&column.field("name"), errors);
        checks::required_one_of(
            &column.field("type"),
            &["boolean", "date", "integer", "number", "string"],
            errors,
        );
        checks::one_of_or_empty(&column.field("format"), &FORMATS, errors);
        let path = column.field("jsonPath");
        if path.text().is_empty() {
            errors.push(path.required(""));
        } else if !path.text().starts_with('.') && !path.text().starts_with('{') {
            errors.push(path.invalid("must be a simple json path starting with ."));
        }
    }
    validate_selectable(&version.field("selectableFields"), errors);
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

/// A path of plain fields.
fn is_simple(path: &str) -> bool {
    path.starts_with('.')
        && path[1..].split('.').all(|step| !step.is_empty() && !step.contains(['[', ']', '*', '?', '@']))
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
        } else if !is_simple(path.text()) {
            errors.push(path.invalid("must be a simple json path without array notation"));
        } else if !roots.iter().any(|root| path.text().starts_with(root)) {
            errors.push(path.invalid(format!("should be a json path under {word}")));
        }
    }
}

fn validate_selectable(fields: &At, errors: &mut FieldErrors) {
    if fields.len() > MAX_SELECTABLE {
        errors.push(fields.too_many(MAX_SELECTABLE));
    }
    for (i, field) in fields.items().enumerate() {
        let path = field.field("jsonPath");
        if path.text().is_empty() {
            errors.push(path.required(""));
        } else if !is_simple(path.text()) {
            errors.push(path.invalid("is an invalid path: must be a simple json path starting with ."));
        } else if path.text().starts_with(".metadata.") {
            errors.push(path.invalid("must not point to fields in metadata"));
        }
        if fields.items().take(i).any(|f| f.field("jsonPath").text() == path.text()) {
            errors.push(path.duplicate());
        }
    }
}
