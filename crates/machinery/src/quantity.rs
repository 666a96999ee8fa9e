//! Resource quantities: `100m`, `1.5Gi`, `2e3`. Exact to a billionth, printed in upstream's canonical form.
use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Wire;

const NANO: i128 = 1_000_000_000;
const MAX: i128 = i64::MAX as i128 * NANO;

/// How a quantity was written, which decides how it prints.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Format {
    #[default]
    DecimalSi,
    BinarySi,
    DecimalExponent,
}

/// An exact amount of a resource, in billionths. Equality and order look at the amount alone.
#[derive(Debug, Clone, Copy, Default)]
pub struct Quantity {
    nano: i128,
    format: Format,
}

/// Why a text is no quantity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum QuantityError {
    /// The text does not look like a number with a suffix.
    #[error("quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'")]
    Format,
    /// The number cannot be read.
    #[error("unable to parse numeric part of quantity")]
    Numeric,
    /// The suffix is not known.
    #[error("unable to parse quantity's suffix")]
    Suffix,
}

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nano: 0, format: Format::DecimalSi };

    /// So many whole units, printed with decimal suffixes.
    pub fn from_value(value: i64) -> Self {
        Self { nano: i128::from(value) * NANO, format: Format::DecimalSi }
    }

    /// So many thousandths, printed with decimal suffixes.
    pub fn from_milli(milli: i64) -> Self {
        Self { nano: i128::from(milli) * (NANO / 1000), format: Format::DecimalSi }
    }

    /// So many whole units, printed with binary suffixes.
    pub fn from_bytes(value: i64) -> Self {
        Self { nano: i128::from(value) * NANO, format: Format::BinarySi }
    }

    /// The amount in whole units, rounded up.
    pub fn value(&self) -> i64 {
        self.scaled(NANO)
    }

    /// The amount in thousandths, rounded up.
    pub fn milli_value(&self) -> i64 {
        self.scaled(NANO / 1000)
    }

    fn scaled(&self, unit: i128) -> i64 {
        let up = self.nano.div_euclid(unit) + i128::from(self.nano.rem_euclid(unit) != 0);
        i64::try_from(up).unwrap_or(if up < 0 { i64::MIN } else { i64::MAX })
    }

    /// Whether the amount is zero.
    pub fn is_zero(&self) -> bool {
        self.nano == 0
    }

    /// Whether the amount is below zero.
    pub fn is_negative(&self) -> bool {
        self.nano < 0
    }

    /// Whether the amount is a whole number of units.
    pub fn is_integer(&self) -> bool {
        self.nano % NANO == 0
    }

    /// The sum. An empty quantity takes the format of the other.
    #[must_use]
    pub fn add(&self, other: &Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nano: self.nano.saturating_add(other.nano), format }
    }

    /// The difference. An empty quantity takes the format of the other.
    #[must_use]
    pub fn sub(&self, other: &Self) -> Self {
        let format = if self.is_zero() { other.format } else { self.format };
        Self { nano: self.nano.saturating_sub(other.nano), format }
    }

    /// The amount with the sign turned.
    #[must_use]
    pub fn neg(&self) -> Self {
        Self { nano: self.nano.saturating_neg(), ..*self }
    }

    /// The amount rounded up, away from zero, to thousandths: the precision of resource lists.
    #[must_use]
    pub fn rounded_to_milli(&self) -> Self {
        let unit = NANO / 1000;
        let rest = self.nano % unit;
        let nano = match rest.cmp(&0) {
            Ordering::Equal => self.nano,
            Ordering::Greater => self.nano - rest + unit,
            Ordering::Less => self.nano - rest - unit,
        };
        Self { nano, ..*self }
    }

    /// The amount as a floating point number, for ratios.
    pub fn as_f64(&self) -> f64 {
        self.nano as f64 / NANO as f64
    }

    /// The amount on the wire; what cannot be read is zero.
    pub fn from_wire(wire: &Wire) -> Self {
        wire.0.parse().unwrap_or_default()
    }

    /// The wire form, canonical.
    pub fn to_wire(&self) -> Wire {
        Wire(self.to_string())
    }
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nano == other.nano
    }
}

impl Eq for Quantity {}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> Ordering {
        self.nano.cmp(&other.nano)
    }
}

impl TryFrom<&Wire> for Quantity {
    type Error = QuantityError;

    fn try_from(wire: &Wire) -> Result<Self, QuantityError> {
        wire.0.parse()
    }
}

