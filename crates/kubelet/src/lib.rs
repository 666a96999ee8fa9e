//! The node agent: pods made real through a CRI runtime.

pub mod server;
