//! OpenAPI v3 documents, made from the table of kinds and the schema table: what `kubectl` reads to validate and to
//! explain.
//!
//! Start at [`v3_document`], which describes one group and version; [`v3_index`] lists the documents.
use std::borrow::Cow;
use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash, Hasher};

use serde_json::{Map, Value, json};

use crate::describe::Descriptions;
use crate::kinds::{Kind, Subresource};
use crate::schema::{self, Field, List, Shape, Ty, TypeId};

const META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1";

/// One served kind.
#[derive(Debug, Clone, Copy)]
pub struct Served<'a> {
    /// Its row.
    pub kind: &'a Kind,
    /// `openAPIV3Schema` of a custom resource.
    pub schema: Option<&'a Value>,
}

/// The path of a group and version below `/openapi/v3/`, for example `apis/apps/v1`.
pub fn v3_path(group: &str, version: &str) -> String {
    if group.is_empty() { format!("api/{version}") } else { format!("apis/{group}/{version}") }
}

/// What tells one state of a document from another.
pub fn v3_hash(document: &[u8]) -> String {
    let mut hasher = DefaultHasher::new();
    document.hash(&mut hasher);
    format!("{:016X}", hasher.finish())
}

/// The index at `/openapi/v3`, from paths (see [`v3_path`]) and hashes.
pub fn v3_index<'a>(documents: impl IntoIterator<Item = (&'a str, &'a str)>) -> Value {
    let paths: Map<String, Value> = documents
        .into_iter()
        .map(|(path, hash)| {
            let url = format!("/openapi/v3/{path}?hash={hash}");
            (path.to_owned(), json!({ "serverRelativeURL": url }))
        })
        .collect();
    json!({ "paths": paths })
}