impl From<Quantity> for Wire {
    fn from(q: Quantity) -> Self {
        q.to_wire()
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        if text.is_empty() {
            return Err(QuantityError::Format);
        }
        if text == "0" {
            return Ok(Self::ZERO);
        }
        let (negative, rest) = match text.as_bytes()[0] {
            b'-' => (true, &text[1..]),
            b'+' => (false, &text[1..]),
            _ => (false, text),
        };
        let (whole, rest) = split_digits(rest);
        let (fraction, rest) = match rest.strip_prefix('.') {
            Some(rest) => split_digits(rest),
            None => ("", rest),
        };
        let suffix = rest;
        let letters = suffix.find(|c| !"eEinumkKMGTP".contains(c)).unwrap_or(suffix.len());
        let tail = &suffix[letters..];
        let tail = tail.strip_prefix(['-', '+']).unwrap_or(tail);
        if !tail.bytes().all(|b| b.is_ascii_digit()) {
            return Err(QuantityError::Format);
        }
        let (base, exponent, mut format) = scale(suffix).ok_or(QuantityError::Suffix)?;
        if whole.is_empty() && fraction.is_empty() {
            return Err(QuantityError::Numeric);
        }
        let nano = amount(whole, fraction, base, exponent);
        if format == Format::BinarySi && nano > 0 && nano < NANO {
            format = Format::DecimalSi;
        }
        Ok(Self { nano: if negative { -nano } else { nano }, format })
    }
}

fn split_digits(text: &str) -> (&str, &str) {
    text.split_at(text.bytes().position(|b| !b.is_ascii_digit()).unwrap_or(text.len()))
}

/// Base, exponent and format of a suffix.
fn scale(suffix: &str) -> Option<(u32, i32, Format)> {
    let decimal = |exponent| Some((10, exponent, Format::DecimalSi));
    let binary = |exponent| Some((2, exponent, Format::BinarySi));
    match suffix {
        "n" => decimal(-9),
        "u" => decimal(-6),
        "m" => decimal(-3),
        "" => decimal(0),
        "k" => decimal(3),
        "M" => decimal(6),
        "G" => decimal(9),
        "T" => decimal(12),
        "P" => decimal(15),
        "E" => decimal(18),
        "Ki" => binary(10),
        "Mi" => binary(20),
        "Gi" => binary(30),
        "Ti" => binary(40),
        "Pi" => binary(50),
        "Ei" => binary(60),
        _ => {
            let exponent = suffix.strip_prefix(['e', 'E'])?.parse::<i64>().ok()?;
            let bounded = exponent.clamp(-1000, 1000);
            Some((10, i32::try_from(bounded).ok()?, Format::DecimalExponent))
        }
    }
}

/// The amount in billionths, rounded up, never above `MAX`.
fn amount(whole: &str, fraction: &str, base: u32, exponent: i32) -> i128 {
    // The digits of a decimal number are shifted before they are read, so no exactness is lost on the way.
    let digits = whole.bytes().chain(fraction.bytes()).map(|b| i128::from(b - b'0'));
    let shift10 = 9 - i64::try_from(fraction.len()).unwrap_or(i64::MAX)
        + if base == 10 { i64::from(exponent) } else { 0 };
    let kept = i64::try_from(whole.len() + fraction.len()).unwrap_or(i64::MAX).saturating_add(shift10.min(0));
    let binary = if base == 2 { 1_i128 << exponent } else { 1 };
    if binary > 1 {
        return binary_amount(digits.collect(), fraction.len(), binary);
    }
    let mut value: i128 = 0;
    let mut inexact = false;
    for (i, digit) in (0_i64..).zip(digits) {
        if i < kept {
            value = match value.checked_mul(10).and_then(|v| v.checked_add(digit)) {
                Some(v) => v,
                None => return MAX,
            };
        } else if digit != 0 {
            inexact = true;
        }
    }
    for _ in 0..shift10.max(0) {
        if value == 0 {
            break;
        }
        value = match value.checked_mul(10) {
            Some(v) => v,
            None => return MAX,
        };
    }
    value.saturating_add(i128::from(inexact)).min(MAX)
}

