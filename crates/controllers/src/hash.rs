//! Short hashes of templates, as they appear in names and labels.
use serde::Serialize;

/// Letters and digits without vowels and lookalikes, so that no word and no number comes out.
const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";

/// Hashes a template and the count of collisions met so far: FNV-1a, 32 bit, written in decimal and then spelled in
/// the safe alphabet.
///
/// The bytes hashed are the template's canonical JSON, so the value differs from upstream's (which hashes a dump of
/// the Go value); like there, nothing may rely on the value across versions.
pub fn template_hash<T: Serialize>(template: &T, collisions: Option<i32>) -> String {
    // A map has string keys and every field encodes: this cannot fail, and an empty text would still hash.
    let text = serde_json::to_vec(template).unwrap_or_default();
    let mut hash = fnv1a(0x811c_9dc5, &text);
    if let Some(count) = collisions {
        let mut bytes = [0u8; 8];
        bytes[..4].copy_from_slice(&count.to_le_bytes());
        hash = fnv1a(hash, &bytes);
    }
    safe_encode(&hash.to_string())
}

fn fnv1a(start: u32, bytes: &[u8]) -> u32 {
    bytes.iter().fold(start, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Spells text in the safe alphabet, a letter for a byte.
pub fn safe_encode(text: &str) -> String {
    text.bytes().map(|b| char::from(ALPHABET[usize::from(b) % ALPHABET.len()])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fnv_and_spelling_are_as_published() {
        // The published test vector of FNV-1a 32 for "foobar".
        assert_eq!(fnv1a(0x811c_9dc5, b"foobar"), 0xbf9c_f968);
        // '0'..'9' are bytes 48..57.
        assert_eq!(safe_encode("0123456789"), "456789bcdf");
    }

    #[test]
    fn collisions_change_the_hash() {
        let h = |c| template_hash(&serde_json::json!({"a": 1}), c);
        assert_ne!(h(None), h(Some(1)));
        assert_ne!(h(Some(1)), h(Some(2)));
        assert!(h(None).bytes().all(|b| ALPHABET.contains(&b)));
    }
}
