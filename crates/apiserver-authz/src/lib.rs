//! What one may: RBAC, Node, AlwaysAllow, AlwaysDeny; and the bootstrap policy.
