//! The certificates.k8s.io group.
pub(crate) mod beta;
pub(crate) mod signing_request;
