//! Generated CRI v1 types and a thin client over a unix socket.
//!
//! First type to read: [`Cri`]. One place decides how the runtime is reached, how long a call may take and how large
//! an answer may be. What it is not: it knows nothing of pods as API objects, and it never retries.

/// The CRI v1 messages and clients, generated from `proto/api.proto`.
#[allow(missing_docs, clippy::all, unused_qualifications)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");
}

mod connection;

pub use connection::{Cri, Error, Events};
