//! YAML bodies, bounded in depth, nodes and aliases.
use machinery::Object;
use serde::de::DeserializeSeed;
use serde_json::Value;
use serde_saphyr::options::DuplicateKeyPolicy;
use serde_saphyr::{Error, Options};

use super::walk::{Typed, Walk};
use crate::schema::Ty;

fn options(duplicate_keys: DuplicateKeyPolicy) -> Options {
    let mut options = Options::default();
    options.duplicate_keys = duplicate_keys;
    options.with_snippet = false;
    options
}

/// Reads one document.
pub(super) fn parse(bytes: &[u8], root: Ty, walk: &mut Walk) -> Result<Object, String> {
    walk.silent_duplicates = true;
    let value = serde_saphyr::with_deserializer_from_slice_with_options(
        bytes,
        options(DuplicateKeyPolicy::LastWins),
        |yaml| Typed { walk, ty: root, root: true }.deserialize(yaml),
    )
    .map_err(|e| format!("error converting YAML to JSON: yaml: {e}"))?;
    super::into_object(value)
}

/// The first key given twice, in the words of Go's YAML package.
pub(super) fn duplicate(bytes: &[u8]) -> Option<String> {
    let strict = options(DuplicateKeyPolicy::Error);
    let error = serde_saphyr::from_slice_with_options::<Value>(bytes, strict).err()?;
    match error.without_snippet() {
        Error::DuplicateMappingKey { key, location } => {
            let (line, key) = (location.line(), key.as_deref().unwrap_or(""));
            Some(format!("yaml: unmarshal errors:\n  line {line}: key {key:?} already set in map"))
        }
        _ => None,
    }
}
