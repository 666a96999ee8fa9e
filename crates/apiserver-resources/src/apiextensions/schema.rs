//! Checks that the schema of a custom resource is structural (apiextensions/pkg/apiserver/schema/validation.go).
use machinery::FieldErrors;
use serde_json::Value;

use crate::checks;
use crate::tree::At;

/// Where a schema stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Level {
    Root,
    Field,
    Item,
}

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
/// What a part of a logical combination may not say, since the structure itself has to say it.
const NOT_IN_JUNCTORS: [&str; 9] = [
    "additionalProperties",
    "default",
    "description",
    "nullable",
    "title",
    "type",
    "x-kubernetes-embedded-resource",
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
];
const UNSUPPORTED: [(&str, &str); 5] = [
    ("$ref", "$ref is not supported"),
    ("definitions", "definitions is not supported"),
    ("dependencies", "dependencies is not supported"),
    ("id", "id is not supported"),
    ("patternProperties", "patternProperties is not supported"),
];
/// Deeper than any schema that means something.
const MAX_DEPTH: usize = 100;

/// Checks the schema of a version.
pub(super) fn validate(schema: &At, errors: &mut FieldErrors) {
    validate_at(schema, Level::Root, 0, errors);
    let metadata = schema.field("properties").key("metadata");
    let only_names =
        metadata.field("properties").entries().all(|(name, _)| matches!(name, "name" | "generateName"));
    let says_more = ["additionalProperties", "items", "allOf", "anyOf", "oneOf", "not", "required"]
        .iter()
        .any(|field| metadata.field(field).exists());
    if metadata.exists() && (!only_names || says_more) {
        errors.push(metadata.forbidden("must not specify anything other than name and generateName, but metadata is implicitly specified"));
    }
}

fn flag(schema: &At, name: &'static str) -> bool {
    schema.field(name).is_true()
}

fn validate_at(schema: &At, level: Level, depth: usize, errors: &mut FieldErrors) {
    if depth > MAX_DEPTH {
        errors.push(schema.forbidden("schema is too deep"));
        return;
    }
    validate_type(schema, level, errors);
    for (field, problem) in UNSUPPORTED {
        if !schema.field(field).is_empty() {
            errors.push(schema.field(field).forbidden(problem));
        }
    }
    if flag(schema, "uniqueItems") {
        errors.push(
            schema.field("uniqueItems").forbidden(
                "uniqueItems cannot be set to true since the runtime complexity becomes quadratic",
            ),
        );
    }
    validate_object(schema, depth, errors);
    validate_list(schema, errors);
    let items = schema.field("items");
    match items.get() {
        Some(Value::Array(_)) => {
            errors.push(items.forbidden("items must be a schema object and not an array"));
        }
        Some(_) => validate_at(&items, Level::Item, depth + 1, errors),
        None if schema.field("type").text() == "array" => errors.push(items.required("must be specified")),
        None => {}
    }
    for junctor in ["allOf", "anyOf", "oneOf"] {
        let either = int_or_string_shape(schema, junctor);
        for part in schema.field(junctor).items() {
            validate_junctor(&part, either, depth + 1, errors);
        }
    }
    if schema.field("not").exists() {
        validate_junctor(&schema.field("not"), false, depth + 1, errors);
    }
    validate_rules(&schema.field("x-kubernetes-validations"), errors);
}

fn validate_type(schema: &At, level: Level, errors: &mut FieldErrors) {
    let ty = schema.field("type");
    let free = flag(schema, "x-kubernetes-int-or-string")
        || (flag(schema, "x-kubernetes-preserve-unknown-fields") && level != Level::Root);
    if !ty.text().is_empty() && !TYPES.contains(&ty.text()) {
        errors.push(ty.not_supported(&TYPES));
    }
    match (level, ty.text()) {
        (Level::Root, "") => errors.push(ty.required("must not be empty at the root")),
        (Level::Root, "object") => {}
        (Level::Root, _) => errors.push(ty.invalid("must be object at the root")),
        (Level::Field, "") if !free => {
            errors.push(ty.required("must not be empty for specified object fields"));
        }
        (Level::Item, "") if !free => {
            errors.push(ty.required("must not be empty for specified array items"));
        }
        _ => {}
    }
    if flag(schema, "x-kubernetes-int-or-string") && !ty.text().is_empty() {
        errors.push(ty.invalid("must be empty if x-kubernetes-int-or-string is true"));
    }
    if flag(schema, "x-kubernetes-embedded-resource") {
        if ty.text() != "object" {
            errors.push(ty.invalid_as(ty.text(), "must be object if x-kubernetes-embedded-resource is true"));
        }
        if !flag(schema, "x-kubernetes-preserve-unknown-fields") && schema.field("properties").is_empty() {
            errors.push(schema.field("properties").required("must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields"));
        }
    }
    let preserve = schema.field("x-kubernetes-preserve-unknown-fields");
    if preserve.bool() == Some(false) {
        errors.push(preserve.invalid("must be true or undefined"));
    }
}

