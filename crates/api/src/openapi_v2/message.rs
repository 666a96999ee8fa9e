//! `openapi.v2.Document`, the protobuf form of an OpenAPI v2 document. Field numbers: gnostic, OpenAPIv2.proto.
//! What the document never holds (headers, security, XML) is not listed.
use serde_json::Value;

use crate::openapi_message::As::{Bool, By, Double, Inside, Int, Named, Text, Texts, Types, Yaml, Yamls};
use crate::openapi_message::{self, Message, put_inside};
use crate::proto::wire::{put_bytes, put_number};

/// The media type that clients ask for.
pub const MEDIA: &str = "application/com.github.proto-openapi.spec.v2@v1.0+protobuf";
/// The media type of an answer: media types have no `@`.
pub const CONTENT_TYPE: &str = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf";

static DOCUMENT: Message = Message {
    fields: &[
        ("swagger", 1, Text),
        ("info", 2, Inside(&[], &INFO)),
        ("paths", 8, Named(2, &[], &PATH)),
        ("definitions", 9, Named(1, &[], &SCHEMA)),
    ],
    extensions: 16,
};
static INFO: Message = Message { fields: &[("title", 1, Text), ("version", 2, Text)], extensions: 7 };
static PATH: Message = Message {
    fields: &[("patch", 8, Inside(&[], &OPERATION)), ("parameters", 9, By(parameters))],
    extensions: 10,
};
static OPERATION: Message = Message {
    fields: &[
        ("produces", 6, Texts),
        ("consumes", 7, Texts),
        ("parameters", 8, By(parameters)),
        ("responses", 9, Named(1, &[1], &RESPONSE)),
    ],
    extensions: 13,
};
static RESPONSE: Message =
    Message { fields: &[("description", 1, Text), ("schema", 2, Inside(&[1], &SCHEMA))], extensions: 5 };
static BODY_PARAMETER: Message = Message {
    fields: &[("name", 2, Text), ("in", 3, Text), ("required", 4, Bool), ("schema", 5, Inside(&[], &SCHEMA))],
    extensions: 6,
};
static QUERY_PARAMETER: Message = Message {
    fields: &[("in", 2, Text), ("name", 4, Text), ("type", 6, Text), ("uniqueItems", 20, Bool)],
    extensions: 23,
};
static PATH_PARAMETER: Message = Message {
    fields: &[
        ("required", 1, Bool),
        ("in", 2, Text),
        ("name", 4, Text),
        ("type", 5, Text),
        ("uniqueItems", 19, Bool),
    ],
    extensions: 22,
};
static SCHEMA: Message = Message {
    fields: &[
        ("$ref", 1, Text),
        ("format", 2, Text),
        ("title", 3, Text),
        ("description", 4, Text),
        ("default", 5, Yaml),
        ("multipleOf", 6, Double),
        ("maximum", 7, Double),
        ("exclusiveMaximum", 8, Bool),
        ("minimum", 9, Double),
        ("exclusiveMinimum", 10, Bool),
        ("maxLength", 11, Int),
        ("minLength", 12, Int),
        ("pattern", 13, Text),
        ("maxItems", 14, Int),
        ("minItems", 15, Int),
        ("uniqueItems", 16, Bool),
        ("maxProperties", 17, Int),
        ("minProperties", 18, Int),
        ("required", 19, Texts),
        ("enum", 20, Yamls),
        ("additionalProperties", 21, By(additional)),
        ("type", 22, Types),
        ("items", 23, Inside(&[1], &SCHEMA)),
        ("properties", 25, Named(1, &[], &SCHEMA)),
        ("example", 30, Yaml),
    ],
    extensions: 31,
};

/// The message of a document (see [`super::v2_document`]).
pub fn encode(document: &Value) -> Vec<u8> {
    openapi_message::encode(document, &DOCUMENT)
}

/// `AdditionalPropertiesItem`: a schema or a boolean.
fn additional(out: &mut Vec<u8>, number: u32, value: &Value) {
    if let Value::Bool(flag) = value {
        let mut item = Vec::new();
        put_number(&mut item, 2, u64::from(*flag));
        put_bytes(out, number, &item);
    } else {
        put_inside(out, number, value, &[1], &SCHEMA);
    }
}

