//! A storage whose values are sealed below and plain above.
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt as _;
use machinery::gvk::GroupResource;
use storage::{
    DeleteOutcome, Error, Event, Expect, KeyValue, LeaseId, LeaseInfo, RangeRequest, RangeResponse, Revision,
    Storage, WatchBatch, WatchStream, WriteOutcome,
};

use crate::provider::{Opened, TransformError};
use crate::transformers::{Resources, Transformers};

/// Values opened before other tasks get their turn.
const TURN: usize = 128;

/// What is exchanged when the configuration changes.
#[derive(Default)]
pub(crate) struct Active(RwLock<Arc<Transformers>>);

impl Active {
    pub(crate) fn get(&self) -> Arc<Transformers> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, next: Transformers) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(next);
    }
}

/// A storage whose values are sealed below and plain above.
///
/// A single value that cannot be opened is an error for who reads it alone. In a range or a watch it is passed on as
/// it is stored, which no reader takes for an object: who reads it decides what becomes of the others. Where a key server
/// does not answer, ranges and watches fail instead, and the reader tries again.
#[derive(Clone)]
pub struct Encrypted(Arc<Parts>);

struct Parts {
    inner: Arc<dyn Storage>,
    resources: Arc<Resources>,
    active: Arc<Active>,
}

fn error(key: &str, e: TransformError) -> Error {
    let retryable = matches!(e, TransformError::Unavailable(_));
    Error::Transform { key: key.into(), why: e.to_string().into(), retryable }
}

impl Encrypted {
    pub(crate) fn new(inner: Arc<dyn Storage>, resources: Arc<Resources>, active: Arc<Active>) -> Self {
        Self(Arc::new(Parts { inner, resources, active }))
    }

    fn seal(&self, key: &str, value: &Bytes) -> Result<Bytes, Error> {
        let Some(resource) = self.0.resources.of(key) else { return Ok(value.clone()) };
        match self.0.active.get().seal(&resource, key, value) {
            Ok(Some(sealed)) => Ok(sealed.into()),
            Ok(None) => Ok(value.clone()),
            Err(e) => Err(error(key, e)),
        }
    }

    /// Opens the value of one key; says whether it is stale.
    async fn open(&self, kv: &mut KeyValue) -> Result<bool, Error> {
        let Some(resource) = self.0.resources.of(&kv.key) else { return Ok(false) };
        self.open_as(&resource, kv).await
    }

    async fn open_as(&self, resource: &GroupResource, kv: &mut KeyValue) -> Result<bool, Error> {
        let active = self.0.active.get();
        let Opened { value, stale } =
            active.open(resource, &kv.key, &kv.value).await.map_err(|e| error(&kv.key, e))?;
        if let Some(value) = value {
            kv.value = value.into();
        }
        Ok(stale)
    }

    /// Opens one of many values: what cannot be opened stays as it is.
    async fn open_one_of_many(&self, resource: &GroupResource, kv: &mut KeyValue) -> Result<(), Error> {
        match self.open_as(resource, kv).await {
            Err(error) if !error.retryable() => {
                tracing::error!(key = &*kv.key, revision = %kv.mod_revision, %error, "a stored value cannot be opened");
                Ok(())
            }
            result => result.map(drop),
        }
    }

    /// The resource of all keys with a prefix; `None` also where nothing is done to them.
    fn sealed_resource(&self, prefix: &str) -> Option<GroupResource> {
        self.0.resources.of(prefix)
    }

    async fn batch(&self, resource: &GroupResource, batch: WatchBatch) -> Result<WatchBatch, Error> {
        let mut events = Vec::with_capacity(batch.events.len());
        for event in &batch.events {
            let mut open = Event::clone(event);
            if let Some(kv) = &mut open.kv {
                self.open_one_of_many(resource, kv).await?;
            }
            if let Some(kv) = &mut open.prev_kv {
                // Its key may be gone from the configuration by now, and nobody reads it then.
                match self.open_as(resource, kv).await {
                    Err(e) if e.retryable() => return Err(e),
                    _ => {}
                }
            }
            events.push(Arc::new(open));
        }
        Ok(WatchBatch { events, revision: batch.revision })
    }

