//! A message into the tree that its JSON would give.
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::Timestamp;
use machinery::gvk::GroupVersionKind;
use serde_json::{Map, Value};

use super::envelope::{Envelope, MAGIC};
use super::table::{self, Field, Form, Many, Message, MessageId, Ty};
use super::wire::{Reader, Wire, WireError};

/// The deepest nesting of messages: as deep as JSON may be.
const MAX_DEPTH: u32 = 100;

/// Decodes a message into an object.
pub(super) fn object(id: MessageId, bytes: &[u8], depth: u32) -> Result<Map<String, Value>, WireError> {
    let mut out = Map::new();
    fields(table::get(id), bytes, depth, &mut out)?;
    Ok(out)
}

fn fields(
    message: &Message,
    bytes: &[u8],
    depth: u32,
    out: &mut Map<String, Value>,
) -> Result<(), WireError> {
    if depth > MAX_DEPTH {
        return Err(WireError::Depth);
    }
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        if let Some(field) = message.field(number) {
            one_field(field, wire, depth, out)?;
        }
    }
    Ok(())
}

fn one_field(
    field: &'static Field,
    wire: Wire<'_>,
    depth: u32,
    out: &mut Map<String, Value>,
) -> Result<(), WireError> {
    match field.many {
        Many::Inline => {
            if let (Ty::M(id), Wire::Bytes(bytes)) = (field.ty, wire) {
                return fields(table::get(id), bytes, depth + 1, out);
            }
            Err(WireError::Mismatch(wire.kind(), field.name))
        }
        Many::One => {
            // A message that comes in pieces is put together.
            if let (Ty::M(id), Wire::Bytes(bytes)) = (field.ty, wire)
                && table::get(id).form == Form::Plain
                && let Some(Value::Object(known)) = out.get_mut(field.name)
            {
                return fields(table::get(id), bytes, depth + 1, known);
            }
            let value = value(field, wire, depth)?;
            if value.is_null() || !field.keep && is_zero(field.ty, &value) {
                out.remove(field.name);
            } else {
                out.insert(field.name.to_owned(), value);
            }
            Ok(())
        }
        Many::List => {
            let list = out.entry(field.name).or_insert_with(|| Value::Array(Vec::new()));
            let Value::Array(list) = list else {
                return Err(WireError::Mismatch(wire.kind(), field.name));
            };
            match (field.ty, wire) {
                (Ty::Bool | Ty::Int32 | Ty::Int64, Wire::Bytes(bytes)) => {
                    let mut packed = Reader::new(bytes);
                    while let Some(number) = packed.packed()? {
                        list.push(value(field, Wire::Varint(number), depth)?);
                    }
                }
                _ => list.push(value(field, wire, depth)?),
            }
            Ok(())
        }
        Many::Map => {
            let Wire::Bytes(bytes) = wire else {
                return Err(WireError::Mismatch(wire.kind(), field.name));
            };
            let (mut key, mut of_key) = (String::new(), None);
            let mut entry = Reader::new(bytes);
            while let Some((number, wire)) = entry.next()? {
                match (number, wire) {
                    (1, Wire::Bytes(bytes)) => key = text(bytes),
                    (2, wire) => of_key = Some(value(field, wire, depth)?),
                    (1, wire) => return Err(WireError::Mismatch(wire.kind(), field.name)),
                    _ => {}
                }
            }
            let of_key = match of_key {
                Some(value) => value,
                None => absent(field, depth)?,
            };
            let map = out.entry(field.name).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(map) = map {
                map.insert(key, of_key);
            }
            Ok(())
        }
    }
}

/// The zero value of what an entry of a map leaves out.
fn absent(field: &'static Field, depth: u32) -> Result<Value, WireError> {
    let wire = match field.ty {
        Ty::Str | Ty::Bytes | Ty::M(_) => Wire::Bytes(&[]),
        Ty::Bool | Ty::Int32 | Ty::Int64 => Wire::Varint(0),
        Ty::Double => Wire::Fixed64(0),
    };
    value(field, wire, depth)
}

