//! Durations as flags, files and queries have them.
use std::time::Duration;

/// A duration as Go writes it, for example `1m30s` or `1.5h`.
pub fn go_duration(text: &str) -> Option<Duration> {
    if text == "0" {
        return Some(Duration::ZERO);
    }
    let mut rest = text.strip_prefix('+').unwrap_or(text);
    let mut total = 0.0_f64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let end = rest.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1e-9,
            "us" | "\u{b5}s" | "\u{3bc}s" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return None,
        };
        total += number * unit;
        rest = &rest[end..];
    }
    Duration::try_from_secs_f64(total).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_read_as_go_reads_them() {
        for (text, millis) in
            [("1m30s", 90_000), ("1.5h", 5_400_000), ("250ms", 250), ("0", 0), ("1h1m1s1ms", 3_661_001)]
        {
            assert_eq!(go_duration(text), Some(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "+", "s", "1", "1 s", "1x", "..s"] {
            assert_eq!(go_duration(text), None, "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_none() {
        for (text, expect) in [
            ("3s", Some(3_000)),
            ("500ms", Some(500)),
            ("1m1.5s", Some(61_500)),
            ("0", Some(0)),
            ("", None),
            ("-1s", None),
            ("3", None),
            ("s", None),
            ("1e400s", None),
        ] {
            assert_eq!(go_duration(text), expect.map(Duration::from_millis), "{text}");
        }
    }
}
