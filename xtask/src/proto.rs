//! Writes `crates/api/src/generated/proto.rs` from the proto files of the Kubernetes release.
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};

/// One field as a proto file writes it.
struct Field {
    number: u32,
    name: String,
    /// Scalar, or name of the message in the words of the OpenAPI document.
    ty: String,
    many: Many,
}

#[derive(PartialEq)]
enum Many {
    One,
    List,
    Map,
}

type Messages = BTreeMap<String, Vec<Field>>;

const SCALARS: [(&str, &str); 6] = [
    ("string", "Str"),
    ("bytes", "Bytes"),
    ("bool", "Bool"),
    ("int32", "Int32"),
    ("int64", "Int64"),
    ("double", "Double"),
];

/// Messages that answers need and the OpenAPI document does not name.
const ALSO: [&str; 2] = [
    "io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadata",
    "io.k8s.apimachinery.pkg.apis.meta.v1.PartialObjectMetadataList",
];

/// The generated file, and the fields that are a struct of its own right in Go, as `type.field`: not a pointer, so
/// always there. `pointers` names the fields that are pointers in Go, one a line.
pub fn generate(
    dir: &Path,
    definitions: &Map<String, Value>,
    pointers: &str,
    header: &str,
) -> Result<(String, BTreeSet<String>)> {
    let mut messages = Messages::new();
    read(&dir.join("k8s.io"), &mut messages)?;
    let wanted = reachable(&messages, definitions)?;
    let index: BTreeMap<&str, usize> = wanted.iter().enumerate().map(|(i, name)| (*name, i)).collect();
    let mut pointers: BTreeSet<&str> = pointers.lines().collect();
    let mut structs = BTreeSet::new();
    let mut out = String::from(header);
    out.push_str(
        "use crate::proto::table::{Field, Form::{self, *}, Many::{self, *}, Message, Ty::{self, *}};\n\n",
    );
    out.push_str("const fn f(number: u32, name: &'static str, ty: Ty, many: Many, keep: bool) -> Field {\n    Field { number, name, ty, many, keep }\n}\n");
    out.push_str("const fn m(name: &'static str, form: Form, fields: &'static [Field]) -> Message {\n    Message { name, form, fields }\n}\n\n");
    writeln!(out, "pub static MESSAGES: [Message; {}] = [", wanted.len())?;
    for name in &wanted {
        let mut fields: Vec<&Field> = messages[*name].iter().collect();
        fields.sort_by_key(|f| f.number);
        write!(out, "    m({name:?}, {}, &[", form(name, &fields))?;
        for field in fields {
            let property = property(definitions.get(*name), field);
            let inline = property.is_none()
                && index.contains_key(field.ty.as_str())
                && definitions.contains_key(*name);
            let property = property.unwrap_or_else(|| field.name.clone());
            let path = format!("{name}.{property}");
            let pointer = pointers.remove(path.as_str());
            let scalar = SCALARS.iter().any(|(scalar, _)| *scalar == field.ty);
            if !pointer && !inline && !scalar && field.many == Many::One {
                structs.insert(path);
            }
            let ty = match SCALARS.iter().find(|(scalar, _)| *scalar == field.ty) {
                Some((_, ty)) => (*ty).to_owned(),
                None => format!("M({})", index[field.ty.as_str()]),
            };
            let many = match field.many {
                Many::One if inline => "Inline",
                Many::One => "One",
                Many::List => "List",
                Many::Map => "Map",
            };
            let required = definitions.get(*name).and_then(|d| d["required"].as_array());
            let required = required.is_some_and(|r| r.iter().any(|r| *r == *property));
            write!(
                out,
                "\n        f({}, {property:?}, {ty}, {many}, {}),",
                field.number,
                pointer || required
            )?;
        }
        out.push_str("\n    ]),\n");
    }
    out.push_str("];\n");
    match pointers.first() {
        Some(unknown) => bail!("pointers.txt names {unknown}, which no message has"),
        None => Ok((out, structs)),
    }
}

/// What the JSON of a message looks like.
fn form(name: &str, fields: &[&Field]) -> &'static str {
    match name.rsplit('.').next().unwrap_or_default() {
        "Time" => "Time",
        "MicroTime" => "MicroTime",
        "Quantity" => "Quantity",
        "IntOrString" => "IntOrString",
        "RawExtension" => "Raw",
        "FieldsV1" | "JSON" => "Json",
        "JSONSchemaPropsOrArray" | "JSONSchemaPropsOrStringArray" => "OrArray",
        "JSONSchemaPropsOrBool" => "OrBool",
        _ => match fields {
            [one] if one.name == "items" && one.many == Many::List && one.ty == "string" => "Items",
            _ => "Plain",
        },
    }
}

