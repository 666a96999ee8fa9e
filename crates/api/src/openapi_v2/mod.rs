//! The OpenAPI v2 document, one for all groups: what `kubectl` before 1.27 reads to validate, to explain and to merge.
//! Descriptions are absent, and of the paths only those that can be patched are listed: old clients look there for
//! the parameters of writes.
//!
//! Start at [`v2_document`]; [`encode`] gives the form that `kubectl` asks for.
mod message;

use serde_json::{Map, Value, json};

pub use self::message::{CONTENT_TYPE, MEDIA, encode};
use crate::kinds::Kind;
use crate::openapi::{Served, Types, gvk, v3_path};

const REFERENCE_V3: &str = "#/components/schemas/";
const REFERENCE: &str = "#/definitions/";

/// The document of these kinds.
pub fn v2_document(served: &[Served<'_>]) -> Value {
    let mut types = Types::default();
    let mut paths = Map::new();
    let mut open = Vec::new();
    for one in served {
        let name = types.object(one);
        if one.kind.has_verb("patch") {
            let (path, item) = patch_path(one.kind, &name);
            paths.insert(path, item);
        }
        if one.kind.schema.is_none() && one.schema.is_none() {
            open.push(name);
        }
    }
    let mut definitions = types.write(served);
    definitions.values_mut().for_each(as_v2);
    for name in open {
        // With the fields that every object has and no others, clients would refuse `spec`.
        if let Some(Value::Object(schema)) = definitions.get_mut(&name) {
            schema.remove("properties");
        }
    }
    json!({
        "swagger": "2.0",
        "info": { "title": "Kubernetes", "version": "v1.36.0" },
        "paths": paths,
        "definitions": definitions,
    })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("{REFERENCE}{name}") })
}

/// The path of an object, with the one operation that old clients look up by its kind.
fn patch_path(kind: &Kind, name: &str) -> (String, Value) {
    let scope = if kind.namespaced { "namespaces/{namespace}/" } else { "" };
    let path = format!("/{}/{scope}{}/{{name}}", v3_path(&kind.group, &kind.version), kind.plural);
    let query =
        |name: &str, ty: &str| json!({ "name": name, "in": "query", "type": ty, "uniqueItems": true });
    let in_path = |name: &str| json!({ "name": name, "in": "path", "required": true, "type": "string", "uniqueItems": true });
    let mut parameters = vec![in_path("name")];
    if kind.namespaced {
        parameters.push(in_path("namespace"));
    }
    parameters.push(query("pretty", "string"));
    let patch = json!({
        "consumes": [
            "application/json-patch+json",
            "application/merge-patch+json",
            "application/strategic-merge-patch+json",
            "application/apply-patch+yaml",
        ],
        "produces": ["application/json", "application/yaml", "application/vnd.kubernetes.protobuf"],
        "parameters": [
            { "name": "body", "in": "body", "required": true, "schema": { "type": "object" } },
            query("dryRun", "string"),
            query("fieldManager", "string"),
            query("fieldValidation", "string"),
            query("force", "boolean"),
        ],
        "responses": {
            "200": { "description": "OK", "schema": reference(name) },
            "201": { "description": "Created", "schema": reference(name) },
            "401": { "description": "Unauthorized" },
        },
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": gvk(&kind.group, &kind.version, &kind.kind),
    });
    (path, json!({ "patch": patch, "parameters": parameters }))
}

