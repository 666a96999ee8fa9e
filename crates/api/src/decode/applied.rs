//! The configuration of a server-side apply: JSON or YAML that is checked against the schema only when it is merged.
use machinery::gvk::GroupVersionKind;
use machinery::{Object, StatusError, StatusResult};

use super::walk::Walk;
use super::{Decoded, FieldValidation, Target, check, into_object, parse_root, yaml};
use crate::schema::Ty;

/// Decodes an applied configuration as it is: unknown fields stay, for merging refuses them.
pub fn decode_applied(
    bytes: &[u8],
    target: &Target<'_>,
    validation: FieldValidation,
) -> StatusResult<Decoded> {
    // Unknown fields are refused whatever the validation.
    let mut walk = Walk::new(true, true);
    // YAML includes JSON, which is read faster as what it is.
    let parsed = match bytes.first() {
        Some(b'{') => parse_root(bytes, Ty::Any, &mut walk).and_then(into_object),
        _ => Err(String::new()),
    };
    let (object, in_yaml) = match parsed {
        Ok(object) => (object, false),
        Err(_) => {
            walk = Walk::new(true, true);
            let object = yaml::parse(bytes, Ty::Any, &mut walk).map_err(|e| {
                let problem = walk.error.take().unwrap_or(e);
                StatusError::bad_request(format!("error decoding YAML: {problem}"))
            })?;
            (object, true)
        }
    };
    let said = GroupVersionKind::from_api_version(object.api_version(), object.kind());
    if said != GroupVersionKind::new(target.group, target.version, target.kind) {
        return Err(StatusError::bad_request(format!(
            "invalid object type: {}/{}, Kind={}",
            said.group, said.version, said.kind
        )));
    }
    let mut warnings = walk.problems;
    // The metadata is of one type for all kinds, so it was checked already.
    let unknown = warnings.iter().find_map(|w| w.strip_prefix("unknown field \"")?.strip_suffix('"'));
    if let Some(path) = unknown {
        return Err(StatusError::new(
            500,
            "",
            format!(
                "failed to create typed patch object ({}/{}; {}/{}, Kind={}): .{path}: field not declared in schema",
                object.namespace(),
                object.name(),
                said.group,
                said.version,
                said.kind
            ),
        ));
    }
    if in_yaml && walk.duplicates {
        warnings.splice(0..0, yaml::duplicate(bytes));
    }
    if validation == FieldValidation::Ignore {
        warnings.clear();
    }
    if validation == FieldValidation::Strict && !warnings.is_empty() {
        let problem = format!("error strict decoding YAML: {}", warnings.join(", "));
        return Err(StatusError::bad_request(problem));
    }
    Ok(Decoded { object, warnings })
}

/// Brings an applied configuration that fits its schema into the form in which objects are stored: nulls go,
/// quantities and times are written one way.
pub fn normalize_applied(object: Object, target: &Target<'_>) -> StatusResult<Object> {
    let mut value = object.into_value();
    check(target.schema, &mut value)
        .map_err(|e| super::cannot_be_handled(target, target.kind, target.version, &e))?;
    into_object(Some(value)).map_err(StatusError::bad_request)
}
