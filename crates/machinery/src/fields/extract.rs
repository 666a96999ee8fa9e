//! What an applied configuration has an opinion on, and what is wrong with it.
use std::collections::BTreeSet;

use serde_json::{Map, Value};

use super::element::Element;
use super::lists;
use super::schema::{Form, Scalar, Typed, Walk};
use super::set::{Branch, FieldSet};

/// The fields that a configuration sets.
pub fn extract(ty: Typed<'_>, config: &Map<String, Value>) -> FieldSet {
    let mut set = FieldSet::default();
    for (name, value) in config {
        let (below, child) = ty.child(name);
        let mut branch = branch(below, value);
        let empty = value.is_null() || value.as_object().is_some_and(Map::is_empty);
        branch.member |= empty || !child.named;
        set.push(Element::field(name), branch);
    }
    set
}

fn branch(ty: Typed<'_>, value: &Value) -> Branch {
    match (ty.walk(value), value) {
        (Walk::Entries, Value::Object(map)) => Branch { member: false, children: extract(ty, map) },
        (Walk::Items, Value::Array(items)) => {
            let mut out = Branch::default();
            for (name, items) in lists::names(ty, items).map(|n| lists::group(n, items)).unwrap_or_default() {
                let mut below = match items.as_slice() {
                    [one] => branch(ty.item(), one),
                    _ => Branch::default(),
                };
                below.member = true;
                out.children.push(name, below);
            }
            out
        }
        _ => Branch::leaf(),
    }
}

/// What is wrong with a configuration, each with its path, in upstream's words.
pub fn problems(ty: Typed<'_>, config: &Map<String, Value>) -> Vec<String> {
    let mut found = Vec::new();
    entries(ty, config, &mut found);
    let text =
        |(path, what): (String, String)| if path.is_empty() { what } else { format!("{path}: {what}") };
    found.into_iter().map(text).collect()
}

/// Path, problem.
type Problems = Vec<(String, String)>;

fn entries(ty: Typed<'_>, map: &Map<String, Value>, found: &mut Problems) {
    for (name, value) in map {
        let element = Element::field(name);
        if ty.schema.child(ty.at, name).is_none() {
            found.push((element.to_string(), "field not declared in schema".into()));
            return;
        }
        below(ty.child(name).0, value, &element, found);
    }
}

fn below(ty: Typed<'_>, value: &Value, element: &Element, found: &mut Problems) {
    let first = found.len();
    check(ty, value, found);
    if let Some(new) = found.get_mut(first..) {
        let prefix = if new.is_empty() { String::new() } else { element.to_string() };
        for (path, _) in new {
            path.insert_str(0, &prefix);
        }
    }
}

fn check(ty: Typed<'_>, value: &Value, found: &mut Problems) {
    let mut wrong = |problem: String| found.push((String::new(), problem));
    match (ty.form(), value) {
        (_, Value::Null) => {}
        (Form::Map | Form::AtomicMap, Value::Object(map)) => entries(ty, map, found),
        (Form::Map | Form::AtomicMap, other) => wrong(format!("expected map, got &{{{}}}", go(other))),
        (Form::AtomicList, Value::Array(items)) => {
            for (i, item) in items.iter().enumerate() {
                if let Ok(Some(element)) = Element::parse(&format!("i:{i}")) {
                    below(ty.item(), item, &element, found);
                }
            }
        }
        (Form::Set | Form::Keyed, Value::Array(items)) => {
            let mut seen = BTreeSet::new();
            for (i, item) in items.iter().enumerate() {
                match lists::name(ty, item) {
                    Ok(element) => {
                        if !seen.insert(element.clone()) {
                            let problem = format!("duplicate entries for key {element}");
                            found.push((String::new(), problem));
                        }
                        below(ty.item(), item, &element, found);
                    }
                    Err(e) => return found.push((String::new(), format!("element {i}: {e}"))),
                }
            }
        }
        (Form::AtomicList | Form::Set | Form::Keyed, other) => {
            wrong(format!("expected list, got &{{{}}}", go(other)));
        }
        (Form::Scalar(scalar), value) => {
            let fits = match scalar {
                Scalar::Text => value.is_string(),
                Scalar::Number => value.is_number(),
                Scalar::Bool => value.is_boolean(),
                Scalar::Any => value.is_string() || value.is_number() || value.is_boolean(),
            };
            if !fits {
                wrong(match scalar {
                    Scalar::Text => {
                        format!("expected string, got &value.valueUnstructured{{Value:{}}}", go(value))
                    }
                    Scalar::Number => format!("expected numeric (int or float), got {}", go_type(value)),
                    Scalar::Bool => format!("expected boolean, got &{{{}}}", go(value)),
                    Scalar::Any => format!("expected any scalar, got &{{{}}}", go(value)),
                });
            }
        }
        (Form::Deduced, _) => {}
    }
}

/// About what Go prints for a value.
fn go(value: &Value) -> String {
    match value {
        Value::Object(map) => {
            let entries: Vec<String> = map.iter().map(|(k, v)| format!("{k}:{}", go(v))).collect();
            format!("map[{}]", entries.join(" "))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(go).collect::<Vec<_>>().join(" ")),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn go_type(value: &Value) -> &'static str {
    match value {
        Value::Object(_) => "map[string]interface {}",
        Value::Array(_) => "[]interface {}",
        Value::String(_) => "string",
        Value::Bool(_) => "bool",
        Value::Number(n) if n.is_f64() => "float64",
        Value::Number(_) => "int64",
        Value::Null => "<nil>",
    }
}
