//! The apiextensions.k8s.io group.
mod conversion;
pub(crate) mod custom_resource_definition;
mod schema;
mod value;
mod version;
