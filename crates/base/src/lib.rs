//! What every part needs and Kubernetes does not name: error chains, supervised tasks, a bounded map, telemetry.
//!
//! Read [`supervise`] first. Nothing here knows an object, a kind or an API.
mod chain;
mod lru;
#[cfg(any(test, feature = "test-suite"))]
pub mod ports;
mod supervise;
pub mod telemetry;

pub use chain::Chain;
pub use lru::Lru;
pub use supervise::{State, Supervised, supervise};
