//! The flowcontrol.apiserver.k8s.io group.
pub(crate) mod flow_schema;
pub(crate) mod mandatory;
pub(crate) mod priority_level;
