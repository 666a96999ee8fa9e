//! Checks a value against a structural schema, in upstream's words (kube-openapi/pkg/validation, 1.36).
use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ipnet::IpNet;
use machinery::field::FieldErrorType;
use machinery::{FieldError, FieldErrors, FieldPath};
use serde_json::{Map, Value};

/// Deeper than any value that means something.
const MAX_DEPTH: usize = 100;

/// Where a value stands: below a path, under a name that messages begin with.
#[derive(Clone)]
struct Place<'p> {
    base: &'p FieldPath,
    name: String,
}

impl Place<'_> {
    fn path(&self) -> FieldPath {
        match self.name.trim_start_matches('.') {
            "" => self.base.clone(),
            name => self.base.child(name),
        }
    }

    fn named(&self, name: String) -> Self {
        Self { base: self.base, name }
    }

    fn property(&self, key: &str) -> Self {
        let name = if self.name.is_empty() { key.to_owned() } else { format!("{}.{key}", self.name) };
        self.named(name)
    }

    fn invalid(&self, value: impl Into<Value>, why: &str) -> FieldError {
        FieldError::invalid(&self.path(), value, format!("{} in body {why}", self.name))
    }
}

/// Checks a value; errors are about `path` and what is below it.
pub(super) fn validate(value: &Value, schema: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    check(value, schema, &Place { base: path, name: String::new() }, 0, errors);
}

fn list<'v>(schema: &'v Value, key: &str) -> &'v [Value] {
    schema.get(key).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

fn flag(schema: &Value, key: &str) -> bool {
    schema.get(key).and_then(Value::as_bool) == Some(true)
}

fn size(schema: &Value, key: &str) -> Option<usize> {
    schema.get(key).and_then(Value::as_u64).and_then(|n| usize::try_from(n).ok())
}

fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

fn check(value: &Value, schema: &Value, at: &Place<'_>, depth: usize, errors: &mut FieldErrors) {
    if depth > MAX_DEPTH {
        errors.push(at.invalid(Value::Null, "is too deep"));
        return;
    }
    check_type(value, schema, at, errors);
    if !value.is_null() {
        check_combinations(value, schema, at, depth, errors);
    }
    match value {
        Value::String(text) => check_text(text, schema, at, errors),
        Value::Number(_) => check_number(value, schema, at, errors),
        Value::Array(items) => check_list(items, schema, at, depth, errors),
        _ => {}
    }
    let allowed = list(schema, "enum");
    if !allowed.is_empty() && !allowed.contains(value) {
        let shown: Vec<String> =
            allowed.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
        let shown: Vec<&str> = shown.iter().map(String::as_str).collect();
        errors.push(FieldError::not_supported(&at.path(), value.clone(), &shown));
    }
    if let Value::Object(fields) = value {
        check_fields(fields, schema, at, depth, errors);
    }
}

fn check_type(value: &Value, schema: &Value, at: &Place<'_>, errors: &mut FieldErrors) {
    let either = flag(schema, "x-kubernetes-int-or-string");
    let wanted =
        if either { "integer,string" } else { schema.get("type").and_then(Value::as_str).unwrap_or("") };
    let found = type_of(value);
    if wanted.is_empty() || (found == "null" && flag(schema, "nullable")) {
        return;
    }
    let is_whole = found == "number" && value.as_f64().is_some_and(|n| n.fract() == 0.0);
    let fits = wanted
        .split(',')
        .any(|ty| ty == found || (ty == "integer" && is_whole) || (ty == "number" && found == "integer"));
    if !fits {
        let why = format!("{} in body must be of type {wanted}: {found:?}", at.name);
        errors.push(FieldError {
            ty: FieldErrorType::TypeInvalid,
            ..FieldError::invalid(&at.path(), found, why)
        });
    }
}

