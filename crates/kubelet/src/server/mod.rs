//! The kubelet's HTTP server.

pub mod attach;
pub mod exec;
pub mod port_forward;
pub mod run;
pub mod runtime_streaming;
