//! A Kubernetes object as a tree.
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// A Kubernetes object as a JSON tree: the form in which the server patches, admits and stores it.
///
/// Accessors never fail: what is absent or of a wrong type reads as empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Object(pub Map<String, Value>);

impl Object {
    /// Takes a JSON object; anything else gives `None`.
    pub fn from_value(value: Value) -> Option<Self> {
        match value {
            Value::Object(map) => Some(Self(map)),
            _ => None,
        }
    }

    /// The tree as a value.
    pub fn into_value(self) -> Value {
        Value::Object(self.0)
    }

    /// Decodes into a typed object.
    pub fn to_typed<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        T::deserialize(&self.0)
    }

    /// Encodes a typed object.
    pub fn from_typed<T: Serialize>(typed: &T) -> Result<Self, serde_json::Error> {
        use serde::ser::Error as _;
        Self::from_value(serde_json::to_value(typed)?)
            .ok_or_else(|| serde_json::Error::custom("not an object"))
    }

    /// `apiVersion`.
    pub fn api_version(&self) -> &str {
        self.str_at(&["apiVersion"])
    }

    /// `kind`.
    pub fn kind(&self) -> &str {
        self.str_at(&["kind"])
    }

    /// Sets `apiVersion` and `kind`.
    pub fn set_type(&mut self, api_version: &str, kind: &str) {
        self.0.insert("apiVersion".into(), api_version.into());
        self.0.insert("kind".into(), kind.into());
    }

    /// The value at a path of field names.
    pub fn at(&self, path: &[&str]) -> Option<&Value> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(self.0.get(*first)?, |v, key| v.get(key))
    }

    /// The text at a path; empty where there is none.
    pub fn str_at(&self, path: &[&str]) -> &str {
        self.at(path).and_then(Value::as_str).unwrap_or("")
    }

    /// The integer at a path.
    pub fn i64_at(&self, path: &[&str]) -> Option<i64> {
        self.at(path).and_then(Value::as_i64)
    }

    /// The boolean at a path.
    pub fn bool_at(&self, path: &[&str]) -> Option<bool> {
        self.at(path).and_then(Value::as_bool)
    }

    /// The items of the list at a path; empty where there is none.
    pub fn list_at(&self, path: &[&str]) -> &[Value] {
        self.at(path).and_then(Value::as_array).map_or(&[], Vec::as_slice)
    }

    /// The entries of a map of strings at a path.
    pub fn strings_at<'a>(&'a self, path: &[&str]) -> impl Iterator<Item = (&'a str, &'a str)> {
        self.at(path)
            .and_then(Value::as_object)
            .into_iter()
            .flatten()
            .filter_map(|(k, v)| Some((k.as_str(), v.as_str()?)))
    }

    /// Sets the value at a path, making the objects on the way.
    pub fn set(&mut self, path: &[&str], value: impl Into<Value>) {
        let Some((last, parents)) = path.split_last() else {
            return;
        };
        let mut map = &mut self.0;
        for &key in parents {
            let next = map.entry(key).or_insert_with(|| Value::Object(Map::new()));
            if !next.is_object() {
                *next = Value::Object(Map::new());
            }
            let Value::Object(inner) = next else { return };
            map = inner;
        }
        map.insert((*last).to_owned(), value.into());
    }

    /// Removes the value at a path.
    pub fn remove(&mut self, path: &[&str]) -> Option<Value> {
        let (last, parents) = path.split_last()?;
        let mut map = &mut self.0;
        for &key in parents {
            map = map.get_mut(key)?.as_object_mut()?;
        }
        map.remove(*last)
    }

    /// Copies the value at a path from another object, removing it here where it is absent there.
    pub fn copy_from(&mut self, other: &Self, path: &[&str]) {
        match other.at(path) {
            Some(v) => self.set(path, v.clone()),
            None => {
                self.remove(path);
            }
        }
    }

    /// `metadata.name`.
    pub fn name(&self) -> &str {
        self.str_at(&["metadata", "name"])
    }

    /// `metadata.generateName`.
    pub fn generate_name(&self) -> &str {
        self.str_at(&["metadata", "generateName"])
    }

    /// `metadata.namespace`.
    pub fn namespace(&self) -> &str {
        self.str_at(&["metadata", "namespace"])
    }

    /// `metadata.uid`.
    pub fn uid(&self) -> &str {
        self.str_at(&["metadata", "uid"])
    }

    /// `metadata.resourceVersion`.
    pub fn resource_version(&self) -> &str {
        self.str_at(&["metadata", "resourceVersion"])
    }

    /// `metadata.generation`.
    pub fn generation(&self) -> Option<i64> {
        self.i64_at(&["metadata", "generation"])
    }

    /// `metadata.deletionTimestamp`; empty where deletion was not asked for.
    pub fn deletion_timestamp(&self) -> &str {
        self.str_at(&["metadata", "deletionTimestamp"])
    }

    /// Whether deletion was asked for.
    pub fn is_deleting(&self) -> bool {
        !self.deletion_timestamp().is_empty()
    }

    /// `metadata.deletionGracePeriodSeconds`.
    pub fn deletion_grace_period_seconds(&self) -> Option<i64> {
        self.i64_at(&["metadata", "deletionGracePeriodSeconds"])
    }

    /// `metadata.labels`.
    pub fn labels(&self) -> impl Iterator<Item = (&str, &str)> {
        self.strings_at(&["metadata", "labels"])
    }

    /// One label.
    pub fn label(&self, key: &str) -> Option<&str> {
        self.at(&["metadata", "labels"])?.get(key)?.as_str()
    }

    /// One annotation.
    pub fn annotation(&self, key: &str) -> Option<&str> {
        self.at(&["metadata", "annotations"])?.get(key)?.as_str()
    }

    /// `metadata.finalizers`.
    pub fn finalizers(&self) -> impl Iterator<Item = &str> {
        self.list_at(&["metadata", "finalizers"]).iter().filter_map(Value::as_str)
    }
}
