//! What an object takes of a ResourceQuota, and which quotas count it: for who charges quotas before an object is made,
//! and for who counts again what is there. Read [`usage`] first, then [`Counted`].
//!
//! Pure rules over trees. It reads no cluster, writes no status, and refuses nothing. Upstream: pkg/quota/v1, 1.36.
mod amounts;
mod counted;
mod scopes;
mod usage;

pub use amounts::{Amounts, add, amounts, pod_amounts, quantity};
pub use counted::Counted;
pub use scopes::{Scope, is_best_effort};
pub use usage::{is_terminating, unspecified, usage};
