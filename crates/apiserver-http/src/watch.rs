//! Watch: events of the cache as a stream of frames. Upstream: apiserver/pkg/endpoints/handlers/watch.go and
//! apiserver/pkg/storage/cacher/cache_watcher.go, 1.36.
use std::sync::Arc;
use std::time::Duration;

use apiserver_registry::list::{Match, Selection};
use apiserver_registry::{Store, encode, too_large_revision};
use apiserver_watch_cache::{CacheEvent, CachedObject, EventKind, Start, Watched, Watcher};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use machinery::{FieldError, FieldPath, StatusError, StatusResult};
use rand::Rng as _;
use serde_json::{Value, json};
use storage::Revision;
use tokio::time::Instant;

use crate::body::{Body, BoxError};
use crate::context::Context;
use crate::negotiate::{Agreed, Form, Media};
use crate::read::{self, invalid_list_options};

/// How long a watch without `timeoutSeconds` lasts at least; at most twice that (`--min-request-timeout`).
const MIN_TIMEOUT: Duration = Duration::from_secs(1800);
/// About how often a watcher that wants them gets bookmarks.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// How long before its end a watch sends a last bookmark.
const LAST_BOOKMARK: Duration = Duration::from_secs(2);
/// Events that are ready are put into one frame up to this size.
const FRAME: usize = 32 * 1024;

struct Options {
    selection: Selection,
    bookmarks: bool,
    initial_events_end: bool,
    deadline: Instant,
}