/// `ParametersItem`, a list.
fn parameters(out: &mut Vec<u8>, number: u32, value: &Value) {
    for item in value.as_array().into_iter().flatten() {
        let (inside, message): (&[u32], _) = match item["in"].as_str() {
            Some("body") => (&[1, 1], &BODY_PARAMETER),
            Some("query") => (&[1, 2, 3], &QUERY_PARAMETER),
            _ => (&[1, 2, 4], &PATH_PARAMETER),
        };
        put_inside(out, number, item, inside, message);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::proto::wire::{Reader, Wire};

    /// The bytes of the only field with this number, followed down.
    fn follow<'a>(mut bytes: &'a [u8], path: &[u32]) -> Vec<&'a [u8]> {
        let Some((wanted, rest)) = path.split_first() else { return vec![bytes] };
        let mut reader = Reader::new(std::mem::take(&mut bytes));
        let mut found = Vec::new();
        while let Some((number, value)) = reader.next().expect("a message") {
            if let Wire::Bytes(inner) = value
                && number == *wanted
            {
                found.extend(follow(inner, rest));
            }
        }
        found
    }

    fn texts(bytes: &[u8], path: &[u32]) -> Vec<String> {
        follow(bytes, path).into_iter().map(|b| String::from_utf8_lossy(b).into_owned()).collect()
    }

    #[test]
    fn a_schema_has_the_field_numbers_of_gnostic() {
        let bytes = encode(&json!({ "definitions": { "a.B": {
            "type": "object",
            "required": ["x"],
            "properties": {
                "x": { "type": "array", "items": { "$ref": "#/definitions/c" }, "x-kubernetes-list-type": "set" },
                "y": { "type": "object", "additionalProperties": { "type": "string", "format": "byte" } },
            },
        } } }));
        assert_eq!(texts(&bytes, &[9, 1, 1]), ["a.B"]);
        let schema = follow(&bytes, &[9, 1, 2])[0];
        assert_eq!(texts(schema, &[22, 1]), ["object"]);
        assert_eq!(texts(schema, &[19]), ["x"]);
        assert_eq!(texts(schema, &[25, 1, 1]), ["x", "y"]);
        assert_eq!(texts(schema, &[25, 1, 2, 23, 1, 1]), ["#/definitions/c"]);
        assert_eq!(texts(schema, &[25, 1, 2, 31, 1]), ["x-kubernetes-list-type"]);
        assert_eq!(texts(schema, &[25, 1, 2, 31, 2, 2]), ["\"set\""]);
        assert_eq!(texts(schema, &[25, 1, 2, 21, 1, 2]), ["byte"]);
    }

    #[test]
    fn a_schema_that_says_nothing_is_there_all_the_same() {
        let bytes = encode(&json!({ "definitions": { "a": {} } }));
        assert_eq!(follow(&bytes, &[9, 1, 2]), [b""]);
    }

    #[test]
    fn numbers_and_booleans() {
        let bytes = encode(
            &json!({ "definitions": { "a": { "minimum": 1, "maxLength": 300, "additionalProperties": false } } }),
        );
        let mut expect = vec![9 << 3 | 1];
        expect.extend(1f64.to_le_bytes());
        expect.extend([11 << 3, 0xac, 0x02]);
        expect.extend([0xaa, 0x01, 2, 2 << 3, 0]);
        assert_eq!(follow(&bytes, &[9, 1, 2]), [expect]);
    }

    #[test]
    fn parameters_are_found_by_where_they_stand() {
        let bytes = encode(&json!({ "paths": { "/a/{name}": {
            "parameters": [{ "name": "name", "in": "path", "required": true, "type": "string" }],
            "patch": {
                "parameters": [
                    { "name": "body", "in": "body", "schema": { "type": "object" } },
                    { "name": "dryRun", "in": "query", "type": "string" },
                ],
                "responses": { "200": { "description": "OK", "schema": { "$ref": "#/definitions/a" } } },
                "x-kubernetes-group-version-kind": { "group": "", "version": "v1", "kind": "Pod" },
            },
        } } }));
        let path = follow(&bytes, &[8, 2, 2])[0];
        assert_eq!(texts(&bytes, &[8, 2, 1]), ["/a/{name}"]);
        assert_eq!(texts(path, &[9, 1, 2, 4, 4]), ["name"]);
        let patch = follow(path, &[8])[0];
        assert_eq!(texts(patch, &[8, 1, 1, 2]), ["body"]);
        assert_eq!(texts(patch, &[8, 1, 2, 3, 4]), ["dryRun"]);
        assert_eq!(texts(patch, &[9, 1, 2, 1, 2, 1, 1]), ["#/definitions/a"]);
        let yaml = &texts(patch, &[13, 2, 2])[0];
        assert_eq!(
            serde_json::from_str::<Value>(yaml).expect("YAML that is JSON"),
            json!({ "group": "", "version": "v1", "kind": "Pod" })
        );
    }
}