    async fn current(&self, current: Option<KeyValue>) -> Option<KeyValue> {
        let mut kv = current?;
        // Who reads it next is told what is wrong with it.
        let _ = self.open(&mut kv).await;
        Some(kv)
    }
}

#[async_trait]
impl Storage for Encrypted {
    async fn get(&self, key: &str, at: Option<Revision>) -> Result<(Option<KeyValue>, Revision), Error> {
        let (mut found, revision) = self.0.inner.get(key, at).await?;
        if let Some(kv) = &mut found {
            self.open(kv).await?;
        }
        Ok((found, revision))
    }

    async fn range(&self, request: RangeRequest) -> Result<RangeResponse, Error> {
        let mut response = self.0.inner.range(request).await?;
        for (at, kv) in response.kvs.iter_mut().enumerate() {
            let Some(resource) = self.sealed_resource(&kv.key) else { continue };
            self.open_one_of_many(&resource, kv).await?;
            if at % TURN == TURN - 1 {
                tokio::task::yield_now().await;
            }
        }
        Ok(response)
    }

    async fn put(
        &self,
        key: &str,
        value: Bytes,
        expect: Expect,
        lease: Option<LeaseId>,
    ) -> Result<WriteOutcome, Error> {
        let sealed = self.seal(key, &value)?;
        Ok(match self.0.inner.put(key, sealed, expect, lease).await? {
            WriteOutcome::Done(kv) => WriteOutcome::Done(KeyValue { value, ..kv }),
            WriteOutcome::Mismatch { current, revision } => {
                WriteOutcome::Mismatch { current: self.current(current).await, revision }
            }
        })
    }

    async fn delete(&self, key: &str, expect: Expect) -> Result<DeleteOutcome, Error> {
        Ok(match self.0.inner.delete(key, expect).await? {
            DeleteOutcome::Deleted { mut prev, revision } => {
                // It is gone already; whether it could be opened changes nothing.
                let _ = self.open(&mut prev).await;
                DeleteOutcome::Deleted { prev, revision }
            }
            DeleteOutcome::Mismatch { current, revision } => {
                DeleteOutcome::Mismatch { current: self.current(current).await, revision }
            }
        })
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<WatchStream, Error> {
        let watch = self.0.inner.watch(prefix, after).await?;
        let Some(resource) = self.sealed_resource(prefix) else { return Ok(watch) };
        let progress = watch.progress();
        let opening = (self.clone(), Arc::new(resource));
        let batches = watch.then(move |batch| {
            let (this, resource) = opening.clone();
            async move {
                match batch {
                    // Nothing is configured for most resources, and then not a byte is touched.
                    Ok(batch) if this.0.active.get().of(&resource).is_some() => {
                        this.batch(&resource, batch).await
                    }
                    other => other,
                }
            }
        });
        Ok(WatchStream::new(batches.boxed(), progress))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.0.inner.grant(ttl).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.0.inner.revoke(lease).await
    }

    async fn lease(&self, lease: LeaseId) -> Result<LeaseInfo, Error> {
        self.0.inner.lease(lease).await
    }

    async fn compact(&self, at: Revision) -> Result<(), Error> {
        self.0.inner.compact(at).await
    }

    async fn now(&self) -> Result<Revision, Error> {
        self.0.inner.now().await
    }

    async fn wait_for(&self, revision: Revision) -> Result<(), Error> {
        self.0.inner.wait_for(revision).await
    }

    async fn is_stale(&self, key: &str) -> Result<bool, Error> {
        let (found, _) = self.0.inner.get(key, None).await?;
        match found {
            Some(mut kv) => self.open(&mut kv).await,
            None => Ok(false),
        }
    }
}
