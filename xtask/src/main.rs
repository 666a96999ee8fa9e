//! Checks and code generation for this workspace.
fn main() {}
