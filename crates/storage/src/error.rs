//! Why an operation on the store failed.

use std::sync::Arc;

use crate::{LeaseId, Revision};

/// Why an operation on the store failed. A guard that did not hold is no error but an outcome.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The history that was asked for has been compacted away.
    #[error("revision {requested} has been compacted; the oldest one kept is {compacted}")]
    Compacted {
        /// The revision that was asked for.
        requested: Revision,
        /// The oldest revision that can be read.
        compacted: Revision,
    },
    /// The store has not reached the revision that was asked for.
    #[error("revision {requested} is in the future; the store is at {current}")]
    FutureRevision {
        /// The revision that was asked for.
        requested: Revision,
        /// The store's revision.
        current: Revision,
    },
    /// A watcher was too slow; it has to resume after the last revision it saw.
    #[error("the watcher was too slow; resume after the last revision seen")]
    Lagged,
    /// The disk is full. The write did not happen; writes work again when there is space.
    #[error("no space left on the device that holds the store")]
    NoSpace,
    /// A key is empty or longer than the store takes.
    #[error("a key of {len} bytes; keys have 1 to {limit} bytes")]
    KeySize {
        /// The key's length.
        len: usize,
        /// The longest key the store takes.
        limit: usize,
    },
    /// A value is larger than the store takes.
    #[error("request is too large: a value of {len} bytes, the limit is {limit}")]
    ValueTooLarge {
        /// The value's length.
        len: usize,
        /// The largest value the store takes.
        limit: usize,
    },
    /// There is no such lease, or it has expired.
    #[error("lease {0} does not exist or has expired")]
    LeaseNotFound(LeaseId),
    /// The store could not make a write durable and accepts no more, since it cannot know what reached the disk.
    #[error("the store accepts no more writes ({0}); restart the server once the disk is healthy")]
    Failed(Arc<str>),
    /// A value cannot be put into the form it is stored in, or read back from it: encryption at rest.
    #[error("unable to transform key {key:?}: {why}")]
    Transform {
        /// The key.
        key: Arc<str>,
        /// Why not.
        why: Arc<str>,
        /// Whether that may pass, as when a key server does not answer.
        retryable: bool,
    },
    /// The store could not be reached. Nothing was written.
    #[error("{0}")]
    Unreachable(Arc<str>),
    /// The connection broke, or the time was over, after a write was sent: it may have happened, or may happen yet.
    #[error("{0}; the write may have happened")]
    Indeterminate(Arc<str>),
    /// The store refused, for a reason that does not pass by itself.
    #[error("{0}")]
    Refused(Arc<str>),
    /// The store is being closed.
    #[error("the store is closed")]
    Closed,
}

impl Error {
    /// Whether the same call may succeed later without a change.
    pub fn retryable(&self) -> bool {
        matches!(
            self,
            Self::Lagged
                | Self::NoSpace
                | Self::FutureRevision { .. }
                | Self::Unreachable(_)
                | Self::Transform { retryable: true, .. }
        )
    }
}
