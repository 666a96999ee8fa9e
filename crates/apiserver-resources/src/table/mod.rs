//! Printed columns of each kind. Upstream: pkg/printers/internalversion/printers.go, 1.36.
//!
//! Read [`columns`] and [`row`] first; [`printers`] finds the pair of a kind.
mod access;
mod age;
mod batch;
mod columns;
mod config;
mod devices;
mod event;
mod network;
mod node;
mod pod;
mod printers;
mod quota;
mod scheduling;
mod storage;
mod workload;

use std::collections::BTreeMap;
use std::sync::{Arc, RwLock};

use jiff::Timestamp;
use machinery::Object;
use serde_json::{Value, json};

pub use age::{human_duration, since};

/// Where the description of a column comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doc {
    /// Words of its own.
    Says(&'static str),
    /// What the schema says of a field of a type.
    Field(&'static str, &'static str),
}

impl Doc {
    /// The words.
    pub fn text(self) -> Arc<str> {
        /// What was looked up so far: a few dozen fields at most.
        static FOUND: RwLock<BTreeMap<(&str, &str), Arc<str>>> = RwLock::new(BTreeMap::new());
        let (ty, field) = match self {
            Self::Says(text) => return text.into(),
            Self::Field(ty, field) => (ty, field),
        };
        if let Some(text) = FOUND.read().unwrap_or_else(|e| e.into_inner()).get(&(ty, field)) {
            return text.clone();
        }
        let text: Arc<str> = api::describe::field(ty, field).unwrap_or_default().into();
        FOUND.write().unwrap_or_else(|e| e.into_inner()).insert((ty, field), text.clone());
        text
    }
}

/// One column of a Table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Column {
    /// Heading.
    pub name: &'static str,
    /// OpenAPI type of the cells.
    pub ty: &'static str,
    /// OpenAPI format; empty for most.
    pub format: &'static str,
    /// What the column says.
    pub description: Doc,
    /// 0 is always shown; above it, only with `-o wide`.
    pub priority: i32,
}

impl Column {
    /// As a `TableColumnDefinition`.
    pub fn to_json(&self) -> Value {
        json!({
            "name": self.name,
            "type": self.ty,
            "format": self.format,
            "description": &*self.description.text(),
            "priority": self.priority,
        })
    }
}

/// Columns of a kind and how to fill them.
struct Printer {
    columns: &'static [Column],
    row: fn(&Object, Timestamp) -> Vec<Value>,
}

/// The columns of a kind.
pub fn columns(group: &str, plural: &str) -> &'static [Column] {
    printers::find(group, plural).columns
}

/// The cells of an object, one for each column.
pub fn row(group: &str, plural: &str, object: &Object, now: Timestamp) -> Vec<Value> {
    let printer = printers::find(group, plural);
    // What is measured and wanted has fields only in the stored version.
    if object.api_version() == "autoscaling/v1" && object.kind() == "HorizontalPodAutoscaler" {
        let mut stored = object.clone();
        crate::autoscaling::v1::to_stored(&mut stored);
        return (printer.row)(&stored, now);
    }
    (printer.row)(object, now)
}

/// What the rows of a kind are sorted by before their names, if by anything.
pub fn order(group: &str, plural: &str) -> Option<fn(&Object) -> i64> {
    // Schemas in the order in which they are tried.
    let precedence: fn(&Object) -> i64 = |schema| number(schema, &["spec", "matchingPrecedence"]);
    ((group, plural) == ("flowcontrol.apiserver.k8s.io", "flowschemas")).then_some(precedence)
}

/// What a row says of the state of its object; upstream does for pods that have ended.
pub fn row_conditions(group: &str, plural: &str, object: &Object) -> Option<Value> {
    if (group, plural) != ("", "pods") {
        return None;
    }
    let phase = object.str_at(&["status", "phase"]);
    let message = match phase {
        "Succeeded" => "The pod has completed successfully.",
        "Failed" => "The pod failed.",
        _ => return None,
    };
    Some(json!([{"type": "Completed", "status": "True", "reason": phase, "message": message}]))
}

/// The text, or what stands for none.
fn or(text: &str, none: &str) -> Value {
    if text.is_empty() { none.into() } else { text.into() }
}

/// The text at a path of a value; empty where there is none.
fn text<'v>(value: &'v Value, path: &[&str]) -> &'v str {
    path.iter().try_fold(value, |v, key| v.get(key)).and_then(Value::as_str).unwrap_or("")
}

/// The number at a path, 0 where there is none.
fn number(object: &Object, path: &[&str]) -> i64 {
    object.i64_at(path).unwrap_or(0)
}

/// Entries of a map at a path.
fn count(object: &Object, path: &[&str]) -> usize {
    object.at(path).and_then(Value::as_object).map_or(0, serde_json::Map::len)
}

/// The age of an object.
fn age(object: &Object, now: Timestamp) -> Value {
    since(object.str_at(&["metadata", "creationTimestamp"]), now).into()
}

/// A list that shows its first `max` items and counts the rest.
fn with_more(items: &[String], total: usize, max: usize) -> String {
    let shown = items[..items.len().min(max)].join(",");
    if total > max { format!("{shown} + {} more...", total - max) } else { shown }
}

/// The condition of a type.
fn condition<'o>(object: &'o Object, ty: &str) -> Option<&'o Value> {
    object.list_at(&["status", "conditions"]).iter().find(|c| text(c, &["type"]) == ty)
}

/// Whether a condition of this type holds.
fn holds(object: &Object, ty: &str) -> bool {
    condition(object, ty).is_some_and(|c| text(c, &["status"]) == "True")
}

/// A map of labels as `a=b,c=d`.
fn labels(value: Option<&Value>) -> String {
    let entries = value.and_then(Value::as_object).into_iter().flatten();
    let texts: Vec<String> = entries.map(|(k, v)| format!("{k}={}", v.as_str().unwrap_or(""))).collect();
    if texts.is_empty() { "<none>".into() } else { texts.join(",") }
}

/// A label selector as `kubectl` prints it.
fn selector(value: Option<&Value>) -> String {
    let Some(value) = value else { return "<none>".into() };
    let parsed = serde_json::from_value(value.clone())
        .map_err(|e| e.to_string())
        .and_then(|typed| machinery::label_selector::LabelSelector::from_typed(&typed));
    match parsed {
        Ok(selector) if selector.is_empty() => "<none>".into(),
        Ok(selector) => selector.to_string(),
        Err(_) => "<error>".into(),
    }
}

/// Names and images of the containers of a pod template.
fn containers(template: Option<&Value>) -> [Value; 2] {
    let list = template.and_then(|t| t.get("spec")?.get("containers")?.as_array());
    let all = |field: &str| -> Vec<&str> { list.into_iter().flatten().map(|c| text(c, &[field])).collect() };
    [all("name").join(",").into(), all("image").join(",").into()]
}

#[cfg(test)]
mod tests;
