//! The revisioned key-value store under the API server, in etcd's model, and its backends.
//!
//! Read [`Storage`] first: one revision for each write, compare-and-swap by revision, range reads at a revision,
//! watch from a revision, leases, compaction. [`Embedded`] is the backend for a single control plane: a log with
//! group commit on disk and the whole index in memory, run by one writer thread. [`Etcd`] is the backend for several.
//!
//! [`Image`] is all keys of a store at one revision: what backups, restores, checks and [`copy`] between backends
//! work on.
//!
//! This crate knows keys and bytes. It never knows what a kind, a namespace or an object is.

pub mod copy;
pub mod embedded;
mod error;
pub mod etcd;
mod prefix_map;
#[cfg(feature = "test-suite")]
pub mod real_etcd;
mod shared_leases;
mod store;
#[cfg(feature = "test-suite")]
pub mod suite;
mod types;

pub use embedded::{Embedded, Image, OpenError, Options, Restored, Stats, Survey};
pub use error::Error;
pub use etcd::Etcd;
pub use prefix_map::PrefixMap;
pub use shared_leases::SharedLeases;
pub use store::{Progress, Storage, WatchStream};
pub use types::{
    DeleteOutcome, Event, Expect, KeyValue, LeaseId, LeaseInfo, RangeRequest, RangeResponse, Revision,
    WatchBatch, WriteOutcome, prefix_end,
};
