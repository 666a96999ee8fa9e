//! What `cargo xtask generate` writes.
pub mod kinds;
pub mod proto;
pub mod schema;
