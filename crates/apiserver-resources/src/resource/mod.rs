//! The resource.k8s.io group.
pub(crate) mod claim;
mod claim_status;
mod device;
pub(crate) mod device_class;
mod parts;
pub(crate) mod slice;
