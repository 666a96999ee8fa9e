//! `runtime.Unknown`: what every message travels in.
use super::wire::{Reader, Wire, WireError, put_bytes, put_varint};

/// The first bytes of every envelope.
pub const MAGIC: &[u8] = b"k8s\0";

/// An opened envelope.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Envelope<'a> {
    /// `apiVersion` of the content; may be empty.
    pub api_version: String,
    /// `kind` of the content; may be empty.
    pub kind: String,
    /// The content.
    pub raw: &'a [u8],
    /// Media type of the content; empty: a message.
    pub content_type: String,
}

impl<'a> Envelope<'a> {
    /// Opens an envelope that starts with [`MAGIC`].
    pub fn read(bytes: &'a [u8]) -> Result<Self, WireError> {
        let mut out = Self::default();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let mut reader = Reader::new(bytes.strip_prefix(MAGIC).unwrap_or(bytes));
        while let Some((number, wire)) = reader.next()? {
            match (number, wire) {
                (1, Wire::Bytes(meta)) => {
                    let mut reader = Reader::new(meta);
                    while let Some((number, wire)) = reader.next()? {
                        match (number, wire) {
                            (1, Wire::Bytes(bytes)) => out.api_version = text(bytes),
                            (2, Wire::Bytes(bytes)) => out.kind = text(bytes),
                            _ => {}
                        }
                    }
                }
                (2, Wire::Bytes(raw)) => out.raw = raw,
                (4, Wire::Bytes(bytes)) => out.content_type = text(bytes),
                // Content that is compressed nobody sends, and upstream does not read this either.
                (3, Wire::Bytes(_)) => {}
                (1..=4, wire) => return Err(WireError::Mismatch(wire.kind(), "Unknown")),
                _ => {}
            }
        }
        Ok(out)
    }

    /// Whether the content is JSON.
    pub fn is_json(&self) -> bool {
        self.content_type == "application/json"
    }

    /// The beginning and the end of a sealed message, of which `rest` more bytes come between the two.
    pub fn seal_around(api_version: &str, kind: &str, raw: &[u8], rest: usize) -> (Vec<u8>, Vec<u8>) {
        let whole = Self::seal(api_version, kind, b"");
        // Behind the type: an empty message (two bytes), then the two empty fields of the end.
        let type_end = whole.len() - 6;
        let mut head = whole[..type_end].to_vec();
        head.push(whole[type_end]);
        put_varint(&mut head, (raw.len() + rest) as u64);
        head.extend_from_slice(raw);
        (head, whole[type_end + 2..].to_vec())
    }

    /// Seals a message.
    pub fn seal(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
        let mut meta = Vec::with_capacity(api_version.len() + kind.len() + 8);
        put_bytes(&mut meta, 1, api_version.as_bytes());
        put_bytes(&mut meta, 2, kind.as_bytes());
        let mut out = Vec::with_capacity(raw.len() + meta.len() + 24);
        out.extend_from_slice(MAGIC);
        put_bytes(&mut out, 1, &meta);
        put_bytes(&mut out, 2, raw);
        put_bytes(&mut out, 3, b"");
        put_bytes(&mut out, 4, b"");
        out
    }
}