fn check_combinations(value: &Value, schema: &Value, at: &Place<'_>, depth: usize, errors: &mut FieldErrors) {
    let problems = |part: &Value| {
        let mut found = FieldErrors::new();
        check(value, part, at, depth + 1, &mut found);
        found
    };
    let mut say = |why: String| errors.push(FieldError::invalid(at.base, "", format!("{:?} {why}", at.name)));
    let mut details = Vec::new();
    let any = list(schema, "anyOf");
    if !any.is_empty() {
        let found: Vec<_> = any.iter().map(&problems).collect();
        if found.iter().all(|f| !f.is_empty()) {
            say("must validate at least one schema (anyOf)".into());
            details.extend(found.into_iter().next().into_iter().flatten());
        }
    }
    let one = list(schema, "oneOf");
    if !one.is_empty() {
        let found: Vec<_> = one.iter().map(&problems).collect();
        match found.iter().filter(|f| f.is_empty()).count() {
            1 => {}
            0 => {
                say("must validate one and only one schema (oneOf). Found none valid".into());
                details.extend(found.into_iter().next().into_iter().flatten());
            }
            n => say(format!("must validate one and only one schema (oneOf). Found {n} valid alternatives")),
        }
    }
    let all = list(schema, "allOf");
    let found: Vec<_> = all.iter().map(&problems).collect();
    if found.iter().any(|f| !f.is_empty()) {
        let none = if found.iter().all(|f| !f.is_empty()) { ". None validated" } else { "" };
        say(format!("must validate all the schemas (allOf){none}"));
        details.extend(found.into_iter().flatten());
    }
    if let Some(not) = schema.get("not").filter(|not| !not.is_null())
        && problems(not).is_empty()
    {
        say("must not validate the schema (not)".into());
    }
    errors.extend(details);
}

fn check_text(text: &str, schema: &Value, at: &Place<'_>, errors: &mut FieldErrors) {
    let length = text.chars().count();
    if let Some(most) = size(schema, "maxLength").filter(|most| length > *most) {
        errors.push(FieldError::too_long(&at.path(), most));
    }
    if let Some(least) = size(schema, "minLength").filter(|least| length < *least) {
        errors.push(at.invalid(text, &format!("should be at least {least} chars long")));
    }
    if let Some(pattern) = schema.get("pattern").and_then(Value::as_str)
        && let Ok(compiled) = regex::Regex::new(pattern)
        && !compiled.is_match(text)
    {
        errors.push(at.invalid(text, &format!("should match '{pattern}'")));
    }
    if let Some(format) = schema.get("format").and_then(Value::as_str)
        && !has_format(text, format)
    {
        let why = format!("{} in body must be of type {format}: {text:?}", at.name);
        errors.push(FieldError {
            ty: FieldErrorType::TypeInvalid,
            ..FieldError::invalid(&at.path(), text, why)
        });
    }
}

/// Whether a text has a format; those that nobody here knows are let through.
fn has_format(text: &str, format: &str) -> bool {
    match format {
        "date-time" | "datetime" => text.parse::<jiff::Timestamp>().is_ok(),
        "date" => text.parse::<jiff::civil::Date>().is_ok() && text.len() == 10,
        "ipv4" => text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv4()),
        "ipv6" => text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()),
        "cidr" => text.parse::<IpNet>().is_ok(),
        "byte" => STANDARD.decode(text).is_ok(),
        "uuid" => {
            let hex: Vec<char> = text.chars().filter(|c| *c != '-').collect();
            hex.len() == 32 && hex.iter().all(char::is_ascii_hexdigit)
        }
        _ => true,
    }
}

fn check_number(value: &Value, schema: &Value, at: &Place<'_>, errors: &mut FieldErrors) {
    let Some(number) = value.as_f64() else { return };
    let bound = |key: &str| schema.get(key).and_then(Value::as_f64);
    if let Some(factor) = bound("multipleOf").filter(|f| *f > 0.0)
        && (number / factor).fract() != 0.0
    {
        errors.push(at.invalid(value.clone(), &format!("should be a multiple of {factor}")));
    }
    if let Some(least) = bound("minimum") {
        let exclusive = flag(schema, "exclusiveMinimum");
        if number < least || (exclusive && number <= least) {
            let word = if exclusive { "greater than" } else { "greater than or equal to" };
            errors.push(at.invalid(value.clone(), &format!("should be {word} {least}")));
        }
    }
    if let Some(most) = bound("maximum") {
        let exclusive = flag(schema, "exclusiveMaximum");
        if number > most || (exclusive && number >= most) {
            let word = if exclusive { "less than" } else { "less than or equal to" };
            errors.push(at.invalid(value.clone(), &format!("should be {word} {most}")));
        }
    }
}

fn check_list(items: &[Value], schema: &Value, at: &Place<'_>, depth: usize, errors: &mut FieldErrors) {
    if let Some(each) = schema.get("items").filter(|s| s.is_object()) {
        for (i, item) in items.iter().enumerate() {
            check(item, each, &at.named(format!("{}[{i}]", at.name)), depth + 1, errors);
        }
    }
    if let Some(least) = size(schema, "minItems").filter(|least| items.len() < *least) {
        errors.push(at.invalid(items.len(), &format!("should have at least {least} items")));
    }
    if let Some(most) = size(schema, "maxItems").filter(|most| items.len() > *most) {
        errors.push(FieldError::too_many(&at.path(), items.len(), most));
    }
}

