//! `openapi.v3.Document`, the protobuf form of an OpenAPI v3 document. Field numbers: gnostic, OpenAPIv3.proto. What the
//! document never holds (headers, links, servers) is not listed.
use serde_json::Value;

use crate::openapi_message::As::{Bool, By, Double, Each, Inside, Int, Named, Text, Texts, Yaml, Yamls};
use crate::openapi_message::{self, Message, named, put_inside};
use crate::proto::wire::{put_bytes, put_double, put_number};

/// The media type that older clients ask for.
pub const MEDIA: &str = "application/com.github.proto-openapi.spec.v3@v1.0+protobuf";
/// The media type of an answer: media types have no `@`.
pub const CONTENT_TYPE: &str = "application/com.github.proto-openapi.spec.v3.v1.0+protobuf";

static DOCUMENT: Message = Message {
    fields: &[
        ("openapi", 1, Text),
        ("info", 2, Inside(&[], &INFO)),
        ("paths", 4, Named(1, &[], &PATH)),
        ("components", 5, Inside(&[], &COMPONENTS)),
    ],
    extensions: 9,
};
static INFO: Message =
    Message { fields: &[("title", 1, Text), ("description", 2, Text), ("version", 6, Text)], extensions: 7 };
static COMPONENTS: Message = Message { fields: &[("schemas", 1, By(schemas_by_name))], extensions: 10 };
static PATH: Message = Message {
    fields: &[
        ("get", 4, Inside(&[], &OPERATION)),
        ("put", 5, Inside(&[], &OPERATION)),
        ("post", 6, Inside(&[], &OPERATION)),
        ("delete", 7, Inside(&[], &OPERATION)),
        ("patch", 10, Inside(&[], &OPERATION)),
        ("parameters", 13, Each(&[1], &PARAMETER)),
    ],
    extensions: 14,
};
static OPERATION: Message = Message {
    fields: &[
        ("tags", 1, Texts),
        ("description", 3, Text),
        ("operationId", 5, Text),
        ("parameters", 6, Each(&[1], &PARAMETER)),
        ("requestBody", 7, Inside(&[1], &REQUEST_BODY)),
        ("responses", 8, Named(2, &[1], &RESPONSE)),
    ],
    extensions: 13,
};
static PARAMETER: Message = Message {
    fields: &[
        ("name", 1, Text),
        ("in", 2, Text),
        ("description", 3, Text),
        ("required", 4, Bool),
        ("schema", 10, By(schema)),
    ],
    extensions: 14,
};
static REQUEST_BODY: Message = Message {
    fields: &[("description", 1, Text), ("content", 2, Named(1, &[], &MEDIA_TYPE)), ("required", 3, Bool)],
    extensions: 4,
};
static RESPONSE: Message = Message {
    fields: &[("description", 1, Text), ("content", 3, Named(1, &[], &MEDIA_TYPE))],
    extensions: 5,
};
static MEDIA_TYPE: Message = Message { fields: &[("schema", 1, By(schema))], extensions: 5 };
static REFERENCE: Message = Message { fields: &[("$ref", 1, Text), ("description", 3, Text)], extensions: 0 };
static SCHEMA: Message = Message {
    fields: &[
        ("nullable", 1, Bool),
        ("readOnly", 3, Bool),
        ("writeOnly", 4, Bool),
        ("example", 7, Yaml),
        ("deprecated", 8, Bool),
        ("title", 9, Text),
        ("multipleOf", 10, Double),
        ("maximum", 11, Double),
        ("exclusiveMaximum", 12, Bool),
        ("minimum", 13, Double),
        ("exclusiveMinimum", 14, Bool),
        ("maxLength", 15, Int),
        ("minLength", 16, Int),
        ("pattern", 17, Text),
        ("maxItems", 18, Int),
        ("minItems", 19, Int),
        ("uniqueItems", 20, Bool),
        ("maxProperties", 21, Int),
        ("minProperties", 22, Int),
        ("required", 23, Texts),
        ("enum", 24, Yamls),
        ("type", 25, Text),
        ("allOf", 26, By(schemas)),
        ("oneOf", 27, By(schemas)),
        ("anyOf", 28, By(schemas)),
        ("not", 29, Inside(&[], &SCHEMA)),
        ("items", 30, By(items)),
        ("properties", 31, By(schemas_by_name)),
        ("additionalProperties", 32, By(additional)),
        ("default", 33, By(default)),
        ("description", 34, Text),
        ("format", 35, Text),
    ],
    extensions: 36,
};

/// The message of a document (see [`crate::openapi::v3_document`]).
pub fn encode(document: &Value) -> Vec<u8> {
    openapi_message::encode(document, &DOCUMENT)
}

/// `SchemaOrReference`.
fn schema(out: &mut Vec<u8>, number: u32, value: &Value) {
    if value.get("$ref").is_some() {
        put_inside(out, number, value, &[2], &REFERENCE);
    } else {
        put_inside(out, number, value, &[1], &SCHEMA);
    }
}

