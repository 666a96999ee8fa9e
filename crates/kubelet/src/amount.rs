//! Quantities as the whole numbers that cgroups and the downward API want.

use k8s_openapi::apimachinery::pkg::api::resource::Quantity;

/// Thousandths, rounded up; `None` for text that is no quantity.
pub fn milli(quantity: &Quantity) -> Option<i64> {
    quantity.0.parse::<machinery::Quantity>().ok().map(|amount| amount.milli_value())
}

/// Whole units, rounded up; `None` for text that is no quantity.
pub fn value(quantity: &Quantity) -> Option<i64> {
    quantity.0.parse::<machinery::Quantity>().ok().map(|amount| amount.value())
}

/// A quantity of bytes, printed the way upstream prints machine memory.
pub fn kibibytes(bytes: u64) -> Quantity {
    Quantity(format!("{}Ki", bytes / 1024))
}
