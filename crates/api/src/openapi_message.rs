//! OpenAPI documents as protobuf messages, from tables of fields: what the encoders of both versions share.
use serde_json::{Map, Value};

use crate::proto::wire::{put_bytes, put_double, put_number};

/// How the fields of a JSON object become a message.
pub(crate) struct Message {
    /// Name in JSON, number, form.
    pub(crate) fields: &'static [(&'static str, u32, As)],
    /// The field of what begins with `x-`; 0: none.
    pub(crate) extensions: u32,
}

/// How one value becomes a field.
pub(crate) enum As {
    Text,
    Texts,
    Bool,
    Int,
    Double,
    /// `Any`, as YAML. JSON is YAML.
    Yaml,
    /// A list of `Any`.
    Yamls,
    /// `TypeItem`: one name or a list of them.
    Types,
    /// A message below messages that have it in the fields of these numbers.
    Inside(&'static [u32], &'static Message),
    /// The same for each item of a list.
    Each(&'static [u32], &'static Message),
    /// The same for each value of an object, in a list of names and values, in the field of the first number.
    Named(u32, &'static [u32], &'static Message),
    /// As a function writes it.
    By(fn(&mut Vec<u8>, u32, &Value)),
}

use As::{Bool, By, Double, Each, Inside, Int, Named, Text, Texts, Types, Yaml, Yamls};

/// The message of a whole document.
pub(crate) fn encode(document: &Value, message: &Message) -> Vec<u8> {
    let mut out = Vec::new();
    if let Some(map) = document.as_object() {
        put_fields(&mut out, map, message);
    }
    out
}

fn put_fields(out: &mut Vec<u8>, map: &Map<String, Value>, message: &Message) {
    for (name, number, form) in message.fields {
        if let Some(value) = map.get(*name) {
            put(out, *number, value, form);
        }
    }
    if message.extensions == 0 {
        return;
    }
    for (name, value) in map.iter().filter(|(name, _)| name.starts_with("x-")) {
        let mut named = Vec::new();
        put_bytes(&mut named, 1, name.as_bytes());
        put_bytes(&mut named, 2, &any(value));
        put_bytes(out, message.extensions, &named);
    }
}

fn put(out: &mut Vec<u8>, number: u32, value: &Value, form: &As) {
    match (form, value) {
        (Text, Value::String(text)) => put_bytes(out, number, text.as_bytes()),
        (Texts, _) => put_texts(out, number, value),
        (Bool, Value::Bool(flag)) => put_number(out, number, u64::from(*flag)),
        (Int, _) => {
            if let Some(int) = value.as_i64() {
                // As protobuf writes negative numbers: all 64 bits.
                put_number(out, number, int as u64);
            }
        }
        (Double, _) => {
            if let Some(double) = value.as_f64() {
                put_double(out, number, double);
            }
        }
        (Yaml, _) => put_bytes(out, number, &any(value)),
        (Yamls, Value::Array(items)) => items.iter().for_each(|i| put_bytes(out, number, &any(i))),
        (Types, _) => {
            let mut names = Vec::new();
            put_texts(&mut names, 1, value);
            put_bytes(out, number, &names);
        }
        (Inside(inside, message), _) => put_inside(out, number, value, inside, message),
        (Each(inside, message), Value::Array(items)) => {
            items.iter().for_each(|item| put_inside(out, number, item, inside, message));
        }
        (Named(list, inside, message), Value::Object(map)) => {
            let all = named(map, *list, |out, value| put_inside(out, 2, value, inside, message));
            put_bytes(out, number, &all);
        }
        (By(write), _) => write(out, number, value),
        _ => {}
    }
}

/// Names and values of an object, each pair in the field `list`; `put` writes a value into field 2 of its pair.
pub(crate) fn named(map: &Map<String, Value>, list: u32, put: impl Fn(&mut Vec<u8>, &Value)) -> Vec<u8> {
    let mut all = Vec::new();
    for (name, value) in map {
        let mut pair = Vec::new();
        put_bytes(&mut pair, 1, name.as_bytes());
        put(&mut pair, value);
        put_bytes(&mut all, list, &pair);
    }
    all
}

/// Writes a message below messages that have it in the fields of these numbers.
pub(crate) fn put_inside(out: &mut Vec<u8>, number: u32, value: &Value, inside: &[u32], message: &Message) {
    let mut bytes = Vec::new();
    match (inside.split_first(), value) {
        (Some((next, rest)), _) => put_inside(&mut bytes, *next, value, rest, message),
        (None, Value::Object(map)) => put_fields(&mut bytes, map, message),
        (None, _) => {}
    }
    put_bytes(out, number, &bytes);
}

/// One text or a list of them.
fn put_texts(out: &mut Vec<u8>, number: u32, value: &Value) {
    let items = value.as_array().map_or(std::slice::from_ref(value), Vec::as_slice);
    items.iter().filter_map(Value::as_str).for_each(|text| put_bytes(out, number, text.as_bytes()));
}

fn any(value: &Value) -> Vec<u8> {
    let mut out = Vec::new();
    put_bytes(&mut out, 2, value.to_string().as_bytes());
    out
}
