//! What is changed or refused on the way in: one file a plugin.
//!
//! Read [`Plugin`] and [`Attributes`] first; [`Chain`] runs plugins in upstream's order. Plugins see the cluster only
//! through [`ClusterView`]; they never write.
mod always_pull_images;
mod attributes;
mod chain;
pub mod cluster;
mod default_chain;
mod default_toleration_seconds;
mod in_use_protection;
mod namespace_lifecycle;
pub mod pod_refs;
pub mod priority;
mod service_account;
mod taint_nodes;
#[cfg(test)]
mod testing;

pub use attributes::{Attributes, Operation};
pub use always_pull_images::AlwaysPullImages;
pub use chain::{Chain, Plugin};
pub use cluster::{ClusterView, Resource};
pub use default_chain::default_chain;
pub use default_toleration_seconds::DefaultTolerationSeconds;
pub use in_use_protection::StorageObjectInUseProtection;
pub use namespace_lifecycle::NamespaceLifecycle;
pub use priority::Priority;
pub use service_account::ServiceAccount;
pub use taint_nodes::TaintNodesByCondition;
