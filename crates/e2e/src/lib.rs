//! Brings a cluster up with the real binary and drives it with the real `kubectl`.
//!
//! Read [`Cluster`] first. Nothing here sleeps until it probably works: [`eventually`] asks until a deadline.
mod cluster;
mod kubectl;
mod leftovers;

pub use cluster::{Cluster, free_port};
pub use kubectl::{Answer, Kubectl, eventually, run};
pub use leftovers::Leftovers;
