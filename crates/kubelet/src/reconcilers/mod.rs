//! The acts of the kubelet, one thing each: they make the node what a plan says, and report how it went.

pub mod cleanup;
pub mod container;
pub mod eviction;
pub mod hooks;
pub mod image;
pub mod image_gc;
pub mod log_rotation;
pub mod probe;
pub mod sandbox;
pub mod status;
pub mod volume;