fn schemas(out: &mut Vec<u8>, number: u32, value: &Value) {
    value.as_array().into_iter().flatten().for_each(|item| schema(out, number, item));
}

fn schemas_by_name(out: &mut Vec<u8>, number: u32, value: &Value) {
    if let Some(map) = value.as_object() {
        put_bytes(out, number, &named(map, 1, |pair, value| schema(pair, 2, value)));
    }
}

/// `ItemsItem`.
fn items(out: &mut Vec<u8>, number: u32, value: &Value) {
    let mut item = Vec::new();
    schema(&mut item, 1, value);
    put_bytes(out, number, &item);
}

/// `AdditionalPropertiesItem`.
fn additional(out: &mut Vec<u8>, number: u32, value: &Value) {
    let mut item = Vec::new();
    match value {
        Value::Bool(flag) => put_number(&mut item, 2, u64::from(*flag)),
        _ => schema(&mut item, 1, value),
    }
    put_bytes(out, number, &item);
}

/// `DefaultType`: there is no form for lists and objects.
fn default(out: &mut Vec<u8>, number: u32, value: &Value) {
    let mut item = Vec::new();
    match value {
        Value::Number(n) => put_double(&mut item, 1, n.as_f64().unwrap_or_default()),
        Value::Bool(flag) => put_number(&mut item, 2, u64::from(*flag)),
        Value::String(text) => put_bytes(&mut item, 3, text.as_bytes()),
        _ => return,
    }
    put_bytes(out, number, &item);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::proto::wire::{Reader, Wire};

    /// The texts at the ends of a path of field numbers.
    fn texts(bytes: &[u8], path: &[u32]) -> Vec<String> {
        let Some((wanted, rest)) = path.split_first() else {
            return vec![String::from_utf8_lossy(bytes).into_owned()];
        };
        let mut reader = Reader::new(bytes);
        let mut found = Vec::new();
        while let Some((number, value)) = reader.next().expect("a message") {
            if let Wire::Bytes(inner) = value
                && number == *wanted
            {
                found.extend(texts(inner, rest));
            }
        }
        found
    }

    #[test]
    fn a_document_has_the_field_numbers_of_gnostic() {
        let bytes = encode(&json!({
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": "v1"},
            "paths": {"/a/{name}": {
                "parameters": [{"name": "name", "in": "path", "required": true, "schema": {"type": "string"}}],
                "patch": {
                    "operationId": "patchA",
                    "requestBody": {"content": {"*/*": {"schema": {"$ref": "#/components/schemas/a.B"}}}},
                    "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": {"type": "object"}}}}},
                    "x-kubernetes-action": "patch",
                },
            }},
            "components": {"schemas": {"a.B": {
                "type": "object",
                "required": ["x"],
                "properties": {
                    "x": {"type": "array", "items": {"$ref": "#/c"}, "x-kubernetes-list-type": "set"},
                    "y": {"description": "why", "allOf": [{"$ref": "#/d"}], "default": "z"},
                    "m": {"type": "object", "additionalProperties": {"type": "string", "format": "byte"}},
                },
            }}},
        }));
        assert_eq!(texts(&bytes, &[1]), ["3.0.0"]);
        assert_eq!(texts(&bytes, &[2, 6]), ["v1"]);
        assert_eq!(texts(&bytes, &[4, 1, 1]), ["/a/{name}"]);
        let path = [4, 1, 2];
        let at = |rest: &[u32]| texts(&bytes, &[&path[..], rest].concat());
        assert_eq!(at(&[13, 1, 1]), ["name"]);
        assert_eq!(at(&[13, 1, 10, 1, 25]), ["string"]);
        assert_eq!(at(&[10, 5]), ["patchA"]);
        assert_eq!(at(&[10, 7, 1, 2, 1, 1]), ["*/*"]);
        assert_eq!(at(&[10, 7, 1, 2, 1, 2, 1, 2, 1]), ["#/components/schemas/a.B"]);
        assert_eq!(at(&[10, 8, 2, 1]), ["200"]);
        assert_eq!(at(&[10, 8, 2, 2, 1, 3, 1, 2, 1, 1, 25]), ["object"]);
        assert_eq!(at(&[10, 13, 1]), ["x-kubernetes-action"]);
        let schema = [5, 1, 1, 2, 1];
        let at = |rest: &[u32]| texts(&bytes, &[&schema[..], rest].concat());
        assert_eq!(texts(&bytes, &[5, 1, 1, 1]), ["a.B"]);
        assert_eq!(at(&[23]), ["x"]);
        assert_eq!(at(&[31, 1, 1]), ["m", "x", "y"]);
        assert_eq!(at(&[31, 1, 2, 1, 30, 1, 2, 1]), ["#/c"]);
        assert_eq!(at(&[31, 1, 2, 1, 26, 2, 1]), ["#/d"]);
        assert_eq!(at(&[31, 1, 2, 1, 33, 3]), ["z"]);
        assert_eq!(at(&[31, 1, 2, 1, 32, 1, 1, 35]), ["byte"]);
        assert_eq!(at(&[31, 1, 2, 1, 36, 2, 2]), ["\"set\""]);
    }
}
