//! Quantities as the whole numbers that cgroups and the downward API want.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Thousandths, rounded up; `None` for text that is no quantity.
pub fn milli(quantity: &Quantity) -> Option<i64> {
    scaled(&quantity.0, 1000)
}

/// Whole units, rounded up; `None` for text that is no quantity.
pub fn value(quantity: &Quantity) -> Option<i64> {
    scaled(&quantity.0, 1)
}

/// A quantity of bytes, printed the way upstream prints machine memory.
pub fn kibibytes(bytes: u64) -> Quantity {
    if bytes.is_multiple_of(1024) { Quantity(format!("{}Ki", bytes / 1024)) } else { Quantity(bytes.to_string()) }
}

fn scaled(text: &str, factor: i128) -> Option<i64> {
    let split = text.find(|c: char| !(c.is_ascii_digit() || c == '.' || c == '+' || c == '-')).unwrap_or(text.len());
    let (number, suffix) = text.split_at(split);
    let (numerator, denominator) = suffix_ratio(suffix)?;
    let (negative, digits) = match number.as_bytes().first()? {
        b'-' => (true, &number[1..]),
        b'+' => (false, &number[1..]),
        _ => (false, number),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    if whole.is_empty() && fraction.is_empty() || whole.len() > 19 || fraction.len() > 15 {
        return None;
    }
    let mantissa: i128 = format!("0{whole}{fraction}").parse().ok()?;
    let below = denominator.checked_mul(10i128.checked_pow(u32::try_from(fraction.len()).ok()?)?)?;
    let above = mantissa.checked_mul(numerator)?.checked_mul(factor)?;
    let rounded = above / below + i128::from(above % below != 0);
    i64::try_from(if negative { -rounded } else { rounded }).ok()
}

fn suffix_ratio(suffix: &str) -> Option<(i128, i128)> {
    Some(match suffix {
        "" => (1, 1),
        "n" => (1, 1_000_000_000),
        "u" => (1, 1_000_000),
        "m" => (1, 1000),
        "k" => (1000, 1),
        "M" => (1_000_000, 1),
        "G" => (1_000_000_000, 1),
        "T" => (1_000_000_000_000, 1),
        "P" => (1_000_000_000_000_000, 1),
        "E" => (1_000_000_000_000_000_000, 1),
        "Ki" => (1 << 10, 1),
        "Mi" => (1 << 20, 1),
        "Gi" => (1 << 30, 1),
        "Ti" => (1 << 40, 1),
        "Pi" => (1 << 50, 1),
        "Ei" => (1 << 60, 1),
        exponent => {
            let power: i32 = exponent.strip_prefix(['e', 'E'])?.parse().ok()?;
            if power.abs() > 18 {
                return None;
            }
            let ten = 10i128.pow(power.unsigned_abs());
            if power < 0 { (1, ten) } else { (ten, 1) }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_users_write() {
        let check = |text: &str, whole: Option<i64>, thousandths: Option<i64>| {
            let quantity = Quantity(text.to_owned());
            assert_eq!((value(&quantity), milli(&quantity)), (whole, thousandths), "{text}");
        };
        check("100m", Some(1), Some(100));
        check("1.5", Some(2), Some(1500));
        check("64Mi", Some(64 << 20), Some((64 << 20) * 1000));
        check("1e3", Some(1000), Some(1_000_000));
        check("0.5Gi", Some(1 << 29), Some((1 << 29) * 1000));
        check("12E", None, None);
        check("abc", None, None);
        check("", None, None);
        check(".", None, None);
    }
}
