//! What is changed or refused on the way in: one file a plugin.
//!
//! Read [`Plugin`] and [`Attributes`] first; [`Chain`] runs plugins in upstream's order. Plugins see the cluster only
//! through [`ClusterView`]; they never write.
mod attributes;
mod chain;
mod cluster;

pub use attributes::{Attributes, Operation};
pub use chain::{Chain, Plugin};
pub use cluster::{ClusterView, Resource};
