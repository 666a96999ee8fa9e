//! Resources and subresources that are not simply stored. One file each.
mod binding;
mod component_status;
mod eviction;
mod kubelet;
mod review;
mod scale;
mod token;

pub use binding::Binding;
pub use component_status::{Component, ComponentStatuses};
pub use eviction::Eviction;
pub use kubelet::{KubeletAccess, NodeProxy, PodLog, PodStream, StreamKind};
pub use review::Review;
pub use scale::Scale;
pub use token::ServiceAccountToken;
