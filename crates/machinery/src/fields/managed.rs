//! `metadata.managedFields`, decoded.
use serde_json::{Map, Value, json};

use super::set::FieldSet;

/// As many managers of updates are told apart; the fields of the oldest beyond go to one of them all.
const MAX_UPDATE_MANAGERS: usize = 10;
/// The name of that one.
const ANCIENT: &str = "ancient-changes";

/// How a manager came to own fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    /// Server-side apply: it owns what its configuration holds.
    Apply,
    /// Any other write: it owns what it changed.
    Update,
}

impl Operation {
    /// As the entry has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// One manager and its fields.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Name of the manager.
    pub manager: String,
    /// How it writes.
    pub operation: Operation,
    /// The version in which the fields are named.
    pub api_version: String,
    /// The subresource that it writes; empty for the object itself.
    pub subresource: String,
    /// When the entry was last changed, if that is known.
    pub time: Option<String>,
    /// The fields.
    pub fields: FieldSet,
}

impl Entry {
    /// Whether another entry is of the same manager: whoever applies is the same in all versions.
    pub(super) fn same_manager(&self, other: &Self) -> bool {
        self.manager == other.manager
            && self.operation == other.operation
            && self.subresource == other.subresource
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }
}

/// All managers of an object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Managed(pub Vec<Entry>);

impl Managed {
    /// Reads `metadata.managedFields`; nothing where it is absent.
    pub fn decode(list: Option<&Value>) -> Result<Self, String> {
        let mut managed = Self::default();
        let list = match list {
            None | Some(Value::Null) => return Ok(managed),
            Some(Value::Array(list)) => list,
            Some(_) => return Err("managedFields must be a list".to_owned()),
        };
        for (i, entry) in list.iter().enumerate() {
            let text = |field: &str| entry.get(field).and_then(Value::as_str).unwrap_or("").to_owned();
            let operation = match text("operation").as_str() {
                "Apply" => Operation::Apply,
                "Update" => Operation::Update,
                _ => return Err("operation must be `Apply` or `Update`".to_owned()),
            };
            let api_version = text("apiVersion");
            if api_version.is_empty() {
                return Err("apiVersion must not be empty".to_owned());
            }
            match text("fieldsType").as_str() {
                "FieldsV1" => {}
                "" => return Err(format!("missing fieldsType in managed fields entry {i}")),
                other => return Err(format!("invalid fieldsType {other:?} in managed fields entry {i}")),
            }
            let fields = match entry.get("fieldsV1") {
                Some(fields) => {
                    FieldSet::from_value(fields).map_err(|e| format!("error decoding set: {e}"))?
                }
                None => FieldSet::default(),
            };
            managed.put(Entry {
                manager: text("manager"),
                operation,
                api_version,
                subresource: text("subresource"),
                time: entry.get("time").and_then(Value::as_str).map(str::to_owned),
                fields,
            });
        }
        Ok(managed)
    }

    /// Writes `metadata.managedFields`, in upstream's order; `None` where nobody owns anything.
    pub fn encode(mut self) -> Option<Value> {
        if self.0.is_empty() {
            return None;
        }
        self.0.sort_by(|a, b| {
            let key = |e: &Entry| (e.operation, e.time.clone().unwrap_or_default());
            key(a)
                .cmp(&key(b))
                .then_with(|| a.manager.cmp(&b.manager))
                .then_with(|| (&a.api_version, &a.subresource).cmp(&(&b.api_version, &b.subresource)))
        });
        let encode = |entry: Entry| {
            let mut out = Map::new();
            let mut text = |key: &str, value: String| {
                if !value.is_empty() {
                    out.insert(key.to_owned(), value.into());
                }
            };
            text("apiVersion", entry.api_version);
            text("fieldsType", "FieldsV1".to_owned());
            text("manager", entry.manager);
            text("operation", entry.operation.as_str().to_owned());
            text("subresource", entry.subresource);
            text("time", entry.time.unwrap_or_default());
            out.insert("fieldsV1".to_owned(), entry.fields.into_value());
            Value::Object(out)
        };
        Some(self.0.into_iter().map(encode).collect())
    }

    /// Sets the entry of a manager.
    pub(super) fn put(&mut self, entry: Entry) {
        match self.0.iter_mut().find(|e| e.same_manager(&entry)) {
            Some(found) => *found = entry,
            None => self.0.push(entry),
        }
    }

    /// Takes the entry of a manager out.
    pub(super) fn take(&mut self, like: &Entry) -> Option<Entry> {
        self.0.iter().position(|e| e.same_manager(like)).map(|i| self.0.remove(i))
    }

    /// Drops managers that own nothing.
    pub(super) fn drop_empty(&mut self) {
        self.0.retain(|e| !e.fields.is_empty());
    }

    /// Keeps the number of managers of updates within bounds: of each version, the oldest are merged into one.
    pub(super) fn cap(&mut self) {
        let (mut updates, applies): (Vec<Entry>, Vec<Entry>) =
            std::mem::take(&mut self.0).into_iter().partition(|e| e.operation == Operation::Update);
        self.0 = applies;
        if updates.len() > MAX_UPDATE_MANAGERS {
            updates.sort_by(|a, b| {
                (&a.time, &a.manager, &a.api_version).cmp(&(&b.time, &b.manager, &b.api_version))
            });
            merge_oldest(&mut updates);
        }
        self.0.append(&mut updates);
    }
}

/// Of each version, merges entries into one, oldest first, until there are few enough.
fn merge_oldest(updates: &mut Vec<Entry>) {
    let mut i = 0;
    while updates.len() > MAX_UPDATE_MANAGERS && i < updates.len() {
        let version = updates[i].api_version.clone();
        let Some(first) = updates[..i].iter().position(|e| e.api_version == version) else {
            i += 1;
            continue;
        };
        let newer = updates.remove(i);
        let is_bucket =
            |e: &Entry| e.manager == ANCIENT && e.subresource.is_empty() && e.api_version == version;
        let bucket = updates.iter().position(is_bucket).unwrap_or(first);
        let bucket = &mut updates[bucket];
        bucket.manager = ANCIENT.to_owned();
        bucket.subresource = String::new();
        bucket.time = newer.time;
        bucket.fields.union(newer.fields);
    }
}

/// Whether a list asks for a new beginning: empty, or one empty entry.
pub(super) fn is_reset(list: &Value) -> bool {
    list.as_array().is_some_and(|l| l.is_empty()) || *list == json!([{}])
}

/// Whether two lists differ in nothing but times.
pub fn same_but_times(a: &Value, b: &Value) -> bool {
    let (Some(a), Some(b)) = (a.as_array(), b.as_array()) else { return false };
    let but_time = |entry: &Value| {
        let mut entry = entry.clone();
        if let Some(map) = entry.as_object_mut() {
            map.remove("time");
        }
        entry
    };
    // The order follows the times.
    a.len() == b.len() && a.iter().all(|x| b.iter().any(|y| but_time(x) == but_time(y)))
}
