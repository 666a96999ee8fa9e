//! Kubernetes' protobuf: messages into trees and back, led by a table made from the proto files.
//!
//! Start at [`decode_protobuf`] and [`encode_object`]; the tree is what the same object has in JSON.
mod decode;
mod encode;
mod envelope;
pub mod table;
pub(crate) mod wire;

use machinery::gvk::GroupVersionKind;
use machinery::{Object, StatusError, StatusResult};
use serde_json::{Map, Value};

use crate::decode::{Target, cannot_be_handled, summary, wrong_kind};
pub use encode::EncodeError;
pub use envelope::{Envelope, MAGIC};
pub use wire::WireError;

/// The media type.
pub const CONTENT_TYPE: &str = "application/vnd.kubernetes.protobuf";

/// Decodes one object. The caller bounds the size of the bytes. Fields that are unknown are skipped, as every decoder
/// of protobuf does.
pub fn decode_protobuf(bytes: &[u8], target: &Target<'_>) -> StatusResult<Object> {
    let envelope = open(bytes, target.kind)?;
    let api_version = target.api_version();
    if !envelope.api_version.is_empty() && envelope.api_version != api_version
        || !envelope.kind.is_empty() && envelope.kind != target.kind
    {
        return Err(wrong_kind(&envelope.api_version, &envelope.kind, target));
    }
    let refuse = |problem: &str| cannot_be_handled(target, target.kind, target.version, problem);
    let message = target.schema.and_then(|id| table::by_name(crate::schema::get(id).name));
    let object = match message {
        _ if envelope.is_json() => {
            serde_json::from_slice(envelope.raw).map_err(|e| refuse(&e.to_string()))?
        }
        Some(id) => decode::object(id, envelope.raw, 0).map_err(|e| refuse(&e.to_string()))?,
        None => return Err(refuse("the kind has no protobuf form")),
    };
    let mut value = Value::Object(object);
    crate::decode::check(target.schema, &mut value).map_err(|e| refuse(&e))?;
    let mut object = Object::from_value(value).unwrap_or_default();
    object.set_type(&api_version, target.kind);
    Ok(object)
}

/// Decodes `DeleteOptions`, which every group and version speaks.
pub fn decode_delete_options(bytes: &[u8]) -> StatusResult<Value> {
    let envelope = open(bytes, "DeleteOptions")?;
    let refuse = |problem: String| {
        let gvk = GroupVersionKind::from_api_version(&envelope.api_version, &envelope.kind);
        StatusError::bad_request(format!(
            "{} in version {:?} cannot be handled as a DeleteOptions: {problem}",
            gvk.kind, gvk.version
        ))
    };
    let Some(id) = table::by_kind("", "v1", "DeleteOptions") else {
        return Err(refuse("the kind has no protobuf form".into()));
    };
    if !envelope.kind.is_empty() && envelope.kind != "DeleteOptions" {
        return Err(refuse(format!("no kind {:?} is DeleteOptions", envelope.kind)));
    }
    let mut object: Map<String, Value> = if envelope.is_json() {
        serde_json::from_slice(envelope.raw).map_err(|e| refuse(e.to_string()))?
    } else {
        decode::object(id, envelope.raw, 0).map_err(|e| refuse(e.to_string()))?
    };
    object.insert("kind".into(), "DeleteOptions".into());
    Ok(Value::Object(object))
}

/// Encodes an object or list in its envelope, by the `apiVersion` and `kind` that it has.
pub fn encode_object(object: &Map<String, Value>) -> Result<Vec<u8>, EncodeError> {
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let gvk = GroupVersionKind::from_api_version(api_version, kind);
    let id = table::by_kind(&gvk.group, &gvk.version, &gvk.kind)
        .ok_or_else(|| EncodeError::NoMessage(kind.to_owned(), api_version.to_owned()))?;
    let mut raw = Vec::new();
    encode::object(id, object, &mut raw)?;
    Ok(Envelope::seal(api_version, kind, &raw))
}

/// Encodes an item of a list, as a part of the list's message: what [`list_frame`] goes around.
pub fn encode_list_item(object: &Map<String, Value>) -> Result<Vec<u8>, EncodeError> {
    let text = |name: &str| object.get(name).and_then(Value::as_str).unwrap_or_default();
    let (api_version, kind) = (text("apiVersion"), text("kind"));
    let gvk = GroupVersionKind::from_api_version(api_version, kind);
    let id = table::by_kind(&gvk.group, &gvk.version, &gvk.kind)
        .ok_or_else(|| EncodeError::NoMessage(kind.to_owned(), api_version.to_owned()))?;
    let (mut raw, mut out) = (Vec::new(), Vec::new());
    encode::object(id, object, &mut raw)?;
    wire::put_bytes(&mut out, LIST_ITEMS, &raw);
    Ok(out)
}

/// What comes before and after the items of a list, so that a large one needs not be in one piece of memory.
/// `items`: their bytes together.
pub fn list_frame(
    api_version: &str,
    kind: &str,
    metadata: Value,
    items: usize,
) -> Result<(Vec<u8>, Vec<u8>), EncodeError> {
    let gvk = GroupVersionKind::from_api_version(api_version, kind);
    let id = table::by_kind(&gvk.group, &gvk.version, &gvk.kind)
        .ok_or_else(|| EncodeError::NoMessage(kind.to_owned(), api_version.to_owned()))?;
    let mut raw = Vec::new();
    let empty = Map::from_iter([("metadata".to_owned(), metadata)]);
    encode::object(id, &empty, &mut raw)?;
    Ok(Envelope::seal_around(api_version, kind, &raw, items))
}

/// The number of `items` in every list (the same in all of `k8s.io/api`).
const LIST_ITEMS: u32 = 2;

/// Encodes one event of a watch: its length in four bytes, then a `WatchEvent` without an envelope of its own. `kind`
/// is `ADDED` and so on.
pub fn encode_watch_event(kind: &str, object: &Map<String, Value>) -> Result<Vec<u8>, EncodeError> {
    let object = encode_object(object)?;
    let mut raw = Vec::with_capacity(object.len() + 8);
    wire::put_bytes(&mut raw, 1, &object);
    let mut out = vec![0; 4];
    wire::put_bytes(&mut out, 1, kind.as_bytes());
    wire::put_bytes(&mut out, 2, &raw);
    let length = u32::try_from(out.len() - 4).map_err(|_| EncodeError::TooLong)?;
    out[..4].copy_from_slice(&length.to_be_bytes());
    Ok(out)
}

fn open<'a>(bytes: &'a [u8], kind: &str) -> StatusResult<Envelope<'a>> {
    let refuse = |problem: &str| {
        StatusError::bad_request(format!(
            "the object provided is unrecognized (must be of type {kind}): {problem} ({})",
            summary(bytes)
        ))
    };
    if bytes.is_empty() {
        return Err(refuse("empty data"));
    }
    if !bytes.starts_with(MAGIC) {
        return Err(refuse(
            "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]",
        ));
    }
    Envelope::read(bytes).map_err(|e| refuse(&e.to_string()))
}

#[cfg(test)]
mod tests;
