//! The rbac.authorization.k8s.io group. Roles and cluster roles share their rules, and so do their bindings.
pub(crate) mod binding;
pub(crate) mod role;
