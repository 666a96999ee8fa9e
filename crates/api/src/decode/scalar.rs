//! Scalars with a form of their own: quantities, times, base64. Errors are those of Go's packages.
use jiff::Timestamp;
use machinery::Quantity;

/// Whether a text is a quantity. It stays as it was written.
pub(super) fn quantity(text: &str) -> Result<(), String> {
    text.parse::<Quantity>().map(|_| ()).map_err(|e| e.to_string())
}

/// The error for what is neither text nor number.
pub(super) fn not_a_quantity() -> String {
    machinery::quantity::QuantityError::Format.to_string()
}

/// A quantity of a resource list: canonical, rounded up to thousandths.
pub(super) fn milli_quantity(text: String) -> String {
    match text.parse::<Quantity>() {
        Ok(q) => q.rounded_to_milli().to_string(),
        Err(_) => text,
    }
}

/// A time in whole seconds. `None`: it is in normal form already.
pub(super) fn time(text: &str) -> Result<Option<String>, String> {
    const LAYOUT: &str = "2006-01-02T15:04:05Z07:00";
    let at = parse(text, LAYOUT)?;
    let normal = at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    Ok((normal != text).then_some(normal))
}

/// A time in microseconds. `None`: it is in normal form already.
pub(super) fn micro_time(text: &str) -> Result<Option<String>, String> {
    const LAYOUT: &str = "2006-01-02T15:04:05.000000Z07:00";
    let at = parse(text, LAYOUT)?;
    let normal = format!("{}.{:06}Z", at.strftime("%Y-%m-%dT%H:%M:%S"), at.subsec_nanosecond().max(0) / 1000);
    Ok((normal != text).then_some(normal))
}

fn parse(text: &str, layout: &str) -> Result<Timestamp, String> {
    // RFC 3339 alone, of the many forms jiff reads: digits, 'T', seconds, and a zone.
    let bytes = text.as_bytes();
    let shape = b"dddd-dd-ddTdd:dd:dd";
    let bad = (0..shape.len()).find(|&i| match (shape[i], bytes.get(i)) {
        (b'd', Some(b)) => !b.is_ascii_digit(),
        (expected, Some(b)) => expected != *b,
        (_, None) => true,
    });
    let part = |i: usize| match i {
        0..4 => (0, "2006"),
        4 => (4, "-"),
        5..7 => (5, "01"),
        7 => (7, "-"),
        8..10 => (8, "02"),
        10 => (10, "T"),
        11..13 => (11, "15"),
        13 => (13, ":"),
        14..16 => (14, "04"),
        16 => (16, ":"),
        17..19 => (17, "05"),
        _ => (19, "Z07:00"),
    };
    let failure = |at: usize| {
        let (from, element) = part(at);
        let rest = text.get(from..).unwrap_or("");
        format!("parsing time {text:?} as {layout:?}: cannot parse {rest:?} as {element:?}")
    };
    if let Some(i) = bad {
        return Err(failure(i));
    }
    let zone = text[19..].trim_start_matches(|c: char| c == '.' || c.is_ascii_digit());
    let good_zone = match zone.as_bytes() {
        [b'Z'] => true,
        [b'+' | b'-', h1, h2, b':', m1, m2] => [h1, h2, m1, m2].iter().all(|b| b.is_ascii_digit()),
        _ => false,
    };
    if !good_zone {
        return Err(failure(19));
    }
    text.parse().map_err(|_| format!("parsing time {text:?}: out of range"))
}

/// Checks standard base64. `None`: it is in normal form already.
pub(super) fn base64(text: &str) -> Result<Option<String>, String> {
    if text.contains(['\n', '\r']) {
        let clean: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
        return base64(&clean).map(|_| Some(clean));
    }
    let bytes = text.as_bytes();
    let padding = bytes.iter().rev().take_while(|b| **b == b'=').count();
    let body = bytes.len() - padding;
    let bad = bytes[..body].iter().position(|b| !(b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/')));
    let at = match bad {
        Some(i) => i,
        None if bytes.len().is_multiple_of(4) && padding <= 2 => return Ok(None),
        None if padding > 2 => body + 2,
        None => bytes.len() - bytes.len() % 4,
    };
    Err(format!("illegal base64 data at input byte {at}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_become_utc() {
        assert_eq!(time("2024-01-02T03:04:05Z"), Ok(None));
        assert_eq!(time("2024-01-02T03:04:05.123+01:00"), Ok(Some("2024-01-02T02:04:05Z".into())));
        assert_eq!(micro_time("2024-01-02T03:04:05.123456Z"), Ok(None));
        assert_eq!(micro_time("2024-01-02T03:04:05Z"), Ok(Some("2024-01-02T03:04:05.000000Z".into())));
        assert_eq!(
            time("abc"),
            Err("parsing time \"abc\" as \"2006-01-02T15:04:05Z07:00\": cannot parse \"abc\" as \"2006\""
                .into())
        );
        for bad in ["", "2024-01-02", "2024-01-02 03:04:05Z", "2024-13-02T03:04:05Z", "2024-01-02T03:04:05"] {
            assert!(time(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn base64_is_checked() {
        assert_eq!(base64(""), Ok(None));
        assert_eq!(base64("YQ=="), Ok(None));
        assert_eq!(base64("YWJj\nYQ=="), Ok(Some("YWJjYQ==".into())));
        assert_eq!(base64("Y$=="), Err("illegal base64 data at input byte 1".into()));
        assert_eq!(base64("YWJjY"), Err("illegal base64 data at input byte 4".into()));
        assert!(base64("====").is_err());
    }
}
