//! The one generic store: every verb on every kind goes through it.
//!
//! Read [`Store`] first (writes), then [`list`] and [`Registry`]. It combines a kind's strategy, admission, storage
//! and the watch cache in one documented order. It knows no concrete kind and no HTTP.
mod apply;
mod delete;
pub mod encode;
mod facts;
mod items;
pub mod list;
mod ownership;
mod registry;
mod request;
mod store;

pub use delete::{FOREGROUND, ORPHAN, preconditions, timestamp};
pub use registry::{Registry, RegistryBuilder};
pub use request::{DeleteOptions, Notes, Propagation, Warnings, Write};
pub use store::{Deleted, Hook, Shared, Store, Stored, prefix, storage_error, too_large_revision};
