//! What the watch cache has to know of an object.
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use api::kinds::Kind;
use apiserver_watch_cache::{Decode, DecodeError, Decoded, Facts, Owner};
use machinery::Object;
use serde::Deserialize;
use storage::KeyValue;

use crate::encode::{self, Header};

/// Finds the facts of a stored object of one kind.
pub struct Decoder {
    header: Header,
    group: String,
    plural: String,
    /// Whether a selectable field lies outside of the metadata.
    needs_tree: bool,
}

/// The metadata of an object; everything else is skipped over.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow)]
    metadata: Metadata<'a>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow, default)]
    namespace: Cow<'a, str>,
    #[serde(borrow, default)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    uid: Cow<'a, str>,
    #[serde(borrow, default)]
    labels: BTreeMap<Cow<'a, str>, Cow<'a, str>>,
    #[serde(borrow, default)]
    owner_references: Vec<OwnerReference<'a>>,
}

#[derive(Deserialize)]
struct OwnerReference<'a> {
    #[serde(borrow)]
    uid: Cow<'a, str>,
    #[serde(default)]
    controller: bool,
}

impl Decoder {
    /// For the objects of a kind.
    pub fn new(kind: &Kind) -> Self {
        let strategy = apiserver_resources::strategy_for(&kind.group, &kind.plural, "");
        Self {
            header: Header::new(kind),
            group: kind.group.to_string(),
            plural: kind.plural.to_string(),
            needs_tree: !strategy.selectable_fields(&Object::default()).is_empty(),
        }
    }

    fn tree(&self, object: &Object) -> Facts {
        let mut labels: Vec<(Arc<str>, Arc<str>)> =
            object.labels().map(|(k, v)| (k.into(), v.into())).collect();
        labels.sort_unstable();
        let strategy = apiserver_resources::strategy_for(&self.group, &self.plural, "");
        let fields =
            strategy.selectable_fields(object).into_iter().map(|(k, v)| (Cow::Borrowed(k), v)).collect();
        let owners = object
            .list_at(&["metadata", "ownerReferences"])
            .iter()
            .filter_map(|o| {
                Some(Owner { uid: o["uid"].as_str()?.into(), controller: o["controller"] == true })
            })
            .collect();
        Facts {
            namespace: object.namespace().into(),
            name: object.name().into(),
            uid: object.uid().into(),
            labels,
            fields,
            owners,
        }
    }
}

impl Head<'_> {
    fn facts(&self) -> Facts {
        let metadata = &self.metadata;
        let owner = |o: &OwnerReference<'_>| Owner { uid: (&*o.uid).into(), controller: o.controller };
        Facts {
            namespace: (&*metadata.namespace).into(),
            name: (&*metadata.name).into(),
            uid: (&*metadata.uid).into(),
            labels: metadata.labels.iter().map(|(k, v)| ((&**k).into(), (&**v).into())).collect(),
            fields: Vec::new(),
            owners: metadata.owner_references.iter().map(owner).collect(),
        }
    }
}

/// Whether an object lies under its own key. Of the ciphers only some bind a value to its key: whoever can write to the
/// store must not be able to give one secret's value to another.
fn belongs(key: &str, facts: &Facts) -> Result<(), DecodeError> {
    let path = key.strip_suffix(&*facts.name).and_then(|k| k.strip_suffix('/'));
    let path = match (path, &*facts.namespace) {
        (Some(path), "") => Some(path),
        (Some(path), namespace) => path.strip_suffix(namespace).filter(|k| k.ends_with('/')),
        (None, _) => None,
    };
    match path {
        Some(_) if !facts.name.is_empty() => Ok(()),
        _ => Err(DecodeError(format!(
            "the object of another key, {}/{}, lies there",
            facts.namespace, facts.name
        ))),
    }
}

impl Decode for Decoder {
    fn decode(&self, kv: &KeyValue) -> Result<Decoded, DecodeError> {
        let splice = self.header.splice();
        if !self.needs_tree && self.header.fits(&kv.value) {
            // What is not as we write it (a null among the labels) is left to the tree, which takes more.
            if let Ok(head) = serde_json::from_slice::<Head<'_>>(&kv.value) {
                let facts = head.facts();
                belongs(&kv.key, &facts)?;
                return Ok(Decoded { value: kv.value.clone(), splice, facts });
            }
        }
        let object = encode::tree(&kv.value).map_err(DecodeError)?;
        let facts = self.tree(&object);
        belongs(&kv.key, &facts)?;
        let value = if self.header.fits(&kv.value) {
            kv.value.clone()
        } else {
            self.header.encode(&object).map_err(|e| DecodeError(e.to_string()))?
        };
        Ok(Decoded { value, splice, facts })
    }
}

#[cfg(test)]
mod tests {
    use storage::Revision;

    use super::*;

    fn decode(kind: &str, json: &str) -> (Decoded, Facts) {
        let kind = api::kinds::by_kind("", "v1", kind).unwrap();
        let decoder = Decoder::new(kind);
        let object: Object = serde_json::from_str(json).unwrap();
        let value = decoder.header.encode(&object).unwrap();
        let key = match object.namespace() {
            "" => format!("/registry/x/{}", object.name()),
            namespace => format!("/registry/x/{namespace}/{}", object.name()),
        };
        let kv = KeyValue {
            key: key.into(),
            value,
            create_revision: Revision(1),
            mod_revision: Revision(1),
            version: 1,
            lease: None,
        };
        let tree = decoder.tree(&object);
        (decoder.decode(&kv).unwrap(), tree)
    }

    #[test]
    fn both_ways_find_the_same_facts() {
        for json in [
            r#"{"metadata":{"name":"a"}}"#,
            r#"{"metadata":{"uid":"u","name":"a\u0062","namespace":"n","labels":{"b":"2","a":"\"1"},
                "ownerReferences":[{"uid":"o","controller":true,"name":"x"},{"uid":"p","kind":"K"}]},
                "data":{"metadata":"x"}}"#,
            r#"{"metadata":{"name":"a","labels":null,"ownerReferences":[{"name":"no uid"}]}}"#,
        ] {
            let (decoded, tree) = decode("ConfigMap", json);
            assert_eq!(decoded.facts, tree, "{json}");
        }
    }

    #[test]
    fn an_object_lies_under_its_own_key() {
        let check = |key: &str, namespace: &str, name: &str| {
            let facts = Facts { namespace: namespace.into(), name: name.into(), ..Facts::default() };
            belongs(key, &facts).is_ok()
        };
        assert!(check("/registry/secrets/a/b", "a", "b"));
        assert!(check("/registry/minions/n", "", "n"));
        assert!(!check("/registry/secrets/a/b", "a", "c"));
        assert!(!check("/registry/secrets/a/b", "c", "b"));
        assert!(!check("/registry/secrets/aa/b", "a", "b"));
        assert!(!check("/registry/secrets/a/bb", "a", "b"));
        assert!(!check("/registry/secrets/a/b", "a", ""));
    }

    #[test]
    fn fields_outside_of_the_metadata_are_found() {
        let (decoded, _) = decode("Pod", r#"{"metadata":{"name":"a"},"spec":{"nodeName":"n"}}"#);
        assert_eq!(decoded.facts.field("spec.nodeName"), Some("n"));
    }
}
