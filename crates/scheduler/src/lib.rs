//! The scheduler: gives every pod without a node the best one, or says why there is none.
//!
//! One task owns queue and snapshot: it takes in changes, then runs cycles, each pure ([`cycle`]). What it decides is
//! written by short tasks beside it ([`bind`]); meanwhile the pod counts as placed. Read [`run`] first, then
//! [`framework`]. It knows the cluster through the API alone, and decides nothing about what runs on a node.
pub mod bind;
pub mod cycle;
pub mod framework;
mod node;
mod plugins;
mod pod;
pub mod preemption;
mod profile;
mod queue;
mod resources;
mod scheduler;
mod snapshot;
#[cfg(test)]
mod testing;
mod volumes;

pub use node::NodeInfo;
pub use pod::PodInfo;
pub use profile::{PluginSet, Profile, ProfileError};
pub use queue::{Delays, SchedulingQueue};
pub use scheduler::{Config, Error, run};
pub use snapshot::Snapshot;
pub use volumes::{Steps, Volumes};
