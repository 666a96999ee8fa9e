//! The trait every backend implements.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt};

use crate::{
    DeleteOutcome, Error, Expect, KeyValue, LeaseId, LeaseInfo, RangeRequest, RangeResponse, Revision,
    WatchBatch, WriteOutcome,
};

/// A key-value store in etcd's model.
///
/// Reads see every write that was acknowledged before they began. A write is acknowledged once it is durable. When the
/// future of a write is dropped, the write may or may not happen, as when a connection breaks.
#[async_trait]
pub trait Storage: Send + Sync + 'static {
    /// Reads one key, now or at a revision; tells the store's present revision too.
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<(Option<KeyValue>, Revision), Error>;

    /// Reads a range of keys in order, all at one revision.
    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error>;

    /// Writes a key when the guard holds.
    ///
    /// A backend may keep `value` as it is: a slice of a larger buffer keeps all of the buffer.
    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
        lease: Option<LeaseId>,
    ) -> Result<WriteOutcome, Error>;

    /// Deletes a key when the guard holds.
    async fn delete(&self, key: &str, expect: Expect) -> Result<DeleteOutcome, Error>;

    /// Delivers every event of the keys with a prefix whose revision is above `after`: in order, none missing, none
    /// twice.
    ///
    /// Fails with [`Error::Compacted`] when `after` is below the oldest revision kept; the stream does so too when
    /// compaction overtakes a slow reader. [`Error::Lagged`] ends a stream whose reader was too slow.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, Error>;

    /// Makes a lease: keys put with it are deleted once `ttl` is over.
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error>;

    /// Ends a lease at once and deletes its keys.
    async fn revoke(&self, lease: LeaseId) -> Result<(), Error>;

    /// Tells how much time a lease has left. Only what copies a store needs it.
    async fn lease(&self, lease: LeaseId) -> Result<LeaseInfo, Error> {
        let _ = lease;
        Err(Error::Refused("this kind of store cannot look up leases".into()))
    }

    /// Forgets the history below a revision: what was deleted or overwritten by then.
    async fn compact(&self, at: Revision) -> Result<(), Error>;

    /// The revision of the last acknowledged write, by anyone.
    async fn now(&self) -> Result<Revision, Error>;

    /// Waits until the store has reached a revision.
    async fn wait_for(&self, revision: Revision) -> Result<(), Error>;

    /// Whether a write of the value that a key has would store other bytes, as after a change of the keys that values
    /// are encrypted with. Fails when the stored value cannot be read.
    async fn is_stale(&self, _key: &str) -> Result<bool, Error> {
        Ok(false)
    }
}

/// Asks a running watch how far it has come.
pub trait Progress: Send + Sync + 'static {
    /// Makes the watch deliver a batch (without events if there are none) whose revision is at least every revision
    /// that the store has told anyone in this process before.
    fn request(&self);
}

/// The events of a watch; ends after an error.
pub struct WatchStream {
    batches: BoxStream<'static, Result<WatchBatch, Error>>,
    progress: Arc<dyn Progress>,
}

impl WatchStream {
    /// Wraps what a backend delivers.
    pub fn new(batches: BoxStream<'static, Result<WatchBatch, Error>>, progress: Arc<dyn Progress>) -> Self {
        Self { batches, progress }
    }

    /// A handle for asking how far the watch has come.
    pub fn progress(&self) -> Arc<dyn Progress> {
        self.progress.clone()
    }

    /// Waits for the next batch; `None` after the end.
    pub async fn next_batch(&mut self) -> Option<Result<WatchBatch, Error>> {
        self.batches.next().await
    }
}

impl Stream for WatchStream {
    type Item = Result<WatchBatch, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.batches.poll_next_unpin(cx)
    }
}
