//! The pod specification, which stand-alone pods and pod templates share.
pub(crate) mod defaults;