fn check_fields(
    fields: &Map<String, Value>,
    schema: &Value,
    at: &Place<'_>,
    depth: usize,
    errors: &mut FieldErrors,
) {
    if let Some(least) = size(schema, "minProperties").filter(|least| fields.len() < *least) {
        errors.push(at.invalid(fields.len(), &format!("should have at least {least} properties")));
    }
    if let Some(most) = size(schema, "maxProperties").filter(|most| fields.len() > *most) {
        errors.push(FieldError::too_many(&at.path(), fields.len(), most));
    }
    let known = schema.get("properties").and_then(Value::as_object);
    let others = schema.get("additionalProperties").filter(|s| s.is_object());
    for (key, value) in fields {
        match (known.and_then(|known| known.get(key)), others) {
            (Some(property), _) => check(value, property, &at.property(key), depth + 1, errors),
            (None, Some(other)) => {
                check(value, other, &at.named(format!("{}.{key}", at.name)), depth + 1, errors)
            }
            (None, None) => {}
        }
    }
    for key in list(schema, "required").iter().filter_map(Value::as_str) {
        if !fields.contains_key(key) {
            let path = at.named(format!("{}.{key}", at.name)).path();
            errors.push(FieldError::required(&path, ""));
        }
    }
}

/// Whether a value has fields that a schema does not know. `whole`: it is one of whole objects.
pub(super) fn has_unknown(value: &Value, schema: &Value, whole: bool) -> bool {
    let whole = whole || flag(schema, "x-kubernetes-embedded-resource");
    match value {
        Value::Array(items) => {
            schema.get("items").is_some_and(|each| items.iter().any(|item| has_unknown(item, each, false)))
        }
        Value::Object(fields) => fields.iter().any(|(key, value)| {
            if whole && matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
                return false;
            }
            let known = schema.get("properties").and_then(|known| known.get(key));
            match (known, schema.get("additionalProperties")) {
                (Some(property), _) => has_unknown(value, property, false),
                (None, Some(other)) if other.is_object() => has_unknown(value, other, false),
                (None, Some(Value::Bool(true))) => false,
                _ => !flag(schema, "x-kubernetes-preserve-unknown-fields"),
            }
        }),
        _ => false,
    }
}

/// Checks the defaults of a structural schema: each has to be what the schema beside it says, and no more.
pub(super) fn validate_defaults(schema: &Value, path: &FieldPath, errors: &mut FieldErrors) {
    defaults(schema, path, true, false, 0, errors);
}

