//! The little of DER that writing a certificate takes. Reading is x509-parser's.

use jiff::{Timestamp, tz::TimeZone};

pub(crate) const SEQUENCE: u8 = 0x30;
pub(crate) const SET: u8 = 0x31;
pub(crate) const OCTETS: u8 = 0x04;

/// Tag, length, content.
pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(content.len() + 6);
    out.push(tag);
    match content.len() {
        n @ 0..=0x7f => out.push(n as u8),
        n => {
            let bytes = n.to_be_bytes();
            let skip = bytes.iter().take_while(|b| **b == 0).count();
            out.push(0x80 | (bytes.len() - skip) as u8);
            out.extend_from_slice(&bytes[skip..]);
        }
    }
    out.extend_from_slice(content);
    out
}

pub(crate) fn sequence(parts: &[&[u8]]) -> Vec<u8> {
    tlv(SEQUENCE, &parts.concat())
}

/// SET OF: DER wants its members in the order of their bytes.
pub(crate) fn set(mut parts: Vec<Vec<u8>>) -> Vec<u8> {
    parts.sort();
    tlv(SET, &parts.concat())
}

pub(crate) fn octets(content: &[u8]) -> Vec<u8> {
    tlv(OCTETS, content)
}

pub(crate) fn boolean(value: bool) -> Vec<u8> {
    tlv(0x01, &[if value { 0xff } else { 0 }])
}

/// An unsigned big-endian number.
pub(crate) fn unsigned(bytes: &[u8]) -> Vec<u8> {
    let skip = bytes.iter().take_while(|b| **b == 0).count();
    let bytes = &bytes[skip..];
    let mut content = Vec::with_capacity(bytes.len() + 1);
    if bytes.first().is_none_or(|b| b & 0x80 != 0) {
        content.push(0);
    }
    content.extend_from_slice(bytes);
    tlv(0x02, &content)
}

/// An object identifier from its encoded content.
pub(crate) fn oid(content: &[u8]) -> Vec<u8> {
    tlv(0x06, content)
}

pub(crate) fn null() -> Vec<u8> {
    tlv(0x05, &[])
}

/// A bit string whose last byte has `unused` low bits that do not count.
pub(crate) fn bits(unused: u8, content: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(content.len() + 1);
    bytes.push(unused);
    bytes.extend_from_slice(content);
    tlv(0x03, &bytes)
}

/// PrintableString where the characters allow it, as Go writes names, else UTF8String.
pub(crate) fn string(text: &str) -> Vec<u8> {
    let printable = text.bytes().all(|b| b.is_ascii_alphanumeric() || b" '()+,-./:=?".contains(&b));
    tlv(if printable { 0x13 } else { 0x0c }, text.as_bytes())
}

/// A named-bit list (KeyUsage): bit 0 is the highest; DER drops trailing zero bits.
pub(crate) fn named_bits(set: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0u8; set.iter().max().map_or(0, |m| usize::from(*m) / 8 + 1)];
    for bit in set {
        bytes[usize::from(*bit) / 8] |= 0x80 >> (bit % 8);
    }
    let unused = bytes.last().map_or(0, |b| b.trailing_zeros() as u8);
    bits(unused, &bytes)
}

/// UTCTime up to 2049, GeneralizedTime after, whole seconds. `None` past the year 9999 or before 1950.
pub(crate) fn time(at: Timestamp) -> Option<Vec<u8>> {
    let at = at.to_zoned(TimeZone::UTC);
    match at.year() {
        1950..=2049 => Some(tlv(0x17, at.strftime("%y%m%d%H%M%SZ").to_string().as_bytes())),
        2050..=9999 => Some(tlv(0x18, at.strftime("%Y%m%d%H%M%SZ").to_string().as_bytes())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_take_the_shortest_form() {
        assert_eq!(tlv(4, &[0; 127])[..2], [4, 127]);
        assert_eq!(tlv(4, &[0; 128])[..3], [4, 0x81, 128]);
        assert_eq!(tlv(4, &[0; 300])[..4], [4, 0x82, 1, 44]);
    }

    #[test]
    fn numbers_stay_positive_and_minimal() {
        assert_eq!(unsigned(&[0, 0, 0x80]), [2, 2, 0, 0x80]);
        assert_eq!(unsigned(&[0, 0x7f]), [2, 1, 0x7f]);
        assert_eq!(unsigned(&[0]), [2, 1, 0]);
    }

    #[test]
    fn named_bits_drop_trailing_zeros() {
        assert_eq!(named_bits(&[0, 2]), [3, 2, 5, 0xa0]);
        assert_eq!(named_bits(&[0, 2, 5]), [3, 2, 2, 0xa4]);
    }

    #[test]
    fn times_change_their_form_in_2050() {
        let at = |s: &str| time(s.parse().expect("a timestamp"));
        assert_eq!(at("2049-12-31T23:59:59Z").expect("in range")[0], 0x17);
        assert_eq!(&at("2050-01-01T00:00:00Z").expect("in range")[2..], b"20500101000000Z");
        assert_eq!(at("1900-01-01T00:00:00Z"), None);
    }
}
