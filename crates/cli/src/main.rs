//! The cox binary.
fn main() {}