/// Rewrites a schema of version 3. Version 2 has no choice between schemas and no null.
fn as_v2(schema: &mut Value) {
    let Some(map) = schema.as_object_mut() else { return };
    // A description may stand beside a reference here.
    if let Some([one]) = map.get("allOf").and_then(Value::as_array).map(Vec::as_slice)
        && let Some(reference) = one.get("$ref").cloned()
    {
        map.remove("allOf");
        map.insert("$ref".to_owned(), reference);
    }
    if let Some(Value::String(name)) = map.get_mut("$ref")
        && let Some(short) = name.strip_prefix(REFERENCE_V3)
    {
        *name = format!("{REFERENCE}{short}");
    }
    // Quantities, and integers or strings: clients take a number for a string.
    if map.remove("oneOf").is_some() && !map.contains_key("type") {
        map.insert("type".to_owned(), json!("string"));
    }
    for word in ["anyOf", "allOf", "not"] {
        map.remove(word);
    }
    let nullable = map.remove("nullable").is_some_and(|v| v == true);
    let keeps_all = map.get("x-kubernetes-preserve-unknown-fields").is_some_and(|v| *v == true);
    let no_items = map.get("type").is_some_and(|t| t == "array") && !map.contains_key("items");
    if nullable || keeps_all || no_items {
        // Clients refuse null, fields that are not named, and lists of nothing: let them take anything.
        for word in ["type", "format", "properties", "items", "additionalProperties", "required"] {
            map.remove(word);
        }
    }
    if let Some(Value::Object(properties)) = map.get_mut("properties") {
        properties.values_mut().for_each(as_v2);
    }
    for word in ["items", "additionalProperties"] {
        if let Some(inner) = map.get_mut(word) {
            as_v2(inner);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::kinds::KINDS;

    fn document() -> Value {
        let served: Vec<Served<'_>> = KINDS.iter().map(|kind| Served { kind, schema: None }).collect();
        v2_document(&served)
    }

    fn custom(schema: Option<&Value>) -> Value {
        let mut kind = KINDS.iter().find(|k| k.kind == "Deployment").expect("a row").clone();
        kind.group = Cow::Borrowed("example.com");
        kind.schema = None;
        v2_document(&[Served { kind: &kind, schema }])["definitions"]["com.example.v1.Deployment"].take()
    }

    fn references<'a>(value: &'a Value, out: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => {
                out.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|v| references(v, out));
            }
            Value::Array(items) => items.iter().for_each(|v| references(v, out)),
            _ => {}
        }
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let mut all = Vec::new();
        references(&document, &mut all);
        assert!(all.len() > 1000);
        for reference in all {
            assert!(document.pointer(&reference[1..]).is_some(), "{reference}");
        }
    }

    #[test]
    fn a_kind_has_its_type_and_its_patch_takes_dry_run() {
        let document = document();
        let deployment = &document["definitions"]["io.k8s.api.apps.v1.Deployment"];
        assert_eq!(deployment["x-kubernetes-group-version-kind"], json!([gvk("apps", "v1", "Deployment")]));
        let patch = &document["paths"]["/apis/apps/v1/namespaces/{namespace}/deployments/{name}"]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"], gvk("apps", "v1", "Deployment"));
        let parameters = patch["parameters"].as_array().expect("a list");
        assert!(parameters.iter().any(|p| p["name"] == "dryRun" && p["in"] == "query"));
    }

    #[test]
    fn choices_become_strings() {
        let document = document();
        let definitions = &document["definitions"];
        for (name, format) in [
            ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", json!("int-or-string")),
            ("io.k8s.apimachinery.pkg.api.resource.Quantity", Value::Null),
        ] {
            let definition = &definitions[name];
            assert_eq!((&definition["type"], &definition["format"]), (&json!("string"), &format), "{name}");
            assert!(definition["oneOf"].is_null(), "{definition}");
        }
        let metadata = &definitions["io.k8s.api.core.v1.Pod"]["properties"]["metadata"];
        assert_eq!(metadata["$ref"], "#/definitions/io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta");
        assert!(metadata["description"].is_string() && metadata["allOf"].is_null(), "{metadata}");
    }

    #[test]
    fn custom_resources_without_a_schema_take_any_field() {
        let schema = custom(None);
        assert_eq!(schema["type"], "object");
        assert!(schema["properties"].is_null());
        assert_eq!(
            schema["x-kubernetes-group-version-kind"],
            json!([gvk("example.com", "v1", "Deployment")])
        );
    }

    #[test]
    fn custom_resources_lose_what_version_2_cannot_say() {
        let schema = custom(Some(&json!({
            "type": "object",
            "properties": { "spec": { "type": "object", "properties": {
                "oneOf": { "type": "string", "nullable": true },
                "size": { "x-kubernetes-int-or-string": true, "anyOf": [{ "type": "integer" }, { "type": "string" }] },
                "any": { "type": "object", "x-kubernetes-preserve-unknown-fields": true, "properties": {} },
                "list": { "type": "array" },
            } } },
        })));
        assert_eq!(
            schema["properties"]["spec"]["properties"],
            json!({
                "oneOf": {},
                "size": { "x-kubernetes-int-or-string": true },
                "any": { "x-kubernetes-preserve-unknown-fields": true },
                "list": {},
            })
        );
    }
}
