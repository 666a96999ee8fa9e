//! The policy group.
pub(crate) mod disruption_budget;
