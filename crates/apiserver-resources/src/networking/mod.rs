//! The networking.k8s.io group.
pub(crate) mod address;
pub(crate) mod ingress;
pub(crate) mod network_policy;
