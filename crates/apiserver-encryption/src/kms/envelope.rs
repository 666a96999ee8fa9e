//! What is stored behind the mark of a key server: the sealed value beside the encrypted seed.
use machinery::names;
use prost::Message as _;
use sha2::{Digest as _, Sha256};

use super::SeedId;
use super::v2::{EncryptedDekSourceType, EncryptedObject};

/// Bytes of a key's name.
const KEY_ID: usize = 1024;
/// Bytes of an encrypted seed.
const SOURCE: usize = 1024;
/// Bytes of all annotations.
const ANNOTATIONS: usize = 32 * 1024;

/// Checks what a key server answered, or what was stored; the data may be empty.
pub(super) fn check(object: &EncryptedObject) -> Result<(), String> {
    if EncryptedDekSourceType::try_from(object.encrypted_dek_source_type).is_err() {
        return Err(format!("unknown encryptedDEKSourceType: {}", object.encrypted_dek_source_type));
    }
    let source = object.encrypted_dek_source.len();
    if source == 0 {
        return Err("failed to validate encrypted DEK source: encrypted DEK source is empty".into());
    }
    if source > SOURCE {
        return Err(format!(
            "failed to validate encrypted DEK source: encrypted DEK source is {source} bytes, which exceeds the max size of {SOURCE}"
        ));
    }
    let key = object.key_id.len();
    if key == 0 {
        return Err("failed to validate key id: keyID is empty".into());
    }
    if key > KEY_ID {
        return Err(format!(
            "failed to validate key id: keyID is {key} bytes, which exceeds the max size of {KEY_ID}"
        ));
    }
    let total: usize = object.annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
    if total > ANNOTATIONS {
        return Err(format!(
            "failed to validate annotations: total size of annotations is {total}, which exceeds the max size of {ANNOTATIONS}"
        ));
    }
    for key in object.annotations.keys() {
        let name = key.strip_suffix('.').unwrap_or(key);
        if let Some(why) = names::dns1123_subdomain(name).into_iter().next() {
            return Err(format!(
                "failed to validate annotations: annotations: Invalid value: {key:?}: {why}"
            ));
        }
        if !name.contains('.') {
            return Err(format!(
                "failed to validate annotations: annotations: Invalid value: {key:?}: should be a domain with at least two segments separated by dots"
            ));
        }
    }
    Ok(())
}

/// Appends the envelope with the sealed value in it.
pub(super) fn write(envelope: &EncryptedObject, data: &[u8], out: &mut Vec<u8>) {
    let whole = EncryptedObject { encrypted_data: data.to_vec(), ..envelope.clone() };
    out.reserve(whole.encoded_len());
    whole.encode_raw(out);
}

/// Reads what [`write`] appended.
pub(super) fn read(data: &[u8]) -> Result<EncryptedObject, String> {
    let object = EncryptedObject::decode(data).map_err(|e| e.to_string())?;
    if object.encrypted_data.is_empty() {
        return Err("encrypted data is empty".into());
    }
    check(&object)?;
    Ok(object)
}

/// Names the seed of an envelope.
pub(super) fn seed_id(object: &EncryptedObject) -> SeedId {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    };
    add(&object.encrypted_dek_source_type.to_le_bytes());
    add(&object.encrypted_dek_source);
    add(object.key_id.as_bytes());
    for (key, value) in &object.annotations {
        add(key.as_bytes());
        add(value);
    }
    hash.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn object() -> EncryptedObject {
        EncryptedObject {
            encrypted_data: b"d".to_vec(),
            key_id: "1".into(),
            encrypted_dek_source: b"s".to_vec(),
            annotations: [("a.b".to_owned(), b"v".to_vec())].into(),
            encrypted_dek_source_type: 1,
        }
    }

    #[test]
    fn it_is_laid_out_as_upstreams() {
        let mut out = Vec::new();
        write(&object(), b"d", &mut out);
        // Fields 1 (data), 2 (key), 3 (seed), 4 (annotations: a map of name and value), 5 (kind of seed).
        let expect = b"\x0a\x01d\x12\x011\x1a\x01s\x22\x08\x0a\x03a.b\x12\x01v\x28\x01";
        assert_eq!(out, expect);
        assert_eq!(read(&out).unwrap(), object());
    }

    #[test]
    fn what_is_too_large_or_missing_is_refused() {
        let check = |change: fn(&mut EncryptedObject), expect: &str| {
            let mut object = object();
            change(&mut object);
            let mut out = Vec::new();
            object.encode_raw(&mut out);
            let got = read(&out).err().unwrap_or_default();
            assert!(got.starts_with(expect) && got.is_empty() == expect.is_empty(), "{got}");
        };
        check(|_| {}, "");
        check(|o| o.encrypted_data.clear(), "encrypted data is empty");
        check(|o| o.encrypted_dek_source_type = 2, "unknown encryptedDEKSourceType: 2");
        check(
            |o| o.encrypted_dek_source.clear(),
            "failed to validate encrypted DEK source: encrypted DEK source is empty",
        );
        check(
            |o| o.encrypted_dek_source = vec![0; 1025],
            "failed to validate encrypted DEK source: encrypted DEK source is 1025 bytes",
        );
        check(|o| o.key_id.clear(), "failed to validate key id: keyID is empty");
        check(|o| o.key_id = "x".repeat(1025), "failed to validate key id: keyID is 1025 bytes");
        check(
            |o| drop(o.annotations.insert("a.c".into(), vec![0; 40_000])),
            "failed to validate annotations: total size",
        );
        check(
            |o| drop(o.annotations.insert("plain".into(), vec![])),
            "failed to validate annotations: annotations: Invalid value: \"plain\"",
        );
        assert!(read(b"\xff\xff").is_err());
    }

    #[test]
    fn seeds_are_told_apart() {
        let ids: Vec<SeedId> = [
            |_: &mut EncryptedObject| {},
            |o: &mut EncryptedObject| o.key_id = "2".into(),
            |o: &mut EncryptedObject| o.encrypted_dek_source = b"t".to_vec(),
            |o: &mut EncryptedObject| o.encrypted_dek_source_type = 0,
            |o: &mut EncryptedObject| o.annotations.clear(),
        ]
        .into_iter()
        .map(|change: fn(&mut EncryptedObject)| {
            let mut object = object();
            change(&mut object);
            seed_id(&object)
        })
        .collect();
        for (i, a) in ids.iter().enumerate() {
            assert!(ids.iter().skip(i + 1).all(|b| a != b));
        }
    }
}
