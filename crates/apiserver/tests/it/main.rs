//! Whole API servers over real etcd: several of them agree, and nothing changes when the store is another one.

mod agreement;
mod consistency;
mod servers;
mod swap;
mod values;
