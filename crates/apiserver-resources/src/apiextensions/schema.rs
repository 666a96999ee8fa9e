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
const UNSUPPORTED: [(&str, &str); 6] = [
    ("id", "id is not supported"),
    ("additionalItems", "additionalItems is not supported"),
    ("patternProperties", "patternProperties is not supported"),
    ("definitions", "definitions is not supported"),
    ("dependencies", "dependencies is not supported"),
    ("$ref", "$ref is not supported"),
];
/// What may stand at the root beside a status that is written on its own, since it has to hold for the parts too.
const AT_ROOT_WITH_STATUS: [&str; 22] = [
    "description",
    "type",
    "format",
    "title",
    "maximum",
    "exclusiveMaximum",
    "minimum",
    "exclusiveMinimum",
    "maxLength",
    "minLength",
    "pattern",
    "maxItems",
    "minItems",
    "uniqueItems",
    "multipleOf",
    "required",
    "items",
    "properties",
    "externalDocs",
    "example",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-validations",
];
const ROOT_FIELDS: &str = "[Description Type Format Title Maximum ExclusiveMaximum Minimum ExclusiveMinimum MaxLength MinLength Pattern MaxItems MinItems UniqueItems MultipleOf Required Items Properties ExternalDocs Example XPreserveUnknownFields XValidations]";
/// Deeper than any schema that means something.
const MAX_DEPTH: usize = 100;

/// Checks the schema of a version. `status`: it has a status that is written on its own.
pub(super) fn validate(schema: &At, status: bool, errors: &mut FieldErrors) {
    if status {
        validate_root_with_status(schema, errors);
    }
    if flag(schema, "nullable") {
        errors.push(schema.field("nullable").forbidden("nullable cannot be true at the root"));
    }
    validate_at(schema, Level::Root, 0, errors);
}

fn validate_root_with_status(schema: &At, errors: &mut FieldErrors) {
    let ty = schema.field("type");
    if !matches!(ty.text(), "" | "object") {
        let why = "only \"object\" is allowed as the type at the root of the schema if the status subresource is enabled";
        errors.push(ty.invalid(why));
        return;
    }
    let set = |value: &Value| !matches!(value, Value::Null | Value::Bool(false));
    let fields = schema.tree().into_iter().flatten().filter(|(_, value)| set(value));
    if fields.map(|(name, _)| name).any(|name| !AT_ROOT_WITH_STATUS.contains(&name.as_str())) {
        errors.push(schema.invalid(format!(
            "only {ROOT_FIELDS} fields are allowed at the root of the schema if the status subresource is enabled"
        )));
    }
}

