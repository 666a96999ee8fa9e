//! The pod specification, which stand-alone pods and pod templates share.
mod container;
pub(crate) mod defaults;
mod env;
mod os;
mod probe;
mod projected;
pub(crate) mod remote_volume;
mod scheduling;
mod security;
pub(crate) mod validation;
pub(crate) mod volume;
pub(crate) mod warnings;

pub(crate) use container::validate_port_or_name;
pub(crate) use projected::validate_token_seconds;
pub(crate) use scheduling::validate_node_selector;

#[cfg(test)]
mod tests;
