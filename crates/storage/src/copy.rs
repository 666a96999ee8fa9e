//! Moves all keys from one store to another, of any kind: [`read`] what one holds, [`write()`] it to another.
//!
//! Values are moved as they are, so what is encrypted stays so. A store of another kind gives revisions of its own:
//! what is kept is their order, the order in which objects were last changed. Its revision is raised to that of the
//! old one, so that clients that knew the old one never see it go back.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};

use crate::{
    DeleteOutcome, Error, Expect, Image, KeyValue, LeaseId, RangeRequest, Revision, Storage, WriteOutcome,
};

/// Keys read at a time.
const PAGE: usize = 500;
/// Writes under way at a time where their order does not matter.
const WIDTH: usize = 64;
/// Where a cluster's keys are: an etcd may hold others, which are none of ours.
const SCOPE: &str = "/registry/";
/// Written and deleted again to make revisions. No resource has keys of this form.
const RAISED: &str = "/registry/cox.raised";
/// The shortest lease a store takes.
const SHORTEST: Duration = Duration::from_secs(1);

/// Why a copy was not made.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The target has keys already.
    #[error("the target holds {keys} keys already, {example} for example; nothing was written")]
    NotEmpty {
        /// How many.
        keys: u64,
        /// One of them.
        example: Arc<str>,
    },
    /// The target's revision would have to be raised by more than is sensible.
    #[error(
        "the target is at revision {target} and clients know {source_revision}: raising it takes {gap} writes, the \
         limit is {limit}; nothing was written"
    )]
    TooFar {
        /// Where the target is.
        target: Revision,
        /// Where the source is.
        source_revision: Revision,
        /// The writes it takes.
        gap: u64,
        /// The writes that are allowed.
        limit: u64,
    },
    /// Somebody else writes to the target.
    #[error("somebody else writes to the target ({0} changed); stop all API servers and begin again")]
    Busy(Arc<str>),
    /// A store refused.
    #[error(transparent)]
    Store(#[from] Error),
}

/// How to write.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Whether keys that are there are replaced, and removed where the image has none; else they are an error.
    pub replace: bool,
    /// By how many writes the target's revision may be raised to that of the image; `None`: it is left below.
    pub raise: Option<u64>,
    /// The highest revision that clients may know, where it is above that of the image.
    pub above: Revision,
}

/// What was written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Keys written.
    pub keys: u64,
    /// Keys removed that the image does not have.
    pub removed: u64,
    /// Leases made.
    pub leases: u64,
    /// Writes made only to raise the revision.
    pub raised: u64,
    /// The target's revision at the end.
    pub revision: Revision,
}

/// Reads all keys of a cluster, as they are at one revision; `seen` is told their number so far.
pub async fn read(from: &dyn Storage, seen: &mut (dyn FnMut(u64) + Send)) -> Result<Image, Error> {
    let mut kvs: Vec<KeyValue> = Vec::new();
    let mut request = RangeRequest::prefix(SCOPE).limit(PAGE);
    let revision = loop {
        let page = from.range(request.clone()).await?;
        let at = request.at.unwrap_or(page.revision);
        kvs.extend(page.kvs);
        seen(kvs.len() as u64);
        match kvs.last() {
            Some(last) if page.more => {
                request = request.after(&last.key).at(at);
            }
            _ => break at,
        }
    };
    kvs.retain(|kv| &*kv.key != RAISED);
    let named: BTreeSet<LeaseId> = kvs.iter().filter_map(|kv| kv.lease).collect();
    let mut leases = Vec::new();
    for id in named {
        match from.lease(id).await {
            Ok(lease) => leases.push(lease),
            // It has ended since the keys were read, and they with it.
            Err(Error::LeaseNotFound(_)) => kvs.retain(|kv| kv.lease != Some(id)),
            Err(error) => return Err(error),
        }
    }
    leases.sort_by_key(|lease| lease.left);
    Ok(Image::of(revision, kvs, leases))
}

