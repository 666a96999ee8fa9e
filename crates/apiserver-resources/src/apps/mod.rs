//! The apps group.
pub(crate) mod deployment;
pub(crate) mod replica_set;