/// The document of one group and version. `served` holds its kinds.
pub fn v3_document(group: &str, version: &str, served: &[Served<'_>]) -> Value {
    let mut types = Types::default();
    let mut paths = Map::new();
    let root = format!("/{}/", v3_path(group, version));
    for one in served {
        let name = types.object(one);
        add_paths(&mut paths, &mut types, &root, one.kind, &name);
    }
    types.reference_by_name(&format!("{META}.DeleteOptions"));
    types.reference_by_name(&format!("{META}.Status"));
    json!({
        "openapi": "3.0.0",
        "info": { "title": "Kubernetes", "version": "v1.36.0" },
        "paths": paths,
        "components": { "schemas": types.write(served) },
    })
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

pub(crate) fn gvk(group: &str, version: &str, kind: &str) -> Value {
    json!({ "group": group, "version": version, "kind": kind })
}

/// The types a document needs.
#[derive(Default)]
pub(crate) struct Types {
    named: BTreeSet<TypeId>,
    custom: Map<String, Value>,
}

impl Types {
    fn reference(&mut self, id: TypeId) -> Value {
        self.need(id);
        reference(schema::get(id).name)
    }

    fn reference_by_name(&mut self, name: &str) -> Option<Value> {
        schema::by_name(name).map(|id| self.reference(id))
    }

    fn need(&mut self, id: TypeId) {
        if self.named.insert(id) {
            for field in schema::get(id).fields() {
                self.need_inside(field.ty);
            }
        }
    }

    fn need_inside(&mut self, ty: Ty) {
        match ty {
            Ty::R(id) => self.need(id),
            Ty::A(inner) | Ty::M(inner) => self.need_inside(*inner),
            _ => {}
        }
    }

    /// Takes in the type of a kind and of its list; gives the name of the type.
    pub(crate) fn object(&mut self, served: &Served<'_>) -> String {
        let kind = served.kind;
        if let Some(id) = kind.schema {
            let name = schema::get(id).name;
            self.need(id);
            self.reference_by_name(&format!("{name}List"));
            return name.to_owned();
        }
        let reversed: Vec<&str> = kind.group.rsplit('.').collect();
        let name = format!("{}.{}.{}", reversed.join("."), kind.version, kind.kind);
        let mut schema = match served.schema {
            Some(Value::Object(map)) => map.clone(),
            _ => Map::from_iter([("type".to_owned(), json!("object"))]),
        };
        if let Some(metadata) = self.reference_by_name(&format!("{META}.ObjectMeta")) {
            let fields = schema.entry("properties").or_insert_with(|| json!({}));
            fields["apiVersion"] = json!({ "type": "string" });
            fields["kind"] = json!({ "type": "string" });
            fields["metadata"] = metadata;
        }
        let gvks = json!([gvk(&kind.group, &kind.version, &kind.kind)]);
        schema.insert("x-kubernetes-group-version-kind".to_owned(), gvks);
        self.custom.insert(name.clone(), Value::Object(schema));
        let list = json!({
            "type": "object",
            "required": ["items"],
            "properties": {
                "apiVersion": { "type": "string" },
                "kind": { "type": "string" },
                "metadata": self.reference_by_name(&format!("{META}.ListMeta")),
                "items": { "type": "array", "items": reference(&name) },
            },
            "x-kubernetes-group-version-kind": [gvk(&kind.group, &kind.version, &kind.list_kind())],
        });
        self.custom.insert(format!("{name}List"), list);
        name
    }

    pub(crate) fn write(self, served: &[Served<'_>]) -> Map<String, Value> {
        let mut out = self.custom;
        let texts = Descriptions::new();
        for id in self.named {
            out.insert(schema::get(id).name.to_owned(), type_schema(id, served, &texts));
        }
        out
    }
}

fn type_schema(id: TypeId, served: &[Served<'_>], texts: &Descriptions) -> Value {
    let def = schema::get(id);
    let mut out = match def.shape {
        Shape::Anything => match def.short_name() {
            "RawExtension" | "FieldsV1" | "Patch" => json!({ "type": "object" }),
            _ => json!({}),
        },
        Shape::Quantity => json!({ "oneOf": [{ "type": "string" }, { "type": "number" }] }),
        Shape::Time | Shape::MicroTime => json!({ "type": "string", "format": "date-time" }),
        Shape::IntOrString => {
            json!({ "format": "int-or-string", "oneOf": [{ "type": "integer" }, { "type": "string" }] })
        }
        Shape::Fields(fields) => {
            let properties: Map<String, Value> = fields
                .iter()
                .map(|f| (f.name.to_owned(), described(field_schema(f), texts.of_field(def.name, f.name))))
                .collect();
            let required: Vec<&str> = fields.iter().filter(|f| f.required).map(|f| f.name).collect();
            let mut out = json!({ "type": "object" });
            if !properties.is_empty() {
                out["properties"] = properties.into();
            }
            if !required.is_empty() {
                out["required"] = required.into();
            }
            out
        }
    };
    if let Some(text) = texts.of_type(def.name) {
        out["description"] = text.into();
    }
    if def.atomic {
        out["x-kubernetes-map-type"] = json!("atomic");
    }
    let mut gvks: Vec<Value> = Vec::new();
    for Served { kind, .. } in served {
        let Some(of) = kind.schema else { continue };
        if of == id {
            gvks.push(gvk(&kind.group, &kind.version, &kind.kind));
        } else if def.name.strip_suffix("List") == Some(schema::get(of).name) {
            gvks.push(gvk(&kind.group, &kind.version, &kind.list_kind()));
        }
    }
    if gvks.is_empty() && matches!(def.short_name(), "DeleteOptions" | "Status") && def.name.starts_with(META)
    {
        gvks.push(gvk("", "v1", def.short_name()));
    }
    if !gvks.is_empty() {
        out["x-kubernetes-group-version-kind"] = gvks.into();
    }
    out
}

/// The schema of a field with its description. Beside a reference nothing may stand, so that is put into `allOf`.
fn described(mut schema: Value, text: Option<Cow<'static, str>>) -> Value {
    let Some(text) = text else { return schema };
    if let Some(reference) = schema.as_object_mut().and_then(|s| s.remove("$ref")) {
        schema["allOf"] = json!([{ "$ref": reference }]);
    }
    schema["description"] = text.into();
    schema
}

fn ty_schema(ty: Ty) -> Value {
    match ty {
        Ty::Str => json!({ "type": "string" }),
        Ty::Bytes => json!({ "type": "string", "format": "byte" }),
        Ty::Bool => json!({ "type": "boolean" }),
        Ty::Int32 => json!({ "type": "integer", "format": "int32" }),
        Ty::Int64 => json!({ "type": "integer", "format": "int64" }),
        Ty::Double => json!({ "type": "number", "format": "double" }),
        Ty::Any => json!({ "type": "object" }),
        Ty::R(id) => reference(schema::get(id).name),
        Ty::A(item) => json!({ "type": "array", "items": ty_schema(*item) }),
        Ty::M(value) => json!({ "type": "object", "additionalProperties": ty_schema(*value) }),
    }
}

fn field_schema(field: &Field) -> Value {
    let mut out = ty_schema(field.ty);
    match field.list {
        List::Plain => {}
        List::Atomic => out["x-kubernetes-list-type"] = json!("atomic"),
        List::Set => out["x-kubernetes-list-type"] = json!("set"),
        List::Map(keys) => {
            out["x-kubernetes-list-type"] = json!("map");
            out["x-kubernetes-list-map-keys"] = json!(keys);
        }
    }
    if field.atomic {
        out["x-kubernetes-map-type"] = json!("atomic");
    }
    let strategy = match (field.merge, field.retain_keys) {
        (true, true) => "merge,retainKeys",
        (true, false) => "merge",
        (false, true) => "retainKeys",
        (false, false) => return out,
    };
    out["x-kubernetes-patch-strategy"] = json!(strategy);
    if !field.merge_key.is_empty() {
        out["x-kubernetes-patch-merge-key"] = json!(field.merge_key);
    }
    out
}

/// What a method of a path is called, and which parameters it takes.
struct Method {
    verb: &'static str,
    http: &'static str,
    action: &'static str,
    parameters: &'static [(&'static str, &'static str)],
}

const WRITE: &[(&str, &str)] =
    &[("dryRun", "string"), ("fieldManager", "string"), ("fieldValidation", "string")];

const COLLECTION: &[Method] = &[
    Method { verb: "list", http: "get", action: "list", parameters: LIST },
    Method { verb: "create", http: "post", action: "post", parameters: WRITE },
    Method { verb: "deletecollection", http: "delete", action: "deletecollection", parameters: LIST },
];

const LIST: &[(&str, &str)] = &[
    ("allowWatchBookmarks", "boolean"),
    ("continue", "string"),
    ("fieldSelector", "string"),
    ("labelSelector", "string"),
    ("limit", "integer"),
    ("resourceVersion", "string"),
    ("resourceVersionMatch", "string"),
    ("sendInitialEvents", "boolean"),
    ("timeoutSeconds", "integer"),
    ("watch", "boolean"),
];

const ITEM: &[Method] = &[
    Method { verb: "get", http: "get", action: "get", parameters: &[] },
    Method { verb: "create", http: "post", action: "post", parameters: WRITE },
    Method { verb: "update", http: "put", action: "put", parameters: WRITE },
    Method {
        verb: "patch",
        http: "patch",
        action: "patch",
        parameters: &[
            ("dryRun", "string"),
            ("fieldManager", "string"),
            ("fieldValidation", "string"),
            ("force", "boolean"),
        ],
    },
    Method {
        verb: "delete",
        http: "delete",
        action: "delete",
        parameters: &[
            ("dryRun", "string"),
            ("gracePeriodSeconds", "integer"),
            ("orphanDependents", "boolean"),
            ("propagationPolicy", "string"),
        ],
    },
];

fn add_paths(paths: &mut Map<String, Value>, types: &mut Types, root: &str, kind: &Kind, name: &str) {
    let speaks = gvk(&kind.group, &kind.version, &kind.kind);
    let scope = if kind.namespaced { "namespaces/{namespace}/" } else { "" };
    let collection = format!("{root}{scope}{}", kind.plural);
    let item = format!("{collection}/{{name}}");
    let object = reference(name);
    let list = reference(&format!("{name}List"));
    let mut add =
        |path: &str, methods: &[Method], has: &dyn Fn(&str) -> bool, speaks: &Value, body: &Value| {
            let mut entry = Map::new();
            for method in methods.iter().filter(|m| has(m.verb)) {
                let body = if method.verb == "list" { &list } else { body };
                let mut operation = operation(method, speaks, body);
                operation["operationId"] = operation_id(method, path).into();
                entry.insert(method.http.to_owned(), operation);
            }
            if !entry.is_empty() {
                entry.insert("parameters".to_owned(), path_parameters(path));
                paths.insert(path.to_owned(), Value::Object(entry));
            }
        };
    let has = |verb: &str| kind.has_verb(verb);
    add(&collection, COLLECTION, &has, &speaks, &object);
    if kind.namespaced {
        add(&format!("{root}{}", kind.plural), &COLLECTION[..1], &has, &speaks, &object);
    }
    let of_item = |verb: &str| verb != "create" && kind.has_verb(verb);
    add(&item, ITEM, &of_item, &speaks, &object);
    for sub in kind.subresources.iter() {
        let speaks = gvk(&sub.group, &sub.version, &sub.kind);
        let body = sub_body(types, sub, &object);
        let has = |verb: &str| sub.verbs.iter().any(|v| v == verb);
        add(&format!("{item}/{}", sub.name), ITEM, &has, &speaks, &body);
    }
}

fn sub_body(types: &mut Types, sub: &Subresource, object: &Value) -> Value {
    match sub.schema {
        Some(id) => types.reference(id),
        None if sub.name == "status" => object.clone(),
        None => json!({ "type": "string" }),
    }
}

fn operation_id(method: &Method, path: &str) -> String {
    let mut id = method.action.to_owned();
    for part in path.split(['/', '.', '-']).filter(|p| !p.is_empty()) {
        let part = part.trim_matches(['{', '}']);
        let (first, rest) = part.split_at(part.chars().next().map_or(0, char::len_utf8));
        id.push_str(&first.to_uppercase());
        id.push_str(rest);
    }
    id
}

fn path_parameters(path: &str) -> Value {
    let in_path = |name: &str| {
        path.contains(&format!("{{{name}}}")).then(|| {
            json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "uniqueItems": true } })
        })
    };
    let pretty =
        json!({ "name": "pretty", "in": "query", "schema": { "type": "string", "uniqueItems": true } });
    [in_path("name"), in_path("namespace"), Some(pretty)].into_iter().flatten().collect()
}

fn operation(method: &Method, speaks: &Value, body: &Value) -> Value {
    let parameters: Vec<Value> = method
        .parameters
        .iter()
        .map(|(name, ty)| {
            json!({ "name": name, "in": "query", "schema": { "type": ty, "uniqueItems": true } })
        })
        .collect();
    let answer =
        if method.verb.starts_with("delete") { reference(&format!("{META}.Status")) } else { body.clone() };
    let mut out = json!({
        "responses": {
            "200": { "description": "OK", "content": { "application/json": { "schema": answer } } },
            "401": { "description": "Unauthorized" },
        },
        "x-kubernetes-action": method.action,
        "x-kubernetes-group-version-kind": speaks,
    });
    if !parameters.is_empty() {
        out["parameters"] = parameters.into();
    }
    let patches = [
        "application/apply-patch+yaml",
        "application/json-patch+json",
        "application/merge-patch+json",
        "application/strategic-merge-patch+json",
    ];
    let content: Map<String, Value> = match method.verb {
        "create" | "update" => Map::from_iter([("*/*".to_owned(), json!({ "schema": body }))]),
        "patch" => patches
            .iter()
            .map(|media| ((*media).to_owned(), json!({ "schema": { "type": "object" } })))
            .collect(),
        "delete" | "deletecollection" => {
            let options = reference(&format!("{META}.DeleteOptions"));
            Map::from_iter([("*/*".to_owned(), json!({ "schema": options }))])
        }
        _ => return out,
    };
    out["requestBody"] = json!({ "content": content });
    out
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use super::*;
    use crate::kinds::KINDS;

    fn document(group: &str, version: &str) -> Value {
        let served: Vec<Served<'_>> = KINDS
            .iter()
            .filter(|k| k.group == group && k.version == version)
            .map(|kind| Served { kind, schema: None })
            .collect();
        v3_document(group, version, &served)
    }

    /// Every reference of the document.
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
        for (group, version) in [("", "v1"), ("apps", "v1"), ("batch", "v1"), ("apiextensions.k8s.io", "v1")]
        {
            let document = document(group, version);
            let mut all = Vec::new();
            references(&document, &mut all);
            assert!(!all.is_empty());
            for reference in all {
                assert!(document.pointer(&reference[1..]).is_some(), "{group}/{version}: {reference}");
            }
        }
    }

    #[test]
    fn kubectl_finds_field_validation_and_the_type() {
        let document = document("apps", "v1");
        let item = "/apis/apps/v1/namespaces/{namespace}/deployments/{name}";
        let patch = &document["paths"][item]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"], gvk("apps", "v1", "Deployment"));
        let parameters = patch["parameters"].as_array().expect("a list");
        assert!(parameters.iter().any(|p| p["name"] == "fieldValidation" && p["in"] == "query"));
        let deployment = &document["components"]["schemas"]["io.k8s.api.apps.v1.Deployment"];
        assert_eq!(deployment["x-kubernetes-group-version-kind"], json!([gvk("apps", "v1", "Deployment")]));
        let containers =
            &document["components"]["schemas"]["io.k8s.api.core.v1.PodSpec"]["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
    }

    #[test]
    fn custom_resources_keep_their_schema() {
        let mut kind = KINDS[0].clone();
        kind.group = Cow::Borrowed("stable.example.com");
        kind.schema = None;
        let schema = json!({"type": "object", "properties": {"spec": {"type": "object"}}});
        let document =
            v3_document("stable.example.com", "v1", &[Served { kind: &kind, schema: Some(&schema) }]);
        let name = format!("com.example.stable.v1.{}", kind.kind);
        assert_eq!(document["components"]["schemas"][&name]["properties"]["spec"], json!({"type": "object"}));
    }

    #[test]
    fn the_index_tells_documents_apart_by_hash() {
        let hash = v3_hash(b"x");
        assert_ne!(hash, v3_hash(b"y"));
        let index = v3_index([("api/v1", hash.as_str())]);
        assert_eq!(index["paths"]["api/v1"]["serverRelativeURL"], format!("/openapi/v3/api/v1?hash={hash}"));
    }
}
