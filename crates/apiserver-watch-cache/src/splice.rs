//! Finds the place for the resource version in an object's JSON, without decoding it.

/// The offset right after the `{` of the top-level `metadata` object; `None` when there is none.
///
/// Only looks at strings and brackets: the bytes have to be valid JSON, or the answer means nothing.
pub fn find_splice(json: &[u8]) -> Option<u32> {
    let mut depth = 0_u32;
    let mut at = 0;
    while at < json.len() {
        match json[at] {
            b'"' => {
                let end = string_end(json, at)?;
                if depth == 1 && &json[at..end] == b"\"metadata\"" {
                    let colon = skip_space(json, end);
                    // In value position the word is followed by something else.
                    if json.get(colon) == Some(&b':') {
                        let value = skip_space(json, colon + 1);
                        return if json.get(value) == Some(&b'{') {
                            u32::try_from(value + 1).ok()
                        } else {
                            None
                        };
                    }
                }
                at = end;
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        at += 1;
    }
    None
}

/// The offset behind the string that begins at `at`.
fn string_end(json: &[u8], at: usize) -> Option<usize> {
    let mut at = at + 1;
    loop {
        match json.get(at)? {
            b'"' => return Some(at + 1),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

fn skip_space(json: &[u8], mut at: usize) -> usize {
    while json.get(at).is_some_and(u8::is_ascii_whitespace) {
        at += 1;
    }
    at
}

#[cfg(test)]
mod tests {
    use super::find_splice;

    #[test]
    fn metadata_is_found_at_the_top_only() {
        for (json, expected) in [
            (r#"{"metadata":{"name":"a"}}"#, Some(13)),
            (r#"{"spec":{"metadata":{}},"metadata" : {}}"#, Some(38)),
            (r#"{"a":"metadata","b":"\"metadata\":{","metadata":{}}"#, Some(49)),
            (r#"["metadata",{"metadata":{}}]"#, None),
            (r#"{"metadata":null}"#, None),
            (r#"{"metadata"#, None),
            (r#"{"a\"#, None),
            (r#"}"#, None),
            ("", None),
        ] {
            assert_eq!(find_splice(json.as_bytes()), expected, "{json}");
        }
    }
}
