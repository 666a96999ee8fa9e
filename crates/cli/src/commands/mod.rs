//! The verbs, one file each.
pub mod down;
pub mod hello;
pub mod kubeconfig;
pub mod secrets;
pub mod status;
pub mod up;
