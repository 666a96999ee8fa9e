//! What every part needs and Kubernetes does not name: error chains, supervised tasks, telemetry.
//!
//! Read [`supervise`] first. Nothing here knows an object, a kind or an API.
mod chain;
#[cfg(any(test, feature = "test-suite"))]
pub mod ports;
mod supervise;
pub mod telemetry;

pub use chain::Chain;
pub use supervise::{State, Supervised, supervise};