fn is_zero(ty: Ty, value: &Value) -> bool {
    match value {
        Value::String(text) => text.is_empty(),
        Value::Bool(flag) => !flag,
        Value::Number(number) => number.as_f64() == Some(0.0),
        // A list wrapped in a message is none of Go's lists: it was set.
        Value::Object(map) => matches!(ty, Ty::M(_)) && map.is_empty(),
        _ => false,
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn value(field: &'static Field, wire: Wire<'_>, depth: u32) -> Result<Value, WireError> {
    Ok(match (field.ty, wire) {
        (Ty::Str, Wire::Bytes(bytes)) => Value::String(text(bytes)),
        (Ty::Bytes, Wire::Bytes(bytes)) => Value::String(STANDARD.encode(bytes)),
        (Ty::Bool, Wire::Varint(n)) => Value::Bool(n != 0),
        // Go truncates as well.
        (Ty::Int32, Wire::Varint(n)) => Value::from(n as i32),
        (Ty::Int64, Wire::Varint(n)) => Value::from(n as i64),
        (Ty::Double, Wire::Fixed64(bits)) => Value::from(f64::from_bits(bits)),
        (Ty::M(id), Wire::Bytes(bytes)) => message(id, bytes, depth + 1)?,
        (_, wire) => return Err(WireError::Mismatch(wire.kind(), field.name)),
    })
}

fn message(id: MessageId, bytes: &[u8], depth: u32) -> Result<Value, WireError> {
    let message = table::get(id);
    if depth > MAX_DEPTH {
        return Err(WireError::Depth);
    }
    Ok(match message.form {
        Form::Plain => Value::Object(object(id, bytes, depth)?),
        // Go writes the zero time as an empty message.
        Form::Time | Form::MicroTime if bytes.is_empty() => Value::Null,
        Form::Time => time(bytes, false)?,
        Form::MicroTime => time(bytes, true)?,
        Form::Quantity => match first_bytes(bytes)? {
            [] => Value::String("0".into()),
            digits => Value::String(text(digits)),
        },
        Form::IntOrString => {
            let parts = object(id, bytes, depth)?;
            match parts.get("type").and_then(Value::as_i64) {
                Some(1) => parts.get("strVal").cloned().unwrap_or_else(|| "".into()),
                _ => parts.get("intVal").cloned().unwrap_or_else(|| 0.into()),
            }
        }
        Form::Raw => raw(first_bytes(bytes)?, depth)?,
        Form::Json => json(first_bytes(bytes)?)?,
        Form::Items => {
            let items = object(id, bytes, depth)?.remove("items");
            items.unwrap_or_else(|| Value::Array(Vec::new()))
        }
        Form::OrArray => {
            let list = message.fields.iter().find(|f| f.many == Many::List).map_or("", |f| f.name);
            let (schema, mut rest) = or_schema(message, bytes, depth)?;
            rest.remove(list).or(schema).unwrap_or(Value::Null)
        }
        Form::OrBool => {
            let (schema, rest) = or_schema(message, bytes, depth)?;
            schema.unwrap_or_else(|| rest.get("allows").cloned().unwrap_or(Value::Bool(false)))
        }
    })
}

/// The schema of a union, and its other fields.
fn or_schema(
    message: &Message,
    bytes: &[u8],
    depth: u32,
) -> Result<(Option<Value>, Map<String, Value>), WireError> {
    let (mut schema, mut rest) = (None, Map::new());
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        match message.field(number) {
            Some(field) if field.many == Many::Inline => schema = Some(value(field, wire, depth)?),
            Some(field) => one_field(field, wire, depth, &mut rest)?,
            None => {}
        }
    }
    Ok((schema, rest))
}

/// Field 1 of a message that is one text or some bytes.
fn first_bytes(bytes: &[u8]) -> Result<&[u8], WireError> {
    let mut found: &[u8] = &[];
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        if let (1, Wire::Bytes(bytes)) = (number, wire) {
            found = bytes;
        }
    }
    Ok(found)
}

fn time(bytes: &[u8], micro: bool) -> Result<Value, WireError> {
    let (mut seconds, mut nanos) = (0i64, 0i32);
    let mut reader = Reader::new(bytes);
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Varint(n)) => seconds = n as i64,
            (2, Wire::Varint(n)) => nanos = n as i32,
            _ => {}
        }
    }
    let at = Timestamp::new(seconds, if micro { nanos } else { 0 }).map_err(|_| WireError::Time)?;
    Ok(Value::String(if micro {
        at.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string()
    } else {
        at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
    }))
}

/// Bytes that are an object of some kind.
fn raw(bytes: &[u8], depth: u32) -> Result<Value, WireError> {
    if !bytes.starts_with(MAGIC) {
        return json(bytes);
    }
    let envelope = Envelope::read(bytes)?;
    if envelope.is_json() {
        return json(envelope.raw);
    }
    let gvk = GroupVersionKind::from_api_version(&envelope.api_version, &envelope.kind);
    let id = table::by_kind(&gvk.group, &gvk.version, &gvk.kind).ok_or_else(|| {
        let GroupVersionKind { kind, .. } = &gvk;
        WireError::Json(format!("no kind {kind:?} is registered for version {:?}", envelope.api_version))
    })?;
    let mut out = object(id, envelope.raw, depth + 1)?;
    out.insert("apiVersion".into(), envelope.api_version.into());
    out.insert("kind".into(), envelope.kind.into());
    Ok(Value::Object(out))
}

fn json(bytes: &[u8]) -> Result<Value, WireError> {
    if bytes.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(bytes).map_err(|e| WireError::Json(e.to_string()))
}
