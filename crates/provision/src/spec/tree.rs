//! YAML as a tree whose every value knows its line, so that all mistakes of a file can be told at once.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{Options, Spanned};

/// The largest file that is read.
pub(super) const MOST_BYTES: usize = 1 << 20;

/// A value and where it stands.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub line: u64,
    pub value: Value,
}

/// A value.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    Null,
    Bool(bool),
    /// With its text, for messages and for who wants text after all.
    Number(String),
    Text(String),
    List(Vec<Node>),
    Map(Vec<Entry>),
}

/// One key of a map.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub key: String,
    pub line: u64,
    pub node: Node,
}

impl PartialEq for Node {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key && self.node == other.node
    }
}

impl Value {
    /// What it is, for messages.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Null => "empty",
            Self::Bool(_) => "true or false",
            Self::Number(_) => "a number",
            Self::Text(_) => "text",
            Self::List(_) => "a list",
            Self::Map(_) => "a map",
        }
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let found = Spanned::<Value>::deserialize(deserializer)?;
        Ok(Self { line: found.referenced.line(), value: found.value })
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(AnyValue)
    }
}

struct AnyValue;

impl<'de> Visitor<'de> for AnyValue {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        Value::deserialize(deserializer)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value.to_string()))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::Text(value.to_owned()))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let mut list = Vec::new();
        while let Some(item) = items.next_element::<Node>()? {
            list.push(item);
        }
        Ok(Value::List(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let mut map = Vec::new();
        while let Some(key) = entries.next_key::<Spanned<String>>()? {
            let node: Node = entries.next_value()?;
            // A key that is read anew knows no place: its value stands behind it.
            let line = if key.referenced.line() == 0 { node.line } else { key.referenced.line() };
            map.push(Entry { key: key.value, line, node });
        }
        Ok(Value::Map(map))
    }
}

/// Reads one document; the error is a line and what is wrong there.
pub(super) fn parse(text: &str) -> Result<Node, (u64, String)> {
    if text.len() > MOST_BYTES {
        return Err((1, format!("the file has {} bytes, {MOST_BYTES} are read at most", text.len())));
    }
    let mut options = Options::default();
    // All of them are shown to the reader, which names them.
    options.duplicate_keys = DuplicateKeyPolicy::LastWins;
    options.with_snippet = false;
    serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map_or(1, |at| at.line());
        (line.max(1), format!("not YAML: {}", error.without_snippet()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(node: &Node) -> &[Entry] {
        match &node.value {
            Value::Map(entries) => entries,
            other => panic!("{other:?} is no map"),
        }
    }

    #[test]
    fn everything_knows_its_line() {
        let node = parse("a: 1\nb:\n  c: [x, 2]\n  d:\n  - e: true\n  - null\na: 3\n").expect("YAML");
        let top = entries(&node);
        let lines: Vec<(&str, u64)> = top.iter().map(|e| (e.key.as_str(), e.line)).collect();
        assert_eq!(lines, [("a", 1), ("b", 2), ("a", 7)]);
        let inner = entries(&top[1].node);
        assert_eq!((inner[0].line, inner[1].line), (3, 4));
        let Value::List(items) = &inner[1].node.value else { panic!("no list") };
        assert_eq!((items[0].line, items[1].line), (5, 6));
        assert_eq!(items[1].value, Value::Null);
        assert_eq!(entries(&items[0])[0].node.value, Value::Bool(true));
    }

    #[test]
    fn what_is_no_yaml_is_told_with_its_line() {
        let (line, why) = parse("a: 1\nb: [\n").expect_err("no YAML");
        assert!(line >= 2, "{line}: {why}");
        assert!(parse(&"#".repeat(MOST_BYTES + 1)).is_err());
    }
}
