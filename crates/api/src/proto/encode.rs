//! A tree into the message that its type has.
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use serde_json::{Map, Value};

use super::table::{self, Field, Form, Many, MessageId, Ty};
use super::wire::{put_bytes, put_double, put_number};

/// Why a tree has no protobuf form.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// The kind is not known, or is JSON alone: custom resources, tables.
    #[error(
        "object {0} in version {1:?} does not implement the protobuf marshalling interface and cannot be encoded to a protobuf message"
    )]
    NoMessage(String, String),
    /// A value is not of the type that its field has.
    #[error("field {0:?} has a value of another type")]
    Mismatch(&'static str),
    /// More than a frame of a watch can be.
    #[error("the event is too long")]
    TooLong,
}

/// Appends the fields of an object.
pub(super) fn object(
    id: MessageId,
    object: &Map<String, Value>,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    for field in table::get(id).fields {
        if field.many == Many::Inline {
            let Ty::M(id) = field.ty else { continue };
            let mut inner = Vec::new();
            self::object(id, object, &mut inner)?;
            // An inlined struct is no pointer: Go writes it in any case.
            put_bytes(out, field.number, &inner);
            continue;
        }
        match object.get(field.name) {
            None | Some(Value::Null) => {}
            Some(value) => one_field(field, value, out)?,
        }
    }
    Ok(())
}

fn one_field(field: &'static Field, value: &Value, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    match (field.many, value) {
        (Many::List, Value::Array(items)) => {
            items.iter().try_for_each(|item| put(field, field.number, item, out))
        }
        (Many::Map, Value::Object(map)) => {
            for (key, value) in map {
                let mut entry = Vec::new();
                put_bytes(&mut entry, 1, key.as_bytes());
                put(field, 2, value, &mut entry)?;
                put_bytes(out, field.number, &entry);
            }
            Ok(())
        }
        (Many::One, value) => put(field, field.number, value, out),
        _ => Err(EncodeError::Mismatch(field.name)),
    }
}

fn put(field: &'static Field, number: u32, value: &Value, out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let mismatch = || EncodeError::Mismatch(field.name);
    match (field.ty, value) {
        (Ty::Str, Value::String(text)) => put_bytes(out, number, text.as_bytes()),
        (Ty::Bytes, Value::String(text)) => {
            put_bytes(out, number, &STANDARD.decode(text).map_err(|_| mismatch())?);
        }
        (Ty::Bool, Value::Bool(flag)) => put_number(out, number, u64::from(*flag)),
        (Ty::Int32 | Ty::Int64, Value::Number(n)) => {
            put_number(out, number, n.as_i64().ok_or_else(mismatch)? as u64);
        }
        (Ty::Double, Value::Number(n)) => {
            put_double(out, number, n.as_f64().ok_or_else(mismatch)?);
        }
        (Ty::M(id), value) => {
            let mut inner = Vec::new();
            message(field, id, value, &mut inner)?;
            put_bytes(out, number, &inner);
        }
        // What a list may have for a zero value.
        (_, Value::Null) => put(field, number, &zero(field.ty), out)?,
        _ => return Err(mismatch()),
    }
    Ok(())
}

fn zero(ty: Ty) -> Value {
    match ty {
        Ty::Str | Ty::Bytes => "".into(),
        Ty::Bool => false.into(),
        Ty::Int32 | Ty::Int64 => 0.into(),
        Ty::Double => 0.0.into(),
        Ty::M(_) => Value::Object(Map::new()),
    }
}

fn message(
    field: &'static Field,
    id: MessageId,
    value: &Value,
    out: &mut Vec<u8>,
) -> Result<(), EncodeError> {
    let message = table::get(id);
    let mismatch = || EncodeError::Mismatch(field.name);
    match (message.form, value) {
        (Form::Raw | Form::Json, value) => put_bytes(out, 1, value.to_string().as_bytes()),
        (_, Value::Null) => {}
        (Form::Plain, Value::Object(map)) => object(id, map, out)?,
        (Form::Time | Form::MicroTime, Value::String(text)) => {
            let at: Timestamp = text.parse().map_err(|_| mismatch())?;
            let nanos = if message.form == Form::MicroTime { at.subsec_nanosecond() } else { 0 };
            let (seconds, nanos) =
                if nanos < 0 { (at.as_second() - 1, nanos + 1_000_000_000) } else { (at.as_second(), nanos) };
            put_number(out, 1, seconds as u64);
            put_number(out, 2, i64::from(nanos) as u64);
        }
        (Form::Quantity, Value::String(text)) => put_bytes(out, 1, text.as_bytes()),
        (Form::Quantity, Value::Number(n)) => put_bytes(out, 1, n.to_string().as_bytes()),
        (Form::IntOrString, Value::Number(n)) => {
            put_number(out, 1, 0);
            put_number(out, 2, n.as_i64().ok_or_else(mismatch)? as u64);
            put_bytes(out, 3, b"");
        }
        (Form::IntOrString, Value::String(text)) => {
            put_number(out, 1, 1);
            put_number(out, 2, 0);
            put_bytes(out, 3, text.as_bytes());
        }
        (Form::Items | Form::OrArray, Value::Array(_)) => {
            let list = message.fields.iter().find(|f| f.many == Many::List).ok_or_else(mismatch)?;
            one_field(list, value, out)?;
        }
        (Form::OrBool, Value::Bool(allows)) => put_number(out, 1, u64::from(*allows)),
        (Form::OrArray | Form::OrBool, Value::Object(_)) => {
            // A schema beside `allows` says that more is allowed, as Go's decoder of JSON does.
            if message.form == Form::OrBool {
                put_number(out, 1, 1);
            }
            let schema = message.fields.iter().find(|f| f.many == Many::Inline).ok_or_else(mismatch)?;
            put(schema, schema.number, value, out)?;
        }
        _ => return Err(mismatch()),
    }
    Ok(())
}
