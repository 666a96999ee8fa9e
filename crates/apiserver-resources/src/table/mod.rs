//! Printed columns of each kind. Upstream: pkg/printers/internalversion/printers.go, 1.36.
use jiff::Timestamp;
use machinery::Object;
use serde_json::{Value, json};

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
    pub description: &'static str,
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
            "description": self.description,
            "priority": self.priority,
        })
    }
}

const DEFAULT: &[Column] = &[
    Column { name: "Name", ty: "string", format: "name", description: "Name must be unique within a namespace.", priority: 0 },
    Column { name: "Created At", ty: "date", format: "", description: "When the object was created.", priority: 0 },
];

/// The columns of a kind.
pub fn columns(_group: &str, _plural: &str) -> &'static [Column] {
    DEFAULT
}

/// The cells of an object, one for each column.
pub fn row(_group: &str, _plural: &str, object: &Object, _now: Timestamp) -> Vec<Value> {
    vec![object.name().into(), object.str_at(&["metadata", "creationTimestamp"]).into()]
}
