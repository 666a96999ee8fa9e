//! The node.k8s.io group.
pub(crate) mod runtime_class;
