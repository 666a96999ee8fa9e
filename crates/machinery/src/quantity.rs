//! Quantities: exact, canonical.
/// An exact resource quantity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Quantity;
