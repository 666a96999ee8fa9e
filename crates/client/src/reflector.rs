//! Lists, then watches from the list's revision, for ever.
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ListMeta;
use kube::api::{ListParams, WatchEvent, WatchParams};
use kube::core::Request;
use kube::{Client, Error};
use rand::Rng as _;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::backoff::Backoff;
use crate::cache::Shared;
use crate::informers::{Select, Watched};
use crate::key::ObjectKey;

const PAGE: u32 = 500;
/// The server ends a watch after this; `GRACE` later we take the connection for dead.
const WATCH_SECONDS: u32 = 300;
const GRACE: Duration = Duration::from_secs(15);

pub(crate) struct Reflector<K: Watched> {
    client: Client,
    kind: String,
    request: Request,
    select: Select,
    shared: Arc<Shared<K>>,
}

#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    metadata: ListMeta,
    /// Raw, so that one broken object costs only itself.
    items: Option<Vec<Box<RawValue>>>,
}

/// Why a watch ended.
enum Ended {
    /// As it should; the revision holds.
    Quietly,
    /// The revision is too old: list again.
    Expired,
    Failed(Error),
}

impl<K: Watched> Reflector<K> {
    pub(crate) fn new(client: Client, kind: &K::DynamicType, select: Select, shared: Arc<Shared<K>>) -> Self {
        let request = Request::new(K::url_path(kind, select.namespace.as_deref()));
        Self { client, kind: K::plural(kind).into_owned(), request, select, shared }
    }

    pub(crate) async fn run(self) {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30));
        loop {
            let mut revision = match self.list().await {
                Ok(revision) => revision,
                Err(error) => {
                    let delay = backoff.fail();
                    tracing::warn!(kind = self.kind, error = %chain(&error), ?delay, "list failed");
                    tokio::time::sleep(delay).await;
                    continue;
                }
            };
            loop {
                let started = tokio::time::Instant::now();
                let ended = self.watch(&mut revision).await;
                if started.elapsed() > Duration::from_secs(1) {
                    backoff.reset();
                }
                match ended {
                    Ended::Quietly if started.elapsed() > Duration::from_secs(1) => continue,
                    Ended::Quietly => {}
                    Ended::Expired => {
                        tracing::debug!(kind = self.kind, revision, "revision expired, listing again");
                        break;
                    }
                    Ended::Failed(error) => {
                        tracing::debug!(kind = self.kind, error = %chain(&error), "watch failed");
                    }
                }
                tokio::time::sleep(backoff.fail()).await;
            }
            tokio::time::sleep(backoff.fail()).await;
        }
    }

    async fn list(&self) -> Result<String, Error> {
        let mut params = ListParams {
            label_selector: self.select.labels.clone(),
            field_selector: self.select.fields.clone(),
            limit: Some(PAGE),
            ..ListParams::default()
        };
        let mut objects = BTreeMap::new();
        loop {
            let request = if K::metadata_api() {
                self.request.list_metadata(&params)
            } else {
                self.request.list(&params)
            };
            let page = match self.client.request::<Page>(request.map_err(Error::BuildRequest)?).await {
                Ok(page) => page,
                // The page's revision was compacted while we were reading: take it all at once.
                Err(Error::Api(status)) if status.code == 410 && params.continue_token.is_some() => {
                    params.continue_token = None;
                    params.limit = None;
                    objects.clear();
                    continue;
                }
                Err(error) => return Err(error),
            };
            for raw in page.items.into_iter().flatten() {
                match serde_json::from_str::<K>(raw.get()) {
                    Ok(object) => {
                        objects.insert(ObjectKey::of(&object), self.slim(object));
                    }
                    Err(error) => {
                        tracing::warn!(kind = self.kind, %error, "object cannot be read, left out")
                    }
                }
            }
            match page.metadata.continue_.filter(|c| !c.is_empty()) {
                Some(token) => params.continue_token = Some(token),
                None => {
                    let revision = page.metadata.resource_version.unwrap_or_default();
                    self.shared.replace(objects, &revision);
                    return Ok(revision);
                }
            }
        }
    }

    fn slim(&self, mut object: K) -> Arc<K> {
        if !self.select.keep_managed_fields {
            object.meta_mut().managed_fields = None;
        }
        Arc::new(object)
    }

    async fn watch(&self, revision: &mut String) -> Ended {
        let seconds = WATCH_SECONDS - rand::rng().random_range(0..WATCH_SECONDS / 3);
        let params = WatchParams {
            label_selector: self.select.labels.clone(),
            field_selector: self.select.fields.clone(),
            // `kube` refuses 295 and above.
            timeout: Some(seconds.min(290)),
            bookmarks: true,
            ..WatchParams::default()
        };
        let deadline = Duration::from_secs(seconds.into()) + GRACE;
        match tokio::time::timeout(deadline, self.follow(&params, revision)).await {
            Ok(ended) => ended,
            Err(_) => Ended::Quietly,
        }
    }

    async fn follow(&self, params: &WatchParams, revision: &mut String) -> Ended {
        let request = if K::metadata_api() {
            self.request.watch_metadata(params, revision)
        } else {
            self.request.watch(params, revision)
        };
        let request = match request {
            Ok(request) => request,
            Err(error) => return Ended::Failed(Error::BuildRequest(error)),
        };
        let stream = match self.client.request_events::<K>(request).await {
            Ok(stream) => stream,
            Err(Error::Api(status)) if status.code == 410 => return Ended::Expired,
            Err(error) => return Ended::Failed(error),
        };
        let mut stream = std::pin::pin!(stream);
        loop {
            let event = match stream.try_next().await {
                Ok(Some(event)) => event,
                Ok(None) => return Ended::Quietly,
                Err(Error::SerdeError(error)) => {
                    tracing::warn!(kind = self.kind, %error, "event cannot be read, left out");
                    continue;
                }
                Err(error) => return Ended::Failed(error),
            };
            let (object, gone) = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
                WatchEvent::Deleted(object) => (object, true),
                WatchEvent::Bookmark(bookmark) => {
                    *revision = bookmark.metadata.resource_version;
                    self.shared.reached(revision);
                    continue;
                }
                WatchEvent::Error(status) if status.code == 410 => return Ended::Expired,
                WatchEvent::Error(status) => return Ended::Failed(Error::Api(status)),
            };
            if let Some(at) = &object.meta().resource_version {
                revision.clone_from(at);
            }
            let key = ObjectKey::of(&object);
            let new = (!gone).then(|| self.slim(object));
            self.shared.set(key, new, revision);
        }
    }
}

/// An error with its causes in one line.
pub(crate) fn chain(error: &Error) -> String {
    if let Error::Api(status) = error {
        return status.message.clone();
    }
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}
