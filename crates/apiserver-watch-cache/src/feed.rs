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
            Ok(Listed { snapshot, unreadable }) => {
                let revision = snapshot.revision;
                if loaded {
                    let old = inner.state().objects.clone();
                    let mut changes = diff(&old, &snapshot.objects, revision);
                    changes.extend(unreadable.into_iter().map(|(key, at)| Change::Unreadable(key, at)));
                    inner.replace(changes, revision);
                } else {
                    debug!(prefix = %inner.prefix, %revision, objects = snapshot.objects.len(), "watch cache filled");
                    inner.load(snapshot, unreadable);
                    loaded = true;
                }
                match follow(&inner, revision).await {
                    Stopped::Asked => {
                        debug!(prefix = %inner.prefix, "asked to list again");
                        pause = PAUSE;
                        continue;
                    }
                    Stopped::Broken(storage::Error::Closed) => return inner.end(Error::Closed),
                    Stopped::Broken(error @ storage::Error::Compacted { .. }) => {
                        warn!(prefix = %inner.prefix, %error, "fell behind the storage; listing again");
                        pause = PAUSE;
                        continue;
                    }
                    Stopped::Broken(error) => {
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

/// Everything under the prefix at one revision, and the keys of what nobody can read.
struct Listed {
    snapshot: Snapshot,
    unreadable: Vec<(Arc<str>, Revision)>,
}

/// Why a watch is followed no more.
enum Stopped {
    /// Somebody wants all to be read again.
    Asked,
    /// The storage said so.
    Broken(storage::Error),
}

/// Reads everything under the prefix, all at one revision.
async fn list(inner: &Inner) -> Result<Listed, storage::Error> {
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
        let (objects, unreadable) = decode_all(inner, &kvs).await;
        return Ok(Listed { snapshot: Snapshot { revision, objects }, unreadable });
    }
}

type Decoded = (OrderedMap<Arc<CachedObject>>, Vec<(Arc<str>, Revision)>);

/// Decodes keys in order; tells which cannot be decoded.
pub(crate) async fn decode_all(inner: &Inner, kvs: &[KeyValue]) -> Decoded {
    let (mut objects, mut unreadable) = (Vec::with_capacity(kvs.len()), Vec::new());
    for some in kvs.chunks(DECODE) {
        for kv in some {
            match decode(inner, kv) {
                Some(object) => objects.push(object),
                None => unreadable.push((kv.key.clone(), kv.mod_revision)),
            }
        }
        tokio::task::yield_now().await;
    }
    (OrderedMap::from_sorted(objects), unreadable)
}

fn decode(inner: &Inner, kv: &KeyValue) -> Option<Arc<CachedObject>> {
    match CachedObject::decode(kv, &*inner.decoder) {
        Ok(object) => Some(Arc::new(object)),
        Err(error) => {
            error!(key = %kv.key, revision = %kv.mod_revision, %error, "a stored object cannot be decoded; lists that it belongs to fail");
            None
        }
    }
}

/// Takes events in until there is nothing to go on from.
async fn follow(inner: &Inner, mut revision: Revision) -> Stopped {
    loop {
        let mut watch = match inner.storage.watch(&inner.prefix, revision).await {
            Ok(watch) => watch,
            Err(error) => return Stopped::Broken(error),
        };
        inner.set_progress(watch.progress());
        let error = loop {
            let next = tokio::select! {
                next = watch.next_batch() => next,
                () = inner.again.notified() => return Stopped::Asked,
            };
            match next {
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
            error => return Stopped::Broken(error),
        }
    }
}

fn changes(inner: &Inner, batch: &WatchBatch) -> Vec<Change> {
    batch
        .events
        .iter()
        .map(|event| match &event.kv {
            None => Change::Gone(event.key.clone(), event.revision),
            // Of an object that can no longer be decoded, an older state must not be served either.
            Some(kv) => decode(inner, kv)
                .map_or_else(|| Change::Unreadable(event.key.clone(), event.revision), Change::Put),
        })
        .collect()
}
