//! The admissionregistration.k8s.io group.
pub(crate) mod admission_policy;
pub(crate) mod webhook_configuration;