/// The JSON name of a field: the property that it names, in whatever case or with a prefix of JSON Schema.
fn property(definition: Option<&Value>, field: &Field) -> Option<String> {
    let properties = definition?["properties"].as_object()?;
    if properties.contains_key(&field.name) {
        return Some(field.name.clone());
    }
    let letters = |s: &str| s.replace(['$', '-'], "").to_lowercase();
    properties.keys().find(|p| letters(p) == letters(&field.name)).cloned()
}

/// The messages that the definitions name, and those that these consist of.
fn reachable<'a>(messages: &'a Messages, definitions: &Map<String, Value>) -> Result<Vec<&'a str>> {
    let mut found = BTreeSet::new();
    let root = |name: &&String| definitions.contains_key(*name) || ALSO.contains(&name.as_str());
    let mut ahead: Vec<&str> = messages.keys().filter(root).map(String::as_str).collect();
    while let Some(name) = ahead.pop() {
        if !found.insert(name) {
            continue;
        }
        for field in &messages[name] {
            if SCALARS.iter().any(|(scalar, _)| *scalar == field.ty) {
                continue;
            }
            let (ty, _) =
                messages.get_key_value(&field.ty).with_context(|| format!("no message {}", field.ty))?;
            ahead.push(ty);
        }
    }
    Ok(found.into_iter().collect())
}

fn read(dir: &Path, messages: &mut Messages) -> Result<()> {
    for entry in std::fs::read_dir(dir).with_context(|| format!("read {}", dir.display()))? {
        let path = entry?.path();
        if path.is_dir() {
            read(&path, messages)?;
        } else if path.extension().is_some_and(|e| e == "proto") {
            parse(&std::fs::read_to_string(&path)?, messages).with_context(|| path.display().to_string())?;
        }
    }
    Ok(())
}

/// The name of a package in the words of the OpenAPI document.
fn package(proto: &str) -> String {
    let path = proto.trim_start_matches("k8s.io.");
    format!("io.k8s.{path}")
        .replace("apiextensions_apiserver", "apiextensions-apiserver")
        .replace("kube_aggregator", "kube-aggregator")
}

fn parse(text: &str, messages: &mut Messages) -> Result<()> {
    let mut home = String::new();
    let mut open: Option<(String, Vec<Field>)> = None;
    for line in text.lines().map(str::trim) {
        if let Some(name) = line.strip_prefix("package ") {
            home = package(name.trim_end_matches(';'));
        } else if let Some(name) = line.strip_prefix("message ") {
            open = Some((format!("{home}.{}", name.trim_end_matches([' ', '{'])), Vec::new()));
        } else if line == "}" {
            let (name, fields) = open.take().context("a brace too many")?;
            messages.insert(name, fields);
        } else if let Some((_, fields)) = &mut open
            && !line.is_empty()
        {
            fields.push(field(line, &home).with_context(|| line.to_owned())?);
        }
    }
    Ok(())
}

fn field(line: &str, home: &str) -> Result<Field> {
    let (declared, number) = line.trim_end_matches(';').split_once(" = ").context("no number")?;
    let number = number.split_whitespace().next().context("no number")?.parse()?;
    let (ty, name) = declared.rsplit_once(' ').context("no name")?;
    let (ty, many) = if let Some(ty) = ty.strip_prefix("optional ") {
        (ty, Many::One)
    } else if let Some(ty) = ty.strip_prefix("repeated ") {
        (ty, Many::List)
    } else if let Some(ty) = ty.strip_prefix("map<string, ").and_then(|t| t.strip_suffix('>')) {
        (ty, Many::Map)
    } else {
        bail!("a field of another form")
    };
    let ty = match ty.strip_prefix('.') {
        Some(full) => {
            let (of, name) = full.rsplit_once('.').context("no package")?;
            format!("{}.{name}", package(of))
        }
        None if SCALARS.iter().any(|(scalar, _)| *scalar == ty) => ty.to_owned(),
        None => format!("{home}.{ty}"),
    };
    Ok(Field { number, name: name.to_owned(), ty, many })
}
