//! Whole API servers. Over real etcd: several of them agree, and nothing changes when the store is another one. Alone: who
//! may do what on every route; quotas under many clients of two servers.

mod agreement;
mod consistency;
mod killed;
mod matrix;
mod quota;
mod servers;
mod swap;
mod values;