/// Serves `watch`.
pub async fn watch(context: Arc<Context>, store: &Store) -> StatusResult<Response<Body>> {
    let agreed = context.negotiate()?;
    if agreed.media != Media::Json {
        return Err(StatusError::not_acceptable(&["application/json", "application/json;stream=watch"]));
    }
    let query = context.query();
    let mut selection = read::selection(&context, &query)?;
    if !context.info.name.is_empty() && selection.fields.is_empty() {
        selection.fields = machinery::field_selector::FieldSelector::parse(&format!(
            "metadata.name={}",
            context.info.name
        ))
        .map_err(StatusError::bad_request)?;
    }
    let bookmarks = query.flag("allowWatchBookmarks");
    let revision = read::revision(&query, "resourceVersion")?;
    let version_match = query.get("resourceVersionMatch");
    let initial = query.has("sendInitialEvents").then(|| query.flag("sendInitialEvents"));
    let match_path = FieldPath::new("resourceVersionMatch");
    match (initial, version_match) {
        (Some(_), "NotOlderThan") | (None, "") => {}
        (Some(_), "") => {
            let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
            return Err(invalid_list_options(&[FieldError::required(&match_path, why)]));
        }
        (Some(_), other) => {
            let e = FieldError::not_supported(&match_path, other, &["NotOlderThan"]);
            return Err(invalid_list_options(&[e]));
        }
        (None, _) => {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            return Err(invalid_list_options(&[FieldError::forbidden(&match_path, why)]));
        }
    }
    let _ = Match::NotOlderThan;
    let seconds = query.integer("timeoutSeconds")?.and_then(|s| u64::try_from(s).ok()).filter(|&s| s > 0);
    let timeout = seconds.map_or_else(
        || MIN_TIMEOUT.mul_f64(1.0 + rand::rng().random::<f64>()),
        Duration::from_secs,
    );
    let options = Options {
        selection,
        bookmarks,
        initial_events_end: initial == Some(true) && bookmarks,
        deadline: Instant::now() + timeout,
    };
    let start = match (initial, revision) {
        (Some(true), None) => {
            store.fresh().await?;
            Start::Initial
        }
        (Some(true) | None, Some(Revision::ZERO)) => Start::Initial,
        (Some(true), Some(revision)) => {
            store.at_least(revision).await?;
            Start::Initial
        }
        (None, None) => {
            store.fresh().await?;
            Start::Initial
        }
        (Some(false), None | Some(Revision::ZERO)) => Start::After(store.fresh().await?.revision()),
        (Some(false) | None, Some(revision)) => {
            let current = store.storage().now().await.map_err(apiserver_registry::storage_error)?;
            if revision > current {
                return Err(too_large_revision(revision, current));
            }
            Start::After(revision)
        }
    };
    let watcher = store.cache.watch(start, &store.key_prefix(&context.info.namespace));
    let converts = !context.is_storage_version(store);
    let encoder = Encoder { context, agreed, converts, columns_sent: false };
    let stream = Stream { watcher: watcher.ok(), encoder, options, next_bookmark: None, stage: Stage::Live };
    let frames = futures::stream::unfold(stream, |mut stream| async move {
        let piece = stream.next().await?;
        Some((Ok::<_, BoxError>(Frame::data(piece)), stream))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

#[derive(PartialEq)]
enum Stage {
    Live,
    Ended,
}

struct Stream {
    watcher: Option<Watcher>,
    encoder: Encoder,
    options: Options,
    next_bookmark: Option<Instant>,
    stage: Stage,
}

impl Stream {
    /// The next frame; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        if self.stage == Stage::Ended {
            return None;
        }
        let Some(watcher) = &mut self.watcher else {
            self.stage = Stage::Ended;
            return Some(expired());
        };
        let mut out = Vec::new();
        loop {
            let bookmark_at = *self.next_bookmark.get_or_insert_with(|| bookmark_time(self.options.deadline));
            let until = if self.options.bookmarks { bookmark_at.min(self.options.deadline) } else { self.options.deadline };
            // What is ready already goes into the same frame; an empty frame waits.
            let item = if out.is_empty() {
                tokio::select! {
                    biased;
                    item = watcher.next() => item,
                    () = tokio::time::sleep_until(until) => {
                        if Instant::now() >= self.options.deadline {
                            self.stage = Stage::Ended;
                            return None;
                        }
                        self.next_bookmark = Some(bookmark_time(self.options.deadline));
                        let revision = watcher.progress().await;
                        self.encoder.bookmark(revision, false, &mut out);
                        return Some(out.into());
                    }
                }
            } else {
                match watcher.try_next() {
                    Some(item) => item,
                    None => return Some(out.into()),
                }
            };
            match item {
                Watched::Event(event) => self.encoder.event(&event, &self.options.selection, &mut out),
                Watched::InitialEnd(revision) => {
                    if self.options.initial_events_end {
                        self.encoder.bookmark(revision, true, &mut out);
                    }
                }
                Watched::Ended => {
                    self.stage = Stage::Ended;
                    return (!out.is_empty()).then(|| out.into());
                }
                Watched::Expired => {
                    self.stage = Stage::Ended;
                    out.extend_from_slice(&expired());
                    return Some(out.into());
                }
            }
            if out.len() >= FRAME {
                return Some(out.into());
            }
        }
    }
}

fn bookmark_time(deadline: Instant) -> Instant {
    let now = Instant::now();
    let regular = now + BOOKMARK_EVERY;
    match deadline.checked_sub(LAST_BOOKMARK) {
        Some(last) if last > now => regular.min(last),
        _ => regular,
    }
}

fn expired() -> Bytes {
    let e = StatusError::expired("The resourceVersion for the provided watch is too old.");
    let mut out = serde_json::to_vec(&json!({ "type": "ERROR", "object": &*e.0 })).unwrap_or_default();
    out.push(b'\n');
    out.into()
}

struct Encoder {
    context: Arc<Context>,
    agreed: Agreed,
    converts: bool,
    columns_sent: bool,
}

impl Encoder {
    /// Appends what this watcher sees of an event; an object that begins or ceases to match is added or deleted.
    fn event(&mut self, event: &CacheEvent, selection: &Selection, out: &mut Vec<u8>) {
        let plain = self.agreed.form == Form::Object && !self.converts;
        if selection.is_everything() {
            if plain {
                out.extend_from_slice(event.json_frame());
            } else {
                self.frame(event.kind.as_str(), &event.object, out);
            }
            return;
        }
        let is = event.kind != EventKind::Deleted && selection.matches(&event.object);
        let was = match event.kind {
            EventKind::Added => false,
            EventKind::Modified => event.previous.as_ref().is_some_and(|p| selection.matches(p)),
            EventKind::Deleted => selection.matches(&event.object),
        };
        match (was, is) {
            (true, true) if plain => out.extend_from_slice(event.json_frame()),
            (false, true) if plain && event.kind == EventKind::Added => out.extend_from_slice(event.json_frame()),
            (true, true) => self.frame("MODIFIED", &event.object, out),
            (false, true) => self.frame("ADDED", &event.object, out),
            (true, false) => {
                // The last form that matched, at the revision of the change.
                let last = match (&event.previous, event.kind) {
                    (Some(previous), EventKind::Modified) => Arc::new(previous.at_revision(event.revision)),
                    _ => event.object.clone(),
                };
                self.frame("DELETED", &last, out);
            }
            (false, false) => {}
        }
    }

    fn frame(&mut self, kind: &str, object: &CachedObject, out: &mut Vec<u8>) {
        if self.agreed.form == Form::Object && !self.converts {
            out.extend_from_slice(b"{\"type\":\"");
            out.extend_from_slice(kind.as_bytes());
            out.extend_from_slice(b"\",\"object\":");
            object.write_json(out);
            out.extend_from_slice(b"}\n");
            return;
        }
        let Ok(object) = encode::decode(&object.value, object.revision) else { return };
        let object = self.context.from_storage(object);
        let value = match self.agreed.form {
            Form::Object => object.into_value(),
            Form::Partial => read::partial(object).into_value(),
            Form::Table => {
                let metadata = json!({ "resourceVersion": object.resource_version() });
                let columns = !std::mem::replace(&mut self.columns_sent, true);
                read::table(&self.context, std::iter::once(object), metadata, columns)
            }
        };
        append(kind, &value, out);
    }

    fn bookmark(&mut self, revision: Revision, initial_events_end: bool, out: &mut Vec<u8>) {
        let mut metadata = json!({ "resourceVersion": revision.to_string(), "creationTimestamp": null });
        if initial_events_end {
            metadata["annotations"] = json!({ "k8s.io/initial-events-end": "true" });
        }
        let kind = &self.context.kind;
        let object = match self.agreed.form {
            Form::Object => {
                json!({ "kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata })
            }
            Form::Partial => {
                json!({ "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata })
            }
            Form::Table => {
                let row = json!({ "kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata });
                json!({
                    "kind": "Table",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": { "resourceVersion": revision.to_string() },
                    "columnDefinitions": [],
                    "rows": [{ "cells": [], "object": row }],
                })
            }
        };
        append("BOOKMARK", &object, out);
    }
}

fn append(kind: &str, object: &Value, out: &mut Vec<u8>) {
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    if serde_json::to_writer(&mut *out, object).is_ok() {
        out.extend_from_slice(b"}\n");
    }
}
