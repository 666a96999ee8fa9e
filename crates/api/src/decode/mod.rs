//! Bytes of a request into an object: known fields of the right type, the rest reported or dropped.
//!
//! Errors are upstream's (apimachinery/pkg/runtime, sigs.k8s.io/json), because clients and tests read them.
//! Start at [`decode`]; [`check`] does the same to a tree that is already parsed, such as the result of a patch.
mod applied;
mod scalar;
mod walk;
mod yaml;

pub use applied::{decode_applied, normalize_applied};
use machinery::gvk::GroupVersionKind;
use machinery::{Object, StatusError, StatusResult};
use serde::Deserialize;
use serde::de::DeserializeSeed;
use serde_json::Value;

use crate::kinds::{Kind, Subresource};
use crate::schema::{Ty, TypeId};
use walk::{Typed, Walk};

/// The form of the bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Media {
    /// `application/json`.
    Json,
    /// `application/yaml`.
    Yaml,
    /// `application/vnd.kubernetes.protobuf`.
    Protobuf,
}

/// What to do about fields that are unknown or given twice: the `fieldValidation` parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum FieldValidation {
    /// Say nothing.
    Ignore,
    /// Answer with a warning for each.
    #[default]
    Warn,
    /// Refuse the request.
    Strict,
}

impl FieldValidation {
    /// Reads the query parameter; empty means the default.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "" | "Warn" => Some(Self::Warn),
            "Ignore" => Some(Self::Ignore),
            "Strict" => Some(Self::Strict),
            _ => None,
        }
    }
}

/// What the bytes have to be.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// Group; empty for core.
    pub group: &'a str,
    /// Version.
    pub version: &'a str,
    /// Kind.
    pub kind: &'a str,
    /// Type of the object. `None`: a custom resource, of which only the metadata is known.
    pub schema: Option<TypeId>,
}

impl<'a> Target<'a> {
    /// An object of a kind.
    pub fn of(kind: &'a Kind) -> Self {
        Self { group: &kind.group, version: &kind.version, kind: &kind.kind, schema: kind.schema }
    }

    /// An object that a subresource speaks.
    pub fn of_subresource(sub: &'a Subresource) -> Self {
        Self { group: &sub.group, version: &sub.version, kind: &sub.kind, schema: sub.schema }
    }

    /// `group/version`.
    pub fn api_version(&self) -> String {
        GroupVersionKind::new(self.group, self.version, self.kind).api_version()
    }

    fn root(&self) -> Ty {
        self.schema.map_or(Ty::Any, Ty::R)
    }
}

/// A decoded object.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The object, with `apiVersion` and `kind`, without unknown fields and nulls.
    pub object: Object,
    /// What to tell the client in `Warning` headers.
    pub warnings: Vec<String>,
}

/// Decodes one object. The caller bounds the size of the bytes.
pub fn decode(
    bytes: &[u8],
    media: Media,
    target: &Target<'_>,
    validation: FieldValidation,
) -> StatusResult<Decoded> {
    if media == Media::Protobuf {
        let object = crate::proto::decode_protobuf(bytes, target)?;
        return Ok(Decoded { object, warnings: Vec::new() });
    }
    let mut walk = Walk::new(validation != FieldValidation::Ignore, target.schema.is_none());
    let parsed = match media {
        Media::Json => parse_json(bytes, target, &mut walk),
        _ => yaml::parse(bytes, target.root(), &mut walk),
    };
    let object = match parsed {
        Ok(object) => object,
        Err(problem) => {
            return Err(unreadable(bytes, media, target, walk.error.unwrap_or(problem)));
        }
    };
    let (api_version, kind) = (object.api_version(), object.kind());
    if (api_version != target.api_version() && !api_version.is_empty())
        || (kind != target.kind && !kind.is_empty())
    {
        return Err(wrong_kind(api_version, kind, target));
    }
    let mut object = object;
    object.set_type(&target.api_version(), target.kind);
    let mut problems = walk.problems;
    if media == Media::Yaml && walk.duplicates {
        problems.splice(0..0, yaml::duplicate(bytes));
    }
    if validation == FieldValidation::Strict && !problems.is_empty() {
        return Err(cannot_be_handled(
            target,
            target.kind,
            target.version,
            &format!("strict decoding error: {}", problems.join(", ")),
        ));
    }
    Ok(Decoded { object, warnings: problems })
}

/// Brings a parsed tree into the form that [`decode`] gives: drops and reports unknown fields, drops nulls, checks
/// types. The problems are those of fields; an error is one of types, in Go's words.
pub fn check(schema: Option<TypeId>, value: &mut Value) -> Result<Vec<String>, String> {
    let mut walk = Walk::new(true, schema.is_none());
    let root = schema.map_or(Ty::Any, Ty::R);
    match (Typed { walk: &mut walk, ty: root, root: true }).deserialize(value.take()) {
        Ok(checked) => {
            *value = checked.unwrap_or_else(|| Value::Object(serde_json::Map::new()));
            Ok(walk.problems)
        }
        Err(e) => Err(walk.error.unwrap_or_else(|| e.to_string())),
    }
}

