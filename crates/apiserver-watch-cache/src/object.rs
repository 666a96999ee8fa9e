//! An object as readers get it: encoded bytes, and the facts needed to find it.

use std::borrow::Cow;
use std::sync::Arc;

use bytes::{BufMut, Bytes};
use storage::{KeyValue, Revision};

use crate::map::Keyed;

/// What has to be known of an object without decoding it again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// `metadata.namespace`; empty for cluster-scoped objects.
    pub namespace: Arc<str>,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.uid`.
    pub uid: Arc<str>,
    /// `metadata.labels`, sorted by key.
    pub labels: Vec<(Arc<str>, Arc<str>)>,
    /// The selectable fields with their values.
    pub fields: Vec<(Cow<'static, str>, String)>,
    /// `metadata.ownerReferences`.
    pub owners: Vec<Owner>,
}

impl Facts {
    /// The value of a label.
    pub fn label(&self, key: &str) -> Option<&str> {
        let at = self.labels.binary_search_by(|(found, _)| (**found).cmp(key)).ok()?;
        Some(&self.labels[at].1)
    }

    /// The value of a selectable field.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// One owner of an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The owner's uid.
    pub uid: Arc<str>,
    /// Whether the owner is the managing controller.
    pub controller: bool,
}

/// What a [`Decode`] makes of a stored value.
#[derive(Clone, Debug)]
pub struct Decoded {
    /// The object as JSON without `metadata.resourceVersion`. When it is stored so, this is the stored value itself,
    /// and no byte of it is copied.
    pub value: Bytes,
    /// The offset right after the `{` of `metadata`; [`find_splice`](crate::find_splice) finds it.
    pub splice: u32,
    /// What to remember of it.
    pub facts: Facts,
}

/// Why a stored value could not be decoded.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub String);

/// Turns a stored value into what readers get; called once for each change.
pub trait Decode: Send + Sync + 'static {
    /// Decodes one stored value.
    fn decode(&self, kv: &KeyValue) -> Result<Decoded, DecodeError>;
}

impl<F> Decode for F
where
    F: Fn(&KeyValue) -> Result<Decoded, DecodeError> + Send + Sync + 'static,
{
    fn decode(&self, kv: &KeyValue) -> Result<Decoded, DecodeError> {
        self(kv)
    }
}

/// An object at a revision.
#[derive(Clone, Debug)]
pub struct CachedObject {
    /// Its key in the storage.
    pub key: Arc<str>,
    /// The object as JSON without `metadata.resourceVersion`.
    pub value: Bytes,
    /// The offset in `value` right after the `{` of `metadata`, where the resource version goes.
    pub splice: u32,
    /// Its resource version.
    pub revision: Revision,
    /// The revision that created the key.
    pub create_revision: Revision,
    /// What is known of it.
    pub facts: Arc<Facts>,
}

impl CachedObject {
    /// Decodes a stored value.
    pub fn decode(kv: &KeyValue, decoder: &dyn Decode) -> Result<Self, DecodeError> {
        let Decoded { value, splice, facts } = decoder.decode(kv)?;
        if (splice as usize).checked_sub(1).and_then(|at| value.get(at)) != Some(&b'{') {
            return Err(DecodeError("the decoder found no place for the resource version".into()));
        }
        Ok(Self {
            key: kv.key.clone(),
            value,
            splice,
            revision: kv.mod_revision,
            create_revision: kv.create_revision,
            facts: Arc::new(facts),
        })
    }

    /// The same object with another resource version, as the event of its deletion has it.
    pub fn at(&self, revision: Revision) -> Self {
        Self { revision, ..self.clone() }
    }

    /// The bytes [`CachedObject::write_json`] writes, or a few more.
    pub fn json_len(&self) -> usize {
        self.value.len() + r#""resourceVersion":"18446744073709551615","#.len()
    }

    /// Writes the object as JSON, the resource version in it.
    pub fn write_json(&self, out: &mut impl BufMut) {
        self.write_json_from(0, out);
    }

    /// Writes the object as JSON from an offset of its value on, which is not behind the place of the resource version.
    pub fn write_json_from(&self, start: usize, out: &mut impl BufMut) {
        let (head, tail) = self.value.split_at(self.splice as usize);
        out.put_slice(&head[start..]);
        out.put_slice(br#""resourceVersion":""#);
        let mut digits = [0; 20];
        out.put_slice(decimal(self.revision.0, &mut digits));
        // A comma only when metadata has something else.
        let empty = tail.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'}');
        out.put_slice(if empty { b"\"" } else { b"\"," });
        out.put_slice(tail);
    }

    /// The object as JSON, the resource version in it.
    pub fn json(&self) -> Bytes {
        let mut out = Vec::with_capacity(self.json_len());
        self.write_json(&mut out);
        out.into()
    }
}

fn decimal(mut number: u64, digits: &mut [u8; 20]) -> &[u8] {
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (number % 10) as u8;
        number /= 10;
        if number == 0 {
            return &digits[at..];
        }
    }
}

impl Keyed for Arc<CachedObject> {
    fn key(&self) -> &Arc<str> {
        &self.key
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::find_splice;

    fn object(json: &'static str, revision: u64) -> CachedObject {
        CachedObject {
            key: "/k".into(),
            value: Bytes::from_static(json.as_bytes()),
            splice: find_splice(json.as_bytes()).expect("metadata"),
            revision: Revision(revision),
            create_revision: Revision(1),
            facts: Arc::default(),
        }
    }

    #[test]
    fn the_resource_version_is_spliced_in() {
        for (json, expected) in [
            (r#"{"metadata":{"name":"a"}}"#, r#"{"metadata":{"resourceVersion":"7","name":"a"}}"#),
            (r#"{"metadata":{}}"#, r#"{"metadata":{"resourceVersion":"7"}}"#),
            (
                r#"{"kind":"X","metadata":{ },"a":1}"#,
                r#"{"kind":"X","metadata":{"resourceVersion":"7" },"a":1}"#,
            ),
        ] {
            let object = object(json, 7);
            assert_eq!(object.json(), expected);
            assert!(object.json_len() >= expected.len());
        }
        let large = object(r#"{"metadata":{}}"#, u64::MAX);
        assert_eq!(large.json(), format!(r#"{{"metadata":{{"resourceVersion":"{}"}}}}"#, u64::MAX));
        assert_eq!(object(r#"{"metadata":{}}"#, 0).json(), r#"{"metadata":{"resourceVersion":"0"}}"#);
    }

    #[test]
    fn labels_are_found() {
        let labels = vec![("a".into(), "1".into()), ("b".into(), "2".into())];
        let facts = Facts { labels, fields: vec![("spec.nodeName".into(), "n".into())], ..Facts::default() };
        assert_eq!((facts.label("b"), facts.label("c")), (Some("2"), None));
        assert_eq!((facts.field("spec.nodeName"), facts.field("x")), (Some("n"), None));
    }
}