fn binary_amount(digits: Vec<i128>, fraction: usize, factor: i128) -> i128 {
    let whole = digits.len() - fraction;
    let mut value: i128 = 0;
    for digit in &digits[..whole] {
        value = value * 10 + digit;
        if value > MAX / NANO {
            return MAX;
        }
    }
    let Some(mut nano) = value.checked_mul(factor).and_then(|v| v.checked_mul(NANO)) else {
        return MAX;
    };
    // Long division of the fraction: below 18 digits a unit of any suffix is exact, the rest only rounds up.
    let mut part: i128 = 0;
    let mut scale: i128 = 1;
    let mut inexact = false;
    for digit in &digits[whole..] {
        if scale < 1_000_000_000_000_000_000 {
            part = part * 10 + digit;
            scale *= 10;
        } else if *digit != 0 {
            inexact = true;
        }
    }
    // part/scale * factor * NANO without overflow: first the units, then what is left of them.
    let units = part * factor;
    nano += units / scale * NANO;
    let left = (units % scale) * NANO;
    nano += left / scale;
    inexact |= left % scale != 0;
    (nano + i128::from(inexact)).min(MAX)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nano == 0 {
            return f.write_str("0");
        }
        let small = self.nano.abs() < 1024 * NANO;
        if self.format == Format::BinarySi && !small && self.is_integer() {
            let mut value = self.nano / NANO;
            let mut step = 0;
            while step < 6 && value % 1024 == 0 {
                value /= 1024;
                step += 1;
            }
            return write!(f, "{value}{}", ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"][step]);
        }
        let mut value = self.nano;
        let mut exponent: i32 = -9;
        let exponential = self.format == Format::DecimalExponent;
        while value % 1000 == 0 && (exponential || exponent < 18) {
            value /= 1000;
            exponent += 3;
        }
        match (exponential, exponent) {
            (true, 0) => write!(f, "{value}"),
            (true, e) => write!(f, "{value}e{e}"),
            (false, e) => {
                let i = usize::try_from((e + 9) / 3).unwrap_or(0);
                write!(f, "{value}{}", ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"][i])
            }
        }
    }
}

impl serde::Serialize for Quantity {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Quantity {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let wire = Wire::deserialize(deserializer)?;
        wire.0.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn canonical(text: &str) -> String {
        match text.parse::<Quantity>() {
            Ok(q) => q.to_string(),
            Err(e) => e.to_string(),
        }
    }

    #[test]
    fn prints_the_canonical_form() {
        for (text, expect) in [
            ("0", "0"),
            ("0Gi", "0"),
            ("1", "1"),
            ("+1", "1"),
            ("-1", "-1"),
            ("1000m", "1"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("1.", "1"),
            ("1500m", "1500m"),
            ("0.1", "100m"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("1024Ki", "1Mi"),
            ("1Gi", "1Gi"),
            ("1.5Gi", "1536Mi"),
            ("0.5Ki", "512"),
            ("0.5Gi", "512Mi"),
            ("1000Ki", "1000Ki"),
            ("100k", "100k"),
            ("12e3", "12e3"),
            ("1e6", "1e6"),
            ("1e3", "1e3"),
            ("1E3", "1e3"),
            ("12.3e1", "123"),
            ("1e-3", "1e-3"),
            ("100000000000n", "100"),
            ("0.0000000001", "1n"),
            ("1.0000000001", "1000000001n"),
            ("0.1Ki", "102400m"),
            ("9999999999999999999999", "9223372036854775807"),
            ("1E", "1E"),
            ("8Ei", "9223372036854775807"),
            ("7Ei", "7Ei"),
            ("1e1000", "9223372036854775807"),
            ("1e-1000", "1e-9"),
        ] {
            assert_eq!(canonical(text), expect, "{text}");
        }
    }

    #[test]
    fn says_what_is_wrong() {
        for (text, expect) in [
            ("", QuantityError::Format),
            ("abc", QuantityError::Format),
            ("1 ", QuantityError::Format),
            (" 1", QuantityError::Format),
            ("1.2.3", QuantityError::Format),
            ("1Kx", QuantityError::Format),
            ("1K", QuantityError::Suffix),
            ("1mi", QuantityError::Suffix),
            ("1e", QuantityError::Suffix),
            ("1i", QuantityError::Suffix),
            (".", QuantityError::Numeric),
        ] {
            assert_eq!(text.parse::<Quantity>(), Err(expect), "{text}");
        }
    }

    #[test]
    fn rounds_values_up_and_compares_amounts() {
        let q = |s: &str| s.parse::<Quantity>().expect("a quantity");
        assert_eq!(q("1500m").value(), 2);
        assert_eq!(q("-1500m").value(), -1);
        assert_eq!(q("100u").milli_value(), 1);
        assert_eq!(q("9E").milli_value(), i64::MAX);
        assert_eq!(q("1Ki"), q("1024"));
        assert!(q("1M") < q("1Mi"));
        assert_eq!(q("1Gi").add(&q("1024Mi")).to_string(), "2Gi");
        assert_eq!(q("0").add(&q("1Mi")).to_string(), "1Mi");
        assert_eq!(q("1").sub(&q("100m")).to_string(), "900m");
        assert_eq!(q("1100u").rounded_to_milli().to_string(), "2m");
        assert_eq!(Quantity::from_bytes(2048).to_string(), "2Ki");
    }

    proptest! {
        #[test]
        fn never_panics(text in ".{0,40}") {
            let _ = text.parse::<Quantity>();
        }

        #[test]
        fn canonical_form_is_stable(text in "[+-]?[0-9]{0,25}(\\.[0-9]{0,30})?(|m|u|n|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|e[+-]?[0-9]{1,3})") {
            if let Ok(q) = text.parse::<Quantity>() {
                let printed = q.to_string();
                let again: Quantity = printed.parse().expect("the canonical form parses");
                prop_assert_eq!(q, again);
                prop_assert_eq!(printed, again.to_string());
            }
        }
    }
}
