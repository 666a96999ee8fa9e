//! The task that keeps a cache up to date: list, then watch; list again only when the storage has forgotten the rest.

use std::sync::Arc;
use std::time::Duration;

use storage::{KeyValue, RangeRequest, Revision, WatchBatch};
use tracing::{debug, error, warn};

use crate::CachedObject;
use crate::cache::{Error, Inner, Snapshot};
use crate::diff::{Change, diff};
use crate::map::OrderedMap;

/// Keys of one page of a list.
const PAGE: usize = 10_000;
/// Objects decoded before other tasks get their turn.
const DECODE: usize = 128;
/// The first pause after a failure; it doubles up to [`PAUSE_LIMIT`].
const PAUSE: Duration = Duration::from_millis(50);
const PAUSE_LIMIT: Duration = Duration::from_secs(5);

/// Feeds a cache until the storage is closed.
pub(crate) async fn run(inner: Arc<Inner>) {
    let mut pause = PAUSE;
    let mut loaded = false;
    loop {
        match list(&inner).await {
            Ok(snapshot) => {
                let revision = snapshot.revision;
                if loaded {
                    let old = inner.state().objects.clone();
                    inner.replace(diff(&old, &snapshot.objects, revision), revision);
                } else {
                    debug!(prefix = %inner.prefix, %revision, objects = snapshot.objects.len(), "watch cache filled");
                    inner.load(snapshot);
                    loaded = true;
                }
                match follow(&inner, revision).await {
                    storage::Error::Closed => return inner.end(Error::Closed),
                    error @ storage::Error::Compacted { .. } => {
                        warn!(prefix = %inner.prefix, %error, "fell behind the storage; listing again");
                        pause = PAUSE;
                        continue;
                    }
                    error => {
                        warn!(prefix = %inner.prefix, %error, "watch of the storage broke; listing again")
                    }
                }
            }
            Err(storage::Error::Closed) => return inner.end(Error::Closed),
            Err(error) => warn!(prefix = %inner.prefix, %error, "cannot list the storage; trying again"),
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_LIMIT);
    }
}

/// Reads everything under the prefix, all at one revision.
async fn list(inner: &Inner) -> Result<Snapshot, storage::Error> {
    let mut request = RangeRequest::prefix(&inner.prefix).limit(PAGE);
    let mut kvs = Vec::new();
    loop {
        let response = inner.storage.range(request.clone()).await?;
        kvs.extend(response.kvs);
        let revision = request.at.unwrap_or(response.revision);
        if let (true, Some(last)) = (response.more, kvs.last()) {
            request = request.after(&last.key).at(revision);
            continue;
        }
        return Ok(Snapshot { revision, objects: decode_all(inner, &kvs).await });
    }
}

/// Decodes keys in order; what cannot be decoded is left out.
pub(crate) async fn decode_all(inner: &Inner, kvs: &[KeyValue]) -> OrderedMap<Arc<CachedObject>> {
    let mut objects = Vec::with_capacity(kvs.len());
    for some in kvs.chunks(DECODE) {
        objects.extend(some.iter().filter_map(|kv| decode(inner, kv)));
        tokio::task::yield_now().await;
    }
    OrderedMap::from_sorted(objects)
}

fn decode(inner: &Inner, kv: &KeyValue) -> Option<Arc<CachedObject>> {
    match CachedObject::decode(kv, &*inner.decoder) {
        Ok(object) => Some(Arc::new(object)),
        Err(error) => {
            error!(key = %kv.key, revision = %kv.mod_revision, %error, "a stored object cannot be decoded; it is not served");
            None
        }
    }
}

/// Takes events in until there is nothing to go on from.
async fn follow(inner: &Inner, mut revision: Revision) -> storage::Error {
    loop {
        let mut watch = match inner.storage.watch(&inner.prefix, revision).await {
            Ok(watch) => watch,
            Err(error) => return error,
        };
        inner.set_progress(watch.progress());
        let error = loop {
            match watch.next_batch().await {
                Some(Ok(batch)) => {
                    revision = revision.max(batch.revision);
                    let changes = changes(inner, &batch);
                    inner.apply(changes, batch.revision);
                }
                Some(Err(error)) => break error,
                None => break storage::Error::Lagged,
            }
        };
        match error {
            storage::Error::Lagged => {
                debug!(prefix = %inner.prefix, %revision, "watch of the storage resumes")
            }
            error => return error,
        }
    }
}

fn changes(inner: &Inner, batch: &WatchBatch) -> Vec<Change> {
    batch
        .events
        .iter()
        .map(|event| {
            let object = event.kv.as_ref().and_then(|kv| decode(inner, kv));
            // Of an object that can no longer be decoded, an older state must not be served either.
            object.map_or_else(|| Change::Gone(event.key.clone(), event.revision), Change::Put)
        })
        .collect()
}