fn defaults(
    schema: &Value,
    path: &FieldPath,
    root: bool,
    in_meta: bool,
    depth: usize,
    errors: &mut FieldErrors,
) {
    if depth > MAX_DEPTH {
        return;
    }
    let whole = root || flag(schema, "x-kubernetes-embedded-resource");
    let in_meta = in_meta && !whole;
    if let Some(value) = schema.get("default").filter(|value| !value.is_null()) {
        let at = path.child("default");
        if !in_meta && has_unknown(value, schema, root) {
            errors.push(FieldError::invalid(&at, value.clone(), "must not have unknown fields"));
        }
        validate(value, schema, &at, errors);
    }
    if let Some(items) = schema.get("items").filter(|items| items.is_object()) {
        defaults(items, &path.child("items"), false, in_meta, depth + 1, errors);
    }
    for (name, property) in schema.get("properties").and_then(Value::as_object).into_iter().flatten() {
        let in_meta = in_meta || (whole && matches!(name.as_str(), "metadata" | "apiVersion" | "kind"));
        defaults(property, &path.child("properties").key(name), false, in_meta, depth + 1, errors);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(value: Value, schema: Value) -> Vec<String> {
        let mut errors = FieldErrors::new();
        validate(&value, &schema, &FieldPath::new("x"), &mut errors);
        errors.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_value_is_what_its_schema_says() {
        let whole = json!({"type": "object", "required": ["name"], "properties": {
            "name": {"type": "string", "minLength": 2, "maxLength": 4, "pattern": "^a"},
            "size": {"type": "integer", "minimum": 1, "maximum": 9, "exclusiveMaximum": true, "multipleOf": 2},
            "mode": {"type": "string", "enum": ["on", "off"]},
            "port": {"x-kubernetes-int-or-string": true},
            "when": {"type": "string", "format": "date-time"},
            "tags": {"type": "array", "maxItems": 2, "minItems": 1, "items": {"type": "string"}},
            "more": {"type": "object", "nullable": true, "additionalProperties": {"type": "boolean"}}}});
        for (value, want) in [
            (
                json!({"name": "ab", "size": 2, "mode": "on", "port": "80", "tags": ["x"], "more": {"a": true}}),
                &[][..],
            ),
            (json!({"name": "ab", "port": 80, "more": null, "when": "2026-01-01T00:00:00Z"}), &[]),
            (json!({"name": "ab", "size": 4.0}), &[]),
            (json!("text"), &[r#"x: Invalid value: "string":  in body must be of type object: "string""#]),
            (json!({}), &["x.name: Required value"]),
            (
                json!({"name": null}),
                &[r#"x.name: Invalid value: "null": name in body must be of type string: "null""#],
            ),
            (
                json!({"name": "b"}),
                &[
                    r#"x.name: Invalid value: "b": name in body should be at least 2 chars long"#,
                    r#"x.name: Invalid value: "b": name in body should match '^a'"#,
                ],
            ),
            (json!({"name": "abcde"}), &["x.name: Too long: may not be more than 4 bytes"]),
            (
                json!({"name": "ab", "size": 0}),
                &["x.size: Invalid value: 0: size in body should be greater than or equal to 1"],
            ),
            (
                json!({"name": "ab", "size": 9}),
                &[
                    "x.size: Invalid value: 9: size in body should be a multiple of 2",
                    "x.size: Invalid value: 9: size in body should be less than 9",
                ],
            ),
            (
                json!({"name": "ab", "mode": "so"}),
                &[r#"x.mode: Unsupported value: "so": supported values: "off", "on""#],
            ),
            (
                json!({"name": "ab", "port": true}),
                &[
                    r#"x.port: Invalid value: "boolean": port in body must be of type integer,string: "boolean""#,
                ],
            ),
            (
                json!({"name": "ab", "when": "now"}),
                &[r#"x.when: Invalid value: "now": when in body must be of type date-time: "now""#],
            ),
            (
                json!({"name": "ab", "tags": []}),
                &["x.tags: Invalid value: 0: tags in body should have at least 1 items"],
            ),
            (
                json!({"name": "ab", "tags": ["a", "b", "c"]}),
                &["x.tags: Too many: 3: must have at most 2 items"],
            ),
            (
                json!({"name": "ab", "tags": [1]}),
                &[
                    r#"x.tags[0]: Invalid value: "integer": tags[0] in body must be of type string: "integer""#,
                ],
            ),
            (
                json!({"name": "ab", "more": {"a": 1}}),
                &[r#"x.more.a: Invalid value: "integer": more.a in body must be of type boolean: "integer""#],
            ),
        ] {
            assert_eq!(told(value.clone(), whole.clone()), want, "{value}");
        }
    }

    #[test]
    fn schemas_combine() {
        let text = json!({"type": "string"});
        let number = json!({"minimum": 5});
        for (schema, value, want) in [
            (json!({"anyOf": [text, number]}), json!(7), 0),
            (json!({"anyOf": [number, text]}), json!(3), 2),
            (json!({"oneOf": [number, {"minimum": 1}]}), json!(3), 0),
            (json!({"oneOf": [number, {"minimum": 1}]}), json!(7), 1),
            (json!({"allOf": [number, {"minimum": 1}]}), json!(7), 0),
            (json!({"allOf": [number, {"minimum": 1}]}), json!(3), 2),
            (json!({"not": number}), json!(7), 1),
            (json!({"not": number}), json!(3), 0),
        ] {
            assert_eq!(told(value.clone(), schema.clone()).len(), want, "{schema} {value}");
        }
        let none = told(json!(0), json!({"oneOf": [number]}));
        assert_eq!(
            none[0],
            r#"x: Invalid value: "": "" must validate one and only one schema (oneOf). Found none valid"#
        );
    }

    #[test]
    fn unknown_fields_are_found() {
        let schema = json!({"properties": {"a": {"properties": {"b": {}}}, "list": {"items": {"properties": {"c": {}}}},
            "free": {"x-kubernetes-preserve-unknown-fields": true}, "map": {"additionalProperties": {"properties": {"d": {}}}}}});
        for (value, whole, unknown) in [
            (json!({"a": {"b": {"x": 1}}}), false, true),
            (json!({"a": {"b": 1}}), false, false),
            (json!({"list": [{"c": 1}, {"x": 1}]}), false, true),
            (json!({"free": {"x": {"y": 1}}}), false, false),
            (json!({"map": {"any": {"d": 1}}}), false, false),
            (json!({"map": {"any": {"x": 1}}}), false, true),
            (json!({"kind": "K", "metadata": {"name": "n"}}), true, false),
            (json!({"kind": "K"}), false, true),
        ] {
            assert_eq!(has_unknown(&value, &schema, whole), unknown, "{value}");
        }
    }
}
