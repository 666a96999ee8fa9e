//! The core group.
pub(crate) mod namespace;
pub(crate) mod pod;
pub(crate) mod pod_spec;
pub(crate) mod resource_list;
pub(crate) mod service;