/// Checks what every object has, where a schema is one of whole objects.
fn validate_metadata(schema: &At, level: Level, errors: &mut FieldErrors) {
    let whole = level == Level::Root || flag(schema, "x-kubernetes-embedded-resource");
    let properties = schema.field("properties");
    for name in ["kind", "apiVersion"] {
        let ty = properties.key(name).field("type");
        if whole && properties.key(name).exists() && ty.text() != "string" {
            errors.push(ty.invalid_as(ty.text(), "must be string"));
        }
    }
    let metadata = properties.key("metadata");
    if !metadata.exists() || !whole {
        return;
    }
    let ty = metadata.field("type");
    if ty.text() != "object" {
        errors.push(ty.invalid_as(ty.text(), "must be object"));
    }
    let only_names =
        metadata.field("properties").entries().all(|(name, _)| matches!(name, "name" | "generateName"));
    let known = |field: &str| matches!(field, "type" | "properties" | "default");
    let says_more =
        metadata.tree().into_iter().flatten().any(|(field, value)| !known(field) && !value.is_null());
    if level == Level::Root && (!only_names || says_more) {
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
    validate_object(schema, level, depth, errors);
    validate_metadata(schema, level, errors);
    validate_list(schema, errors);
    validate_pattern(&schema.field("pattern"), errors);
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
    let either = flag(schema, "x-kubernetes-int-or-string");
    let embeds = flag(schema, "x-kubernetes-embedded-resource");
    let free = either || embeds || flag(schema, "x-kubernetes-preserve-unknown-fields");
    if !ty.text().is_empty() && !TYPES.contains(&ty.text()) {
        errors.push(ty.not_supported(&TYPES));
    }
    if ty.text() == "null" {
        errors.push(ty.forbidden("type cannot be set to null, use nullable as an alternative"));
    }
    for extension in ["x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource"] {
        if either && flag(schema, extension) {
            errors
                .push(schema.field(extension).invalid("must be false if x-kubernetes-int-or-string is true"));
        }
    }
    match (level, ty.text()) {
        (Level::Root, "") if !free => errors.push(ty.required("must not be empty at the root")),
        (Level::Root, "" | "object") => {}
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
        match ty.text() {
            "object" => {}
            "" => errors.push(ty.required("must be object if x-kubernetes-embedded-resource is true")),
            _ => errors.push(ty.invalid("must be object if x-kubernetes-embedded-resource is true")),
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

fn validate_object(schema: &At, level: Level, depth: usize, errors: &mut FieldErrors) {
    let (properties, additional) = (schema.field("properties"), schema.field("additionalProperties"));
    if additional.bool() == Some(false) {
        errors.push(additional.forbidden("additionalProperties cannot be set to false"));
    }
    if additional.exists() && level == Level::Root {
        errors.push(additional.forbidden("must not be used at the root"));
    }
    if additional.exists() && flag(schema, "x-kubernetes-embedded-resource") {
        errors.push(additional.forbidden("must not be used if x-kubernetes-embedded-resource is set"));
    }
    if additional.exists() && additional.bool() != Some(true) && !properties.is_empty() {
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
        match ty.text() {
            "object" => {}
            "" => errors.push(ty.required("must be object if x-kubernetes-map-type is specified")),
            _ => errors.push(ty.invalid("must be object if x-kubernetes-map-type is specified")),
        }
    }
}

fn validate_list(schema: &At, errors: &mut FieldErrors) {
    let (ty, list_type, keys) = (
        schema.field("type"),
        schema.field("x-kubernetes-list-type"),
        schema.field("x-kubernetes-list-map-keys"),
    );
    let items = schema.field("items");
    if list_type.exists() {
        match ty.text() {
            "array" if list_type.text() == "set" => validate_set(&items, errors),
            "array" => {}
            "" => errors.push(ty.required("must be array if x-kubernetes-list-type is specified")),
            _ => errors.push(ty.invalid("must be array if x-kubernetes-list-type is specified")),
        }
        checks::one_of(&list_type, &["atomic", "map", "set"], errors);
    }
    if !keys.is_empty() && list_type.text() != "map" {
        let why = "must be map if x-kubernetes-list-map-keys is non-empty";
        errors.push(if list_type.exists() { list_type.invalid(why) } else { list_type.required(why) });
    }
    if matches!(list_type.text(), "set" | "map") && flag(&items, "nullable") {
        let why = format!("cannot be nullable when x-kubernetes-list-type is {}", list_type.text());
        errors.push(items.field("nullable").forbidden(why));
    }
    if list_type.text() != "map" {
        return;
    }
    if keys.is_empty() {
        errors.push(keys.required("must not be empty if x-kubernetes-list-type is map"));
        return;
    }
    let item_type = items.field("type");
    if item_type.text() != "object" {
        errors.push(
            item_type.invalid_as(
                item_type.text(),
                "must be object if parent array's x-kubernetes-list-type is map",
            ),
        );
        return;
    }
    let (properties, required) = (items.field("properties"), items.field("required"));
    for (i, key) in keys.items().enumerate() {
        let property = properties.key(key.text());
        if !property.exists() {
            errors.push(keys.invalid("entries must all be names of item properties"));
        } else if matches!(property.field("type").text(), "array" | "object") {
            let why = "must be a scalar type if parent array's x-kubernetes-list-type is map";
            errors.push(property.field("type").invalid_as("object", why));
        }
        if keys.items().take(i).any(|k| k.text() == key.text()) {
            errors.push(keys.invalid("must not contain duplicate entries"));
        }
    }
    for property in keys.items().map(|key| (properties.key(key.text()), required.lists(key.text()))) {
        let (property, is_required) = property;
        if property.exists() && !is_required && !property.field("default").exists() {
            errors.push(property.field("default").required("this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"));
        }
        if flag(&property, "nullable") {
            let why = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable";
            errors.push(property.field("nullable").forbidden(why));
        }
    }
}

/// Items of a set are compared as a whole.
fn validate_set(items: &At, errors: &mut FieldErrors) {
    let why = "must be atomic as item of a list with x-kubernetes-list-type=set";
    let (list_type, map_type) = (items.field("x-kubernetes-list-type"), items.field("x-kubernetes-map-type"));
    let shown = || list_type.get().cloned().unwrap_or(Value::Null);
    if items.field("type").text() == "array" && !matches!(list_type.text(), "" | "atomic") {
        errors.push(list_type.invalid(why));
    }
    if items.field("type").text() == "object" && map_type.text() != "atomic" {
        errors.push(map_type.invalid_as(shown(), why));
    }
}

/// A pattern has to be one. What only Go knows, or what is too large to be tried here, is let through.
fn validate_pattern(pattern: &At, errors: &mut FieldErrors) {
    if pattern.text().contains("\\Q") {
        return;
    }
    if let Err(regex::Error::Syntax(why)) = regex::Regex::new(pattern.text()) {
        let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned();
        errors.push(
            pattern.invalid(format!(
                "must be a valid regular expression, but isn't: error parsing regexp: {why}"
            )),
        );
    }
}

/// Formats that mean something, by the type they stand at, and those of a schema that do not.
pub(super) fn unknown_formats(schema: &At, depth: usize, found: &mut Vec<String>) {
    const OF_TEXT: [&str; 26] = [
        "bsonobjectid",
        "uri",
        "email",
        "hostname",
        "ipv4",
        "ipv6",
        "cidr",
        "mac",
        "uuid",
        "uuid3",
        "uuid4",
        "uuid5",
        "isbn",
        "isbn10",
        "isbn13",
        "creditcard",
        "ssn",
        "hexcolor",
        "rgbcolor",
        "byte",
        "password",
        "date",
        "duration",
        "datetime",
        "k8sshortname",
        "k8slongname",
    ];
    if depth > MAX_DEPTH {
        return;
    }
    let format = schema.field("format").text();
    let known = match schema.field("type").text() {
        "" | "string" => OF_TEXT.contains(&format.replace('-', "").as_str()),
        "integer" => matches!(format, "int32" | "int64"),
        "number" => matches!(format, "float" | "double"),
        _ => false,
    };
    if !format.is_empty() && !known {
        found.push(format.to_owned());
    }
    for name in ["items", "additionalProperties", "not"] {
        let inner = schema.field(name);
        if inner.tree().is_some() {
            unknown_formats(&inner, depth + 1, found);
        }
    }
    for (_, property) in schema.field("properties").entries() {
        unknown_formats(&property, depth + 1, found);
    }
    for part in
        ["allOf", "anyOf", "oneOf"].iter().flat_map(|name| schema.field(name).items().collect::<Vec<_>>())
    {
        unknown_formats(&part, depth + 1, found);
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
