//! One step of a path to a field.
use std::fmt;

use serde_json::{Map, Value};

/// One step of a path, kept as fieldsV1 writes it: `f:name`, `k:{"name":"a"}`, `v:"a"` or `i:0`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Element(Box<str>);

impl Element {
    /// A field of a struct, or an entry of a map.
    pub fn field(name: &str) -> Self {
        Self(["f:", name].concat().into())
    }

    /// An item of a set.
    pub fn value(item: &Value) -> Self {
        Self(format!("v:{item}").into())
    }

    /// An item of a list whose items are told apart by keys.
    pub fn key(keys: Map<String, Value>) -> Self {
        Self(format!("k:{}", Value::Object(keys.into_iter().collect())).into())
    }

    /// Reads what fieldsV1 has. `None`: a kind of step that is not known.
    pub fn parse(text: &str) -> Result<Option<Self>, String> {
        let Some((kind, rest)) = text.split_at_checked(2) else {
            return Err("key must be 2 characters long:".to_owned());
        };
        if !kind.ends_with(':') {
            return Err(format!("missing colon: {text}"));
        }
        Ok(Some(match kind {
            "f:" => Self(text.into()),
            "v:" => Self::value(&serde_json::from_str(rest).map_err(|e| e.to_string())?),
            "k:" => Self::key(serde_json::from_str(rest).map_err(|e| e.to_string())?),
            "i:" => {
                let index: i64 = rest.parse().map_err(|e| format!("{e}: {rest:?}"))?;
                Self(format!("i:{index}").into())
            }
            _ => return Ok(None),
        }))
    }

    /// The name of a field or the key of a map.
    pub fn name(&self) -> Option<&str> {
        self.0.strip_prefix("f:")
    }

    /// Whether it picks an item of a list by its keys.
    pub fn is_key(&self) -> bool {
        self.0.starts_with("k:")
    }

    /// As fieldsV1 has it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Element> for String {
    fn from(element: Element) -> Self {
        element.0.into()
    }
}

/// As conflicts show it: `.name`, `[name="a"]`, `[="a"]`, `[0]`.
impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some((kind, rest)) = self.0.split_at_checked(2) else { return f.write_str(&self.0) };
        match kind {
            "f:" => write!(f, ".{rest}"),
            "v:" => write!(f, "[={rest}]"),
            "k:" => {
                let keys: Map<String, Value> = serde_json::from_str(rest).unwrap_or_default();
                let keys: Vec<String> = keys.iter().map(|(k, v)| format!("{k}={v}")).collect();
                write!(f, "[{}]", keys.join(","))
            }
            _ => write!(f, "[{rest}]"),
        }
    }
}
