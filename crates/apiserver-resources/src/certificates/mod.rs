//! The certificates.k8s.io group.
pub(crate) mod signing_request;
