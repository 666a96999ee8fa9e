//! The verbs, one file each.
pub mod backup;
pub mod certs;
pub mod db;
pub mod down;
pub mod hello;
pub mod init;
pub mod kubeconfig;
pub mod migrate;
pub mod on_host;
pub mod render;
pub mod restore;
pub mod secrets;
pub mod status;
pub mod store;
pub mod up;
pub mod up_hosts;
pub mod validate;