/// [`check`] for the result of a patch: errors as the server answers them, warnings for the client.
pub fn check_patched(
    object: Object,
    schema: Option<TypeId>,
    validation: FieldValidation,
) -> StatusResult<Decoded> {
    let mut value = object.into_value();
    let problems = check(schema, &mut value).map_err(|e| {
        StatusError::new(
            422,
            "Invalid",
            format!("the server rejected our request due to an error in our request ({e})"),
        )
    })?;
    let Some(object) = Object::from_value(value) else {
        return Err(StatusError::bad_request("the result of the patch is no object"));
    };
    match validation {
        FieldValidation::Strict if !problems.is_empty() => {
            Err(StatusError::bad_request(format!("strict decoding error: {}", problems.join(", "))))
        }
        FieldValidation::Ignore => Ok(Decoded { object, warnings: Vec::new() }),
        _ => Ok(Decoded { object, warnings: problems }),
    }
}

fn parse_json(bytes: &[u8], target: &Target<'_>, walk: &mut Walk) -> Result<Object, String> {
    into_object(parse_root(bytes, target.root(), walk)?)
}

fn parse_root(bytes: &[u8], ty: Ty, walk: &mut Walk) -> Result<Option<Value>, String> {
    let mut json = serde_json::Deserializer::from_slice(bytes);
    Typed { walk, ty, root: true }
        .deserialize(&mut json)
        .and_then(|value| json.end().map(|()| value))
        .map_err(|e| go_syntax_error(&e, bytes))
}

fn into_object(value: Option<Value>) -> Result<Object, String> {
    Object::from_value(value.unwrap_or(Value::Object(serde_json::Map::new())))
        .ok_or_else(|| "json: cannot unmarshal value into Go value of type object".to_owned())
}

fn go_syntax_error(e: &serde_json::Error, bytes: &[u8]) -> String {
    match e.classify() {
        serde_json::error::Category::Eof => "unexpected end of JSON input".to_owned(),
        serde_json::error::Category::Syntax => {
            let line = bytes.split(|b| *b == b'\n').nth(e.line().saturating_sub(1));
            match line.and_then(|l| l.get(e.column().saturating_sub(1))) {
                Some(&b) if b.is_ascii_graphic() && e.to_string().starts_with("expected value") => {
                    format!("invalid character '{}' looking for beginning of value", char::from(b))
                }
                _ => e.to_string(),
            }
        }
        _ => e.to_string(),
    }
}

/// The error for bytes that did not decode: about their kind where they say one, else about the bytes.
fn unreadable(bytes: &[u8], media: Media, target: &Target<'_>, problem: String) -> StatusError {
    #[derive(Deserialize, Default)]
    #[serde(rename_all = "camelCase", default)]
    struct TypeMeta {
        api_version: String,
        kind: String,
    }
    let said: Option<TypeMeta> = match media {
        Media::Json => serde_json::from_slice(bytes).ok(),
        _ => serde_saphyr::from_slice(bytes).ok(),
    };
    let Some(said) = said else {
        return StatusError::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): couldn't get version/kind; json parse error: {problem} ({})",
            target.kind,
            summary(bytes)
        ));
    };
    let wrong_version = !said.api_version.is_empty() && said.api_version != target.api_version();
    if wrong_version || (!said.kind.is_empty() && said.kind != target.kind) {
        return wrong_kind(&said.api_version, &said.kind, target);
    }
    cannot_be_handled(target, target.kind, target.version, &problem)
}

pub(crate) fn cannot_be_handled(
    target: &Target<'_>,
    kind: &str,
    version: &str,
    problem: &str,
) -> StatusError {
    StatusError::bad_request(format!(
        "{kind} in version {version:?} cannot be handled as a {}: {problem}",
        target.kind
    ))
}

pub(crate) fn wrong_kind(api_version: &str, kind: &str, target: &Target<'_>) -> StatusError {
    let expected = target.api_version();
    let api_version = if api_version.is_empty() { &expected } else { api_version };
    let kind = if kind.is_empty() { target.kind } else { kind };
    let gvk = GroupVersionKind::from_api_version(api_version, kind);
    let known = crate::kinds::by_kind(&gvk.group, &gvk.version, kind).is_some();
    if kind == target.kind && (known || target.schema.is_none()) {
        return StatusError::bad_request(format!(
            "the API version in the data ({api_version}) does not match the expected API version ({expected})"
        ));
    }
    let problem = if known {
        let package = |group: &str| match group.split('.').next() {
            None | Some("") => "core".to_owned(),
            Some(first) => first.to_owned(),
        };
        format!(
            "converting ({}.{kind}) to ({}.{}): unknown conversion",
            gvk.version,
            package(target.group),
            target.kind
        )
    } else {
        format!(
            "no kind {kind:?} is registered for version {api_version:?} in scheme \"pkg/api/legacyscheme/scheme.go:30\""
        )
    };
    cannot_be_handled(target, kind, &gvk.version, &problem)
}

/// The first bytes of a body, as upstream shows them.
pub(crate) fn summary(bytes: &[u8]) -> String {
    const MAX: usize = 30;
    let more = if bytes.len() > MAX { " ..." } else { "" };
    let head = &bytes[..bytes.len().min(MAX)];
    match bytes.first() {
        None => "<empty>".to_owned(),
        Some(b'{') => format!("{}{more}", String::from_utf8_lossy(head)),
        Some(_) => {
            let hex: String = head.iter().map(|b| format!("{b:02x}")).collect();
            format!("{hex}{more}")
        }
    }
}

#[cfg(test)]
mod tests;