/// Writes all keys of an image in the order of their last change; `done` is told the number of writes so far.
pub async fn write(
    image: &Image,
    to: &Arc<dyn Storage>,
    plan: Plan,
    done: &mut (dyn FnMut(u64) + Send),
) -> Result<Written, CopyError> {
    let mut written = Written::default();
    let present = present(&**to).await?;
    if let Some(example) = present.first().filter(|_| !plan.replace) {
        return Err(CopyError::NotEmpty { keys: present.len() as u64, example: example.clone() });
    }
    let target = to.now().await?;
    let mut kvs: Vec<KeyValue> = image.prefix("").collect();
    kvs.sort_by_key(|kv| kv.mod_revision);
    let known = image.revision().max(plan.above);
    let gap = known.0.saturating_sub(target.0);
    if let Some(limit) = plan.raise.filter(|limit| gap > limit.saturating_add(kvs.len() as u64)) {
        return Err(CopyError::TooFar { target, source_revision: known, gap, limit });
    }
    for key in present.iter().filter(|key| image.get(key).is_none()) {
        match to.delete(key, Expect::Any).await? {
            DeleteOutcome::Deleted { .. } | DeleteOutcome::Mismatch { current: None, .. } => {
                written.removed += 1
            }
            DeleteOutcome::Mismatch { .. } => return Err(CopyError::Busy(key.clone())),
        }
    }
    let mut leases: HashMap<LeaseId, LeaseId> = HashMap::new();
    for lease in image.leases() {
        leases.insert(lease.id, to.grant(lease.left.max(SHORTEST)).await?);
        written.leases += 1;
    }
    let expect = if plan.replace { Expect::Any } else { Expect::Absent };
    for kv in &kvs {
        let lease = kv.lease.and_then(|id| leases.get(&id)).copied();
        match to.put(&kv.key, kv.value.clone(), expect, lease).await? {
            WriteOutcome::Done(_) => written.keys += 1,
            WriteOutcome::Mismatch { .. } => return Err(CopyError::Busy(kv.key.clone())),
        }
        done(written.keys);
    }
    if plan.raise.is_some() {
        written.raised = raise(to, known, written.keys, done).await?;
    }
    written.revision = to.now().await?;
    Ok(written)
}

/// The keys that are there.
async fn present(of: &dyn Storage) -> Result<Vec<Arc<str>>, Error> {
    let mut keys: Vec<Arc<str>> = Vec::new();
    let mut request = RangeRequest::prefix(SCOPE).limit(PAGE);
    loop {
        let page = of.range(request.clone()).await?;
        let last = page.kvs.last().map(|kv| kv.key.clone());
        keys.extend(page.kvs.into_iter().map(|kv| kv.key));
        let at = request.at.unwrap_or(page.revision);
        match last {
            Some(last) if page.more => {
                request = request.after(&last).at(at);
            }
            _ => break,
        }
    }
    keys.retain(|key| &**key != RAISED);
    Ok(keys)
}

/// Makes writes that change nothing until the store has reached a revision, then gives up its history: who watched from
/// before is told to list anew. Says how many writes; `done` is told their number so far and `before`.
pub async fn raise(
    store: &Arc<dyn Storage>,
    to: Revision,
    before: u64,
    done: &mut (dyn FnMut(u64) + Send),
) -> Result<u64, Error> {
    let gap = to.0.saturating_sub(store.now().await?.0);
    if gap == 0 {
        return Ok(0);
    }
    let write = |_| async { store.put(RAISED, Bytes::new(), Expect::Any, None).await };
    let mut writes = futures::stream::iter(0..gap).map(write).buffer_unordered(WIDTH);
    let mut count = 0;
    while writes.try_next().await?.is_some() {
        count += 1;
        done(before + count);
    }
    drop(writes);
    store.delete(RAISED, Expect::Any).await?;
    // What they left behind is history that nobody wants.
    store.compact(store.now().await?).await?;
    Ok(count)
}