fn validate_object(schema: &At, depth: usize, errors: &mut FieldErrors) {
    let (properties, additional) = (schema.field("properties"), schema.field("additionalProperties"));
    if additional.bool() == Some(false) {
        errors.push(additional.forbidden("additionalProperties cannot be set to false"));
    }
    if additional.exists() && !properties.is_empty() {
        errors.push(additional.forbidden("additionalProperties and properties are mutual exclusive"));
    }
    for (_, property) in properties.entries() {
        validate_at(&property, Level::Field, depth + 1, errors);
    }
    if additional.tree().is_some() {
        validate_at(&additional, Level::Field, depth + 1, errors);
    }
    let map_type = schema.field("x-kubernetes-map-type");
    if map_type.exists() {
        checks::one_of(&map_type, &["atomic", "granular"], errors);
        let ty = schema.field("type");
        if ty.text() != "object" {
            errors.push(ty.invalid_as(ty.text(), "must be object if x-kubernetes-map-type is specified"));
        }
    }
}

fn validate_list(schema: &At, errors: &mut FieldErrors) {
    let (ty, list_type, keys) = (
        schema.field("type"),
        schema.field("x-kubernetes-list-type"),
        schema.field("x-kubernetes-list-map-keys"),
    );
    if list_type.exists() {
        checks::one_of(&list_type, &["atomic", "map", "set"], errors);
        if ty.text() != "array" {
            errors.push(ty.invalid_as(ty.text(), "must be array if x-kubernetes-list-type is specified"));
        }
    }
    if !keys.is_empty() && list_type.text() != "map" {
        errors.push(list_type.invalid_as(
            list_type.get().cloned().unwrap_or(Value::Null),
            "must be map if x-kubernetes-list-map-keys is non-empty",
        ));
    }
    if list_type.text() != "map" {
        return;
    }
    if keys.is_empty() {
        errors.push(keys.required("must not be empty if x-kubernetes-list-type is map"));
        return;
    }
    let items = schema.field("items");
    let item_type = items.field("type");
    if item_type.text() != "object" {
        errors.push(
            item_type.invalid_as(
                item_type.text(),
                "must be object if parent array's x-kubernetes-list-type is map",
            ),
        );
    }
    let (properties, required) = (items.field("properties"), items.field("required"));
    for (i, key) in keys.items().enumerate() {
        if keys.items().take(i).any(|k| k.text() == key.text()) {
            errors.push(key.invalid("must not contain duplicate entries"));
        }
        let property = properties.key(key.text());
        if !property.exists() {
            errors.push(keys.invalid("entries must all be names of item properties"));
        } else if !required.lists(key.text()) && !property.field("default").exists() {
            errors.push(property.field("default").required("this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"));
        }
    }
}

/// `anyOf: [{type: integer}, {type: string}]` beside `x-kubernetes-int-or-string`, the only place for a type.
fn int_or_string_shape(schema: &At, junctor: &'static str) -> bool {
    let types: Vec<&str> = schema.field(junctor).items().map(|p| p.field("type").text()).collect();
    (flag(schema, "x-kubernetes-int-or-string") && junctor == "anyOf" && types == ["integer", "string"])
        || (flag(schema, "x-kubernetes-int-or-string") && junctor == "allOf")
}

fn validate_junctor(part: &At, may_have_type: bool, depth: usize, errors: &mut FieldErrors) {
    if depth > MAX_DEPTH {
        return;
    }
    for field in NOT_IN_JUNCTORS {
        if part.field(field).exists() && !(field == "type" && may_have_type) {
            errors.push(part.field(field).forbidden(if field == "description" || field == "title" {
                "must be empty to be structural".to_owned()
            } else {
                match part.field(field).get() {
                    Some(Value::Bool(_)) => "must be false to be structural".to_owned(),
                    Some(Value::String(_)) => "must be empty to be structural".to_owned(),
                    _ => "must be undefined to be structural".to_owned(),
                }
            }));
        }
    }
    for (_, property) in part.field("properties").entries() {
        validate_junctor(&property, false, depth + 1, errors);
    }
    if part.field("items").tree().is_some() {
        validate_junctor(&part.field("items"), false, depth + 1, errors);
    }
    for junctor in ["allOf", "anyOf", "oneOf"] {
        for inner in part.field(junctor).items() {
            validate_junctor(&inner, may_have_type, depth + 1, errors);
        }
    }
    if part.field("not").exists() {
        validate_junctor(&part.field("not"), false, depth + 1, errors);
    }
}

fn validate_rules(rules: &At, errors: &mut FieldErrors) {
    for rule in rules.items() {
        let (text, message, expression) =
            (rule.field("rule"), rule.field("message"), rule.field("messageExpression"));
        if text.text().trim().is_empty() {
            errors.push(text.required("rule is not specified"));
        }
        if !message.text().is_empty() && message.text().trim().is_empty() {
            errors.push(message.invalid("message must be non-empty if specified"));
        } else if message.text().trim().contains(['\n', '\r']) {
            errors.push(message.invalid("message must not contain line breaks"));
        } else if text.text().trim().contains(['\n', '\r']) && message.text().trim().is_empty() {
            errors.push(message.required("message must be specified if rule contains line breaks"));
        }
        if !expression.text().is_empty() && expression.text().trim().is_empty() {
            errors.push(expression.required("messageExpression must be non-empty if specified"));
        }
        let reason = rule.field("reason");
        if reason.exists() {
            checks::one_of(
                &reason,
                &["FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired"],
                errors,
            );
        }
    }
}
