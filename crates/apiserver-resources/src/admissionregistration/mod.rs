//! The admissionregistration.k8s.io group.
pub(crate) mod admission_policy;
mod expressions;
mod rule;
pub(crate) mod webhook_configuration;
