//! The revisioned key-value store under the API server, in etcd's model, and its backends.
//!
//! Read [`Storage`] first: one revision for each write, compare-and-swap by revision, range reads at a revision,
//! watch from a revision, leases, compaction. [`Embedded`] is the backend for a single control plane: a log with
//! group commit on disk and the whole index in memory, run by one writer thread. [`Etcd`] is the backend for several.
//!
//! This crate knows keys and bytes. It never knows what a kind, a namespace or an object is.

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

pub use embedded::{Embedded, OpenError, Options, Stats};
pub use error::Error;
pub use etcd::Etcd;
pub use prefix_map::PrefixMap;
pub use shared_leases::SharedLeases;
pub use store::{Progress, Storage, WatchStream};
pub use types::{
    DeleteOutcome, Event, Expect, KeyValue, LeaseId, RangeRequest, RangeResponse, Revision, WatchBatch,
    WriteOutcome, prefix_end,
};
