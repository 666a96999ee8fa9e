//! How an object is laid out in storage: JSON with a fixed beginning and without `metadata.resourceVersion`.
//!
//! The fixed beginning, `{"apiVersion":"v1","kind":"Pod","metadata":{`, tells where the revision is spliced in, so
//! that one encoding serves storage, get, list and watch.
use api::decode::Target;
use api::kinds::Kind;
use api::proto::{Envelope, MAGIC, decode_protobuf};
use bytes::Bytes;
use machinery::gvk::GroupVersionKind;
use machinery::{Object, StatusError, StatusResult};
use serde_json::Value;
use storage::Revision;

/// The fixed beginning of every stored object of a kind.
#[derive(Debug, Clone)]
pub struct Header(String);

impl Header {
    /// The beginning for a kind.
    pub fn new(kind: &Kind) -> Self {
        Self(format!(
            "{{\"apiVersion\":{},\"kind\":{},\"metadata\":{{",
            Value::from(kind.api_version()),
            Value::from(&*kind.kind)
        ))
    }

    /// Where `"resourceVersion":"N",` belongs in a stored object.
    pub fn splice(&self) -> u32 {
        u32::try_from(self.0.len()).unwrap_or(0)
    }

    /// Encodes for storage. The object's own type and revision are left out: the header has the type, the store the
    /// revision.
    pub fn encode(&self, object: &Object) -> StatusResult<Bytes> {
        let mut out = Vec::with_capacity(512);
        out.extend_from_slice(self.0.as_bytes());
        let mut first = true;
        let metadata = object.at(&["metadata"]).and_then(Value::as_object);
        for (key, value) in metadata.into_iter().flatten() {
            if key != "resourceVersion" {
                member(&mut out, &mut first, key, value)?;
            }
        }
        if first {
            return Err(StatusError::internal("an object without metadata reached the store"));
        }
        out.push(b'}');
        first = false;
        for (key, value) in &object.0 {
            if !matches!(key.as_str(), "apiVersion" | "kind" | "metadata") {
                member(&mut out, &mut first, key, value)?;
            }
        }
        out.push(b'}');
        Ok(out.into())
    }

    /// What [`Header::encode`] laid out, with a revision in it; an object that was not stored has none.
    pub fn with_revision(&self, value: &[u8], revision: Revision) -> Vec<u8> {
        let (head, tail) = value.split_at(self.0.len().min(value.len()));
        let mut out = Vec::with_capacity(value.len() + 48);
        out.extend_from_slice(head);
        if revision > Revision::ZERO {
            out.extend_from_slice(b"\"resourceVersion\":\"");
            out.extend_from_slice(revision.to_string().as_bytes());
            out.extend_from_slice(b"\",");
        }
        out.extend_from_slice(tail);
        out
    }

    /// Whether bytes were laid out by [`Header::encode`] for this kind.
    pub fn fits(&self, value: &[u8]) -> bool {
        value.starts_with(self.0.as_bytes()) && value.get(self.0.len()) == Some(&b'"')
    }
}

fn member(out: &mut Vec<u8>, first: &mut bool, key: &str, value: &Value) -> StatusResult<()> {
    if !std::mem::take(first) {
        out.push(b',');
    }
    serde_json::to_writer(&mut *out, key).map_err(StatusError::internal)?;
    out.push(b':');
    serde_json::to_writer(&mut *out, value).map_err(StatusError::internal)
}

/// Decodes a stored object and puts its revision in.
pub fn decode(value: &[u8], revision: Revision) -> StatusResult<Object> {
    let mut object =
        tree(value).map_err(|e| StatusError::internal(format!("a stored object does not decode: {e}")))?;
    object.set(&["metadata", "resourceVersion"], revision.to_string());
    Ok(object)
}

/// The tree of a stored value: JSON, or the protobuf that upstream's server writes.
pub fn tree(value: &[u8]) -> Result<Object, String> {
    if !value.starts_with(MAGIC) {
        return serde_json::from_slice(value).map_err(|e| e.to_string());
    }
    let envelope = Envelope::read(value).map_err(|e| e.to_string())?;
    let gvk = GroupVersionKind::from_api_version(&envelope.api_version, &envelope.kind);
    let kind = api::kinds::by_kind(&gvk.group, &gvk.version, &gvk.kind)
        .ok_or_else(|| format!("it is a {} of {}, which is not known", gvk.kind, gvk.api_version()))?;
    decode_protobuf(value, &Target::of(kind)).map_err(|e| e.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_revision_splices_into_what_was_encoded() {
        let kind = api::kinds::by_kind("", "v1", "ConfigMap").unwrap();
        let header = Header::new(kind);
        let object: Object = serde_json::from_str(
            r#"{"kind":"ConfigMap","apiVersion":"v1","data":{"a":"b"},"metadata":{"name":"x","resourceVersion":"3"}}"#,
        )
        .unwrap();
        let value = header.encode(&object).unwrap();
        assert!(header.fits(&value));
        assert_eq!(header.splice() as usize, header.0.len());
        let spliced = header.with_revision(&value, Revision(7));
        let back: Object = serde_json::from_slice(&spliced).unwrap();
        assert_eq!(header.with_revision(&value, Revision::ZERO), value);
        assert_eq!(back, decode(&value, Revision(7)).unwrap());
        assert_eq!(back.resource_version(), "7");
        assert_eq!(back.str_at(&["data", "a"]), "b");
    }

    #[test]
    fn what_upstream_stored_as_protobuf_reads_as_json_does() {
        let kind = api::kinds::by_kind("", "v1", "ConfigMap").unwrap();
        let header = Header::new(kind);
        let json = r#"{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x","namespace":"d","uid":"u",
            "creationTimestamp":"2026-01-02T03:04:05Z","labels":{"a":"b"}},"data":{"k":"v"}}"#;
        let object: Object = serde_json::from_str(json).unwrap();
        let sealed = api::proto::encode_object(&object.0).unwrap();
        assert!(sealed.starts_with(MAGIC) && !header.fits(&sealed));
        let read = decode(&sealed, Revision(9)).unwrap();
        assert_eq!(read, decode(json.as_bytes(), Revision(9)).unwrap());
        assert_eq!(header.encode(&read).unwrap(), header.encode(&object).unwrap());
        for broken in [&sealed[..sealed.len() - 3], b"k8s\0", b"k8s\0\x0a\xff", b"{", b""] {
            assert_eq!(decode(broken, Revision(9)).unwrap_err().code(), 500);
        }
    }
}
