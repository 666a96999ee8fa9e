//! Watch: events of the cache as a stream of frames. Upstream: apiserver/pkg/endpoints/handlers/watch.go and
//! apiserver/pkg/storage/cacher/cache_watcher.go, 1.36.
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use apiserver_registry::list::Selection;
use apiserver_registry::{Store, encode};
use apiserver_watch_cache::{
    CacheEvent, CachedObject, Error as CacheError, EventKind, Scope, Snapshot, Watch,
};
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use machinery::{FieldError, FieldPath, StatusError, StatusResult};
use rand::Rng as _;
use serde_json::{Value, json};
use storage::{Revision, prefix_end};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::body::{Body, BoxError};
use crate::context::Context;
use crate::metrics::{Running, Series};
use crate::negotiate::{Agreed, Form, Media};
use crate::read::{self, invalid_list_options};
use crate::watch_socket;

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
pub async fn watch(
    context: Arc<Context>,
    store: &Store,
    mut request: Request<Body>,
) -> StatusResult<Response<Body>> {
    let agreed = context.negotiate()?;
    if agreed.media == Media::Yaml {
        return Err(StatusError::not_acceptable(&["application/json", "application/json;stream=watch"]));
    }
    let query = context.query();
    let mut selection = read::selection(&context, &query)?;
    if !context.info.name.is_empty() && selection.fields.is_empty() {
        selection.fields =
            machinery::field_selector::FieldSelector::parse(&format!("metadata.name={}", context.info.name))
                .map_err(StatusError::bad_request)?;
    }
    let bookmarks = query.flag("allowWatchBookmarks");
    let revision = read::revision(&query, "resourceVersion")?;
    let initial = query.has("sendInitialEvents").then(|| query.flag("sendInitialEvents"));
    check(query.get("resourceVersionMatch"), initial.is_some(), !query.get("continue").is_empty())?;
    let seconds = query.integer("timeoutSeconds")?.and_then(|s| u64::try_from(s).ok()).filter(|&s| s > 0);
    let least = context.server.limits.serving.min_request_timeout;
    let timeout =
        seconds.map_or_else(|| least.mul_f64(1.0 + rand::rng().random::<f64>()), Duration::from_secs);
    let options = Options {
        selection,
        bookmarks,
        initial_events_end: initial == Some(true) && bookmarks,
        deadline: Instant::now() + timeout,
    };
    let scope = scope(&context, store, &options.selection);
    // Once a request is understood, what goes wrong is told by an event.
    let mut failed = None;
    let from = match (initial, revision) {
        (Some(true), None) | (None, None) => {
            let now = store.storage().now().await.map_err(apiserver_registry::storage_error)?;
            store.reach(now).await?;
            None
        }
        (Some(true) | None, Some(Revision::ZERO)) => None,
        (Some(true), Some(revision)) => {
            failed = store.reach(revision).await.err();
            None
        }
        (Some(false), None | Some(Revision::ZERO)) => Some(store.fresh().await?.revision),
        // One that is still to come is waited for: what happens up to there, the client has seen.
        (Some(false) | None, Some(revision)) => Some(revision),
    };
    let (initial, watch) = match from {
        _ if failed.is_some() => (None, None),
        None => {
            let (snapshot, watch) = store.cache.watch_initial(scope);
            (Some(Initial { snapshot, next: store.key_prefix(&context.info.namespace) }), Some(watch))
        }
        Some(revision) => {
            let watch = store.cache.watch_after(revision, scope).inspect_err(|e| {
                failed = Some(too_old(revision, e));
            });
            (None, watch.ok())
        }
    };
    let end = prefix_end(&store.key_prefix(&context.info.namespace));
    let converts = !context.is_storage_version(store);
    let encoder = Encoder { context, agreed, converts, columns_sent: false };
    let (series, drain) = (encoder.context.series.clone(), encoder.context.server.drain.clone());
    let last = from.or(initial.as_ref().map(|i| i.snapshot.revision)).unwrap_or(Revision::ZERO);
    let stream = Stream {
        initial,
        end,
        watch,
        failed,
        waiting: VecDeque::new(),
        last,
        encoder,
        options,
        next_bookmark: None,
        ended: false,
        series,
        drain,
    };
    if streaming::ws::is_upgrade(request.headers()) {
        return watch_socket::serve(&mut request, stream, agreed.media);
    }
    let frames = futures::stream::unfold(stream, |mut stream| async move {
        let piece = stream.next().await?;
        Some((Ok::<_, BoxError>(Frame::data(piece)), stream))
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    *response.status_mut() = StatusCode::OK;
    let headers = response.headers_mut();
    let content_type = match agreed.media {
        Media::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        _ => "application/json",
    };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    Ok(response)
}

/// The events a watcher can care about, so that others do not wake it.
fn scope(context: &Context, store: &Store, selection: &Selection) -> Scope {
    let namespace = &context.info.namespace;
    if let Some(name) = selection.fields.exact("metadata.name")
        && (!namespace.is_empty() || !context.kind.namespaced)
    {
        return Scope::prefix(store.key(namespace, name));
    }
    let scope = Scope::prefix(store.key_prefix(namespace));
    match selection.fields.exact("spec.nodeName") {
        Some(node) => scope.field("spec.nodeName", node),
        None => scope,
    }
}

/// What is there when the watch begins, sent piece by piece.
struct Initial {
    snapshot: Snapshot,
    /// Key of the first object that was not sent.
    next: String,
}

/// The frames of one watch.
pub struct Stream {
    initial: Option<Initial>,
    /// End of the key range.
    end: String,
    /// `None`: there is nothing to be seen from the revision asked for.
    watch: Option<Watch>,
    /// Why.
    failed: Option<StatusError>,
    /// Events that came and are not sent yet.
    waiting: VecDeque<Arc<CacheEvent>>,
    /// The revision up to which everything was sent.
    last: Revision,
    encoder: Encoder,
    options: Options,
    next_bookmark: Option<Instant>,
    ended: bool,
    series: Option<Arc<Series>>,
    drain: CancellationToken,
}

impl Stream {
    /// Counts the watch while the guard lives.
    pub fn running(&self) -> Option<Running> {
        self.series.clone().map(Series::run)
    }

    /// The next frame; `None` at the end.
    pub async fn next(&mut self) -> Option<Bytes> {
        if self.ended {
            return None;
        }
        if let Some(piece) = self.initial_piece() {
            return Some(piece);
        }
        if let Some(piece) = self.waiting_piece() {
            return Some(piece);
        }
        loop {
            let Some(watch) = &mut self.watch else {
                self.ended = true;
                return Some(error(self.encoder.agreed.media, &self.failed.take()?));
            };
            let bookmark = *self.next_bookmark.get_or_insert_with(|| bookmark_time(self.options.deadline));
            let until = if self.options.bookmarks {
                bookmark.min(self.options.deadline)
            } else {
                self.options.deadline
            };
            let batch = tokio::select! {
                biased;
                () = self.drain.cancelled() => {
                    self.ended = true;
                    return None;
                }
                batch = watch.next_batch() => batch,
                () = tokio::time::sleep_until(until) => {
                    if Instant::now() >= self.options.deadline {
                        self.ended = true;
                        return None;
                    }
                    self.next_bookmark = Some(bookmark_time(self.options.deadline));
                    let mut out = Vec::new();
                    if let Some(revision) = watch.bookmark() {
                        self.encoder.bookmark(revision, false, &mut out);
                    }
                    if out.is_empty() {
                        continue;
                    }
                    return Some(out.into());
                }
            };
            match batch {
                Ok(events) => {
                    self.last = events.last().map_or(self.last, |e| e.revision);
                    // A lone event that concerns everybody goes out as it was encoded for everybody.
                    if let [event] = events.as_slice()
                        && self.encoder.is_plain()
                        && self.options.selection.is_everything()
                    {
                        if let Some(series) = &self.series {
                            series.event(event.frame().len());
                        }
                        return Some(event.frame().clone());
                    }
                    self.waiting = events.into();
                    if let Some(piece) = self.waiting_piece() {
                        return Some(piece);
                    }
                }
                Err(e @ CacheError::Expired { .. }) => {
                    // A reader that was too slow: what it missed is gone.
                    self.ended = true;
                    return Some(error(self.encoder.agreed.media, &too_old(self.last, &e)));
                }
                Err(e) => {
                    tracing::debug!(error = %e, "a watch ended");
                    self.ended = true;
                    return None;
                }
            }
        }
    }

    /// A frame of what came and was not sent yet; a batch of large events is not made into one piece of memory.
    fn waiting_piece(&mut self) -> Option<Bytes> {
        let mut out = Vec::new();
        while let Some(event) = self.waiting.pop_front() {
            let before = out.len();
            self.encoder.event(&event, &self.options.selection, &mut out);
            self.last = event.revision;
            if out.len() > before
                && let Some(series) = &self.series
            {
                series.event(out.len() - before);
            }
            if out.len() >= FRAME {
                break;
            }
        }
        (!out.is_empty()).then(|| out.into())
    }

    fn initial_piece(&mut self) -> Option<Bytes> {
        let initial = self.initial.as_mut()?;
        let mut out = Vec::new();
        let mut objects = initial.snapshot.objects.range(&initial.next, &self.end);
        for object in objects.by_ref() {
            if self.options.selection.matches(object) {
                let before = out.len();
                self.encoder.frame("ADDED", object, &mut out);
                if let Some(series) = &self.series {
                    series.event(out.len() - before);
                }
            }
            if out.len() >= FRAME {
                initial.next = format!("{}\0", object.key);
                return Some(out.into());
            }
        }
        let revision = initial.snapshot.revision;
        self.initial = None;
        if self.options.initial_events_end {
            self.encoder.bookmark(revision, true, &mut out);
        }
        (!out.is_empty()).then(|| out.into())
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

/// The answer to who wants to go on from a revision whose successors are gone (cacher/watch_cache.go).
fn too_old(revision: Revision, e: &CacheError) -> StatusError {
    match e {
        CacheError::Expired { oldest } => {
            StatusError::expired(format!("too old resource version: {revision} ({oldest})"))
        }
        other => StatusError::expired(other.to_string()),
    }
}

fn error(media: Media, e: &StatusError) -> Bytes {
    let mut out = Vec::new();
    if let Ok(status) = serde_json::to_value(&*e.0) {
        append(media, "ERROR", &status, &mut out);
    }
    out.into()
}

/// Upstream: apimachinery/pkg/apis/meta/internalversion/validation, `validateWatchOptions`.
fn check(version_match: &str, initial: bool, continues: bool) -> StatusResult<()> {
    let path = FieldPath::new("resourceVersionMatch");
    let mut errors = Vec::new();
    if initial && version_match != "NotOlderThan" {
        let why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan";
        errors.push(FieldError::forbidden(&path, why));
    }
    if !version_match.is_empty() {
        if !initial {
            let why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided";
            errors.push(FieldError::forbidden(&path, why));
        }
        if version_match != "NotOlderThan" {
            errors.push(FieldError::not_supported(&path, version_match, &["NotOlderThan"]));
        }
        if continues {
            let why = "resourceVersionMatch is forbidden when continue is provided";
            errors.push(FieldError::forbidden(&path, why));
        }
    }
    if errors.is_empty() { Ok(()) } else { Err(invalid_list_options(&errors)) }
}

struct Encoder {
    context: Arc<Context>,
    agreed: Agreed,
    converts: bool,
    columns_sent: bool,
}

impl Encoder {
    /// Whether the stored bytes are what the client wants.
    fn is_plain(&self) -> bool {
        self.agreed == (Agreed { media: Media::Json, form: Form::Object }) && !self.converts
    }

    /// Appends what this watcher sees of an event; an object that begins or ceases to match is added or deleted.
    fn event(&mut self, event: &CacheEvent, selection: &Selection, out: &mut Vec<u8>) {
        let plain = self.is_plain();
        if selection.is_everything() {
            if plain {
                out.extend_from_slice(event.frame());
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
            (true, true) if plain => out.extend_from_slice(event.frame()),
            (false, true) if plain && event.kind == EventKind::Added => out.extend_from_slice(event.frame()),
            (true, true) => self.frame("MODIFIED", &event.object, out),
            (false, true) => self.frame("ADDED", &event.object, out),
            (true, false) => {
                // The last form that matched, at the revision of the change.
                let last = match (&event.previous, event.kind) {
                    (Some(previous), EventKind::Modified) => Arc::new(previous.at(event.revision)),
                    _ => event.object.clone(),
                };
                self.frame("DELETED", &last, out);
            }
            (false, false) => {}
        }
    }

    fn frame(&mut self, kind: &str, object: &CachedObject, out: &mut Vec<u8>) {
        if self.is_plain() {
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
        append(self.agreed.media, kind, &value, out);
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
                let row =
                    json!({ "kind": kind.kind, "apiVersion": kind.api_version(), "metadata": metadata });
                json!({
                    "kind": "Table",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": { "resourceVersion": revision.to_string() },
                    "columnDefinitions": [],
                    "rows": [{ "cells": [], "object": row }],
                })
            }
        };
        append(self.agreed.media, "BOOKMARK", &object, out);
    }
}

fn append(media: Media, kind: &str, object: &Value, out: &mut Vec<u8>) {
    if media == Media::Protobuf {
        let Some(object) = object.as_object() else { return };
        match api::proto::encode_watch_event(kind, object) {
            Ok(frame) => out.extend_from_slice(&frame),
            Err(e) => tracing::warn!(error = %e, "an event has no protobuf form; the watcher misses it"),
        }
        return;
    }
    out.extend_from_slice(b"{\"type\":\"");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\",\"object\":");
    if serde_json::to_writer(&mut *out, object).is_ok() {
        out.extend_from_slice(b"}\n");
    }
}
