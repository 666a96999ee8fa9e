//! Get and list.
use std::sync::Arc;

use api::kinds::Kind;
use apiserver_registry::list::{Items, ListOptions, Match, Page, Selection};
use apiserver_registry::{Store, encode};
use apiserver_watch_cache::CachedObject;
use bytes::Bytes;
use futures::stream;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use http::{Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use jiff::Timestamp;
use machinery::field_selector::FieldSelector;
use machinery::label_selector::LabelSelector;
use machinery::{FieldError, FieldPath, Object, StatusError, StatusResult};
use serde_json::{Map, Value, json};
use storage::Revision;

use crate::body::Body;
use crate::context::Context;
use crate::gzip::{Size, THRESHOLD};
use crate::negotiate::{Agreed, Form, Media};
use crate::query::Query;
use crate::respond;

/// Lists are sent in pieces of about this many bytes.
const PIECE: usize = 64 * 1024;
/// How many bytes are made of decoded objects before others get their turn.
const TURN: usize = 16 * 1024;

/// Serves `get`.
pub async fn get(context: &Context, store: &Store) -> StatusResult<Response<Body>> {
    let agreed = context.negotiate()?;
    let query = context.query();
    let not_older = revision(&query, "resourceVersion")?;
    let found = store.get(&context.info.namespace, &context.info.name, not_older).await?;
    if agreed == (Agreed { media: Media::Json, form: Form::Object }) && context.is_storage_version(store) {
        let mut out = Vec::with_capacity(found.value.len() + 40);
        found.write_json(&mut out);
        return Ok(respond::bytes(StatusCode::OK, "application/json", out));
    }
    let object = context.from_storage(encode::decode(&found.value, found.revision)?);
    Ok(one(context, agreed, StatusCode::OK, object))
}

/// An object in the form agreed on.
pub fn one(context: &Context, agreed: Agreed, status: StatusCode, object: Object) -> Response<Body> {
    match agreed.form {
        Form::Object => respond::object(status, agreed.media, &object),
        Form::Partial => respond::object(status, agreed.media, &partial(object)),
        Form::Table => {
            let metadata = json!({ "resourceVersion": object.resource_version() });
            let table = table(context, std::iter::once(object), metadata, true);
            respond::json(status, agreed.media, &table)
        }
    }
}

/// Only type and metadata of an object.
pub fn partial(mut object: Object) -> Object {
    let metadata = object.0.remove("metadata").unwrap_or_default();
    let mut out = Object::default();
    out.set_type("meta.k8s.io/v1", "PartialObjectMetadata");
    out.0.insert("metadata".into(), metadata);
    out
}

/// A `Table`. `columns`: whether the column definitions are wanted.
pub fn table(
    context: &Context,
    objects: impl Iterator<Item = Object>,
    metadata: Value,
    columns: bool,
) -> Value {
    let writer = Writer::new(context, Form::Table, false);
    let rows: Vec<Value> = objects.map(|object| writer.row(object)).collect();
    let definitions: Vec<Value> = if columns { writer.columns() } else { Vec::new() };
    json!({
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": definitions,
        "rows": rows,
    })
}

/// Serves `list`.
pub async fn list(context: &Context, store: &Store) -> StatusResult<Response<Body>> {
    let agreed = context.negotiate()?;
    let options = list_options(context)?;
    let mut page = store.list(&context.info.namespace, &options).await?;
    if agreed.form == Form::Table
        && let Some(rank) = apiserver_resources::table::order(&context.kind.group, &context.kind.plural)
    {
        let rank = |item: &Arc<CachedObject>| {
            let object = encode::decode(&item.value, item.revision);
            (object.map_or(0, |object| rank(&object)), item.facts.name.clone())
        };
        let mut all = Vec::with_capacity(page.items.remaining());
        page.items.visit(|item| {
            all.push(item.clone());
            true
        });
        all.sort_by_cached_key(rank);
        page.items = all.into();
    }
    let writer = Writer::new(context, agreed.form, !context.is_storage_version(store));
    match agreed.media {
        Media::Json => Ok(stitched(writer, page)),
        Media::Protobuf => protobuf(writer, page).await,
        Media::Yaml => {
            // For people, who do not ask for many.
            let body = stitched(writer, page).into_body().collect().await;
            let json = body.map_err(StatusError::internal)?.to_bytes();
            Ok(respond::json_bytes(StatusCode::OK, Media::Yaml, json))
        }
    }
}

fn list_metadata(page: &Page) -> Value {
    let mut metadata = Map::new();
    metadata.insert("resourceVersion".into(), page.revision.to_string().into());
    if !page.continue_token.is_empty() {
        metadata.insert("continue".into(), page.continue_token.clone().into());
    }
    if let Some(remaining) = page.remaining {
        metadata.insert("remainingItemCount".into(), remaining.into());
    }
    metadata.into()
}

/// How the objects of a list are written.
struct Writer {
    form: Form,
    kind: Arc<Kind>,
    /// The request speaks another version than the one that is stored.
    converts: bool,
    /// `includeObject` of a table.
    include: String,
    now: Timestamp,
    /// What is written are the `Scale`s of the kind.
    scale: bool,
}

impl Writer {
    fn new(context: &Context, form: Form, converts: bool) -> Self {
        let include = context.query().get("includeObject").to_owned();
        let scale = context.info.subresource == "scale";
        Self { form, kind: context.kind.clone(), converts, include, now: Timestamp::now(), scale }
    }

    /// The resource whose columns a table has.
    fn printed(&self) -> (&str, &str) {
        if self.scale { ("autoscaling", "scale") } else { (&self.kind.group, &self.kind.plural) }
    }

    /// `apiVersion` and `kind` of the list.
    fn list_type(&self) -> (String, String) {
        let meta = || "meta.k8s.io/v1".to_owned();
        match self.form {
            Form::Object => (self.kind.api_version(), self.kind.list_kind()),
            Form::Partial => (meta(), "PartialObjectMetadataList".to_owned()),
            Form::Table => (meta(), "Table".to_owned()),
        }
    }

    fn head(&self, page: &Page) -> String {
        let (api_version, kind) = self.list_type();
        let metadata = list_metadata(page);
        let items = match self.form {
            Form::Table => format!("\"columnDefinitions\":{},\"rows\":[", Value::from(self.columns())),
            _ => "\"items\":[".to_owned(),
        };
        let (api_version, kind) = (Value::from(api_version), Value::from(kind));
        format!("{{\"kind\":{kind},\"apiVersion\":{api_version},\"metadata\":{metadata},{items}")
    }

    fn columns(&self) -> Vec<Value> {
        let (group, plural) = self.printed();
        let columns = apiserver_resources::table::columns(group, plural);
        columns.iter().map(|c| c.to_json()).collect()
    }

    fn row(&self, object: Object) -> Value {
        let (group, plural) = self.printed();
        let cells = apiserver_resources::table::row(group, plural, &object, self.now);
        let mut row = json!({ "cells": cells });
        if let Some(conditions) = apiserver_resources::table::row_conditions(group, plural, &object) {
            row["conditions"] = conditions;
        }
        match self.include.as_str() {
            "None" => {}
            "Object" => row["object"] = object.into_value(),
            _ => row["object"] = partial(object).into_value(),
        }
        row
    }

    /// The object in the version of the request; `None` where it cannot be read.
    fn tree(&self, item: &CachedObject) -> Option<Object> {
        let object = encode::decode(&item.value, item.revision).ok()?;
        Some(if self.converts { apiserver_resources::convert(object, &self.kind) } else { object })
    }

    /// Appends an item, and a comma before it unless it is the first.
    fn write(&self, item: &CachedObject, first: &mut bool, out: &mut Vec<u8>) {
        let plain = self.form == Form::Object && !self.converts;
        let value = if plain {
            None
        } else {
            let Some(object) = self.tree(item) else { return };
            Some(match self.form {
                Form::Table => self.row(object),
                Form::Partial => partial(object).into_value(),
                Form::Object => {
                    let mut object = object;
                    object.0.remove("apiVersion");
                    object.0.remove("kind");
                    object.into_value()
                }
            })
        };
        if !std::mem::take(first) {
            out.push(b',');
        }
        match value {
            None => write_item(item, out),
            // Writing to memory does not fail, and a tree has a JSON form.
            Some(value) => drop(serde_json::to_writer(out, &value)),
        }
    }
}

/// A list stitched from the stored bytes, sent in pieces as the client takes them. What has to be decoded for it is so
/// for one piece at a time.
fn stitched(writer: Writer, page: Page) -> Response<Body> {
    let head = writer.head(&page);
    let mut pieces = Pieces { writer, head: Some(head), items: page.items, first: true, done: false };
    // As much as tells whether it is worth compressing; what is shorter is known whole.
    let (mut begun, mut size) = (Vec::new(), 0);
    while size < THRESHOLD
        && let Some(piece) = pieces.next()
    {
        size += piece.len() as u64;
        begun.push(piece);
    }
    let body = match &begun[..] {
        [only] if pieces.done => crate::body::full(only.clone()),
        all if pieces.done => crate::body::full(all.concat()),
        _ => {
            let all = begun.into_iter().chain(pieces);
            StreamBody::new(stream::iter(all.map(|p| Ok(Frame::data(p))))).boxed_unsync()
        }
    };
    answer(body, Media::Json, size)
}

fn answer(body: Body, media: Media, size: u64) -> Response<Body> {
    let mut response = Response::new(body);
    response.extensions_mut().insert(Size(size));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(media.content_type()));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A list as a message. Its length comes first, so all items are encoded before any is sent; their trees are never
/// there together.
async fn protobuf(writer: Writer, mut page: Page) -> StatusResult<Response<Body>> {
    let metadata = list_metadata(&page);
    let (mut pieces, mut total) = (Vec::new(), 0);
    let mut piece = Vec::new();
    loop {
        let mut failed = None;
        let before = piece.len();
        let all = page.items.visit(|item| {
            let Some(object) = writer.tree(item) else { return true };
            let object = if writer.form == Form::Partial { partial(object) } else { object };
            match api::proto::encode_list_item(&object.0) {
                Ok(item) => piece.extend_from_slice(&item),
                Err(e) => failed = Some(e),
            }
            failed.is_none() && piece.len() - before < TURN
        });
        if let Some(e) = failed {
            return Err(StatusError::internal(e));
        }
        total += piece.len() - before;
        if all {
            break;
        }
        if piece.len() >= PIECE {
            pieces.push(Bytes::from(std::mem::take(&mut piece)));
        }
        // Others want to be answered meanwhile.
        tokio::task::yield_now().await;
    }
    drop(page);
    let (api_version, kind) = writer.list_type();
    let (head, tail) =
        api::proto::list_frame(&api_version, &kind, metadata, total).map_err(StatusError::internal)?;
    let size = (head.len() + total + tail.len()) as u64;
    piece.extend_from_slice(&tail);
    pieces.push(piece.into());
    let all = std::iter::once(Bytes::from(head)).chain(pieces);
    let body = StreamBody::new(stream::iter(all.map(|p| Ok(Frame::data(p))))).boxed_unsync();
    Ok(answer(body, Media::Protobuf, size))
}

struct Pieces {
    writer: Writer,
    head: Option<String>,
    items: Items,
    first: bool,
    done: bool,
}

impl Iterator for Pieces {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        if self.done {
            return None;
        }
        let mut out = Vec::with_capacity(PIECE + 4096);
        if let Some(head) = self.head.take() {
            out.extend_from_slice(head.as_bytes());
        }
        let Self { writer, items, first, .. } = self;
        let all = items.visit(|item| {
            writer.write(item, first, &mut out);
            out.len() < PIECE
        });
        if all {
            out.extend_from_slice(b"]}");
            self.done = true;
        }
        Some(out.into())
    }
}

/// An object of a typed list: without the type, which the list has.
fn write_item(item: &CachedObject, out: &mut Vec<u8>) {
    const METADATA: &[u8] = br#""metadata":{"#;
    let start = (item.splice as usize).saturating_sub(METADATA.len());
    if item.value.get(start..item.splice as usize) != Some(METADATA) {
        item.write_json(out);
        return;
    }
    out.push(b'{');
    item.write_json_from(start, out);
}

/// Reads the parameters of a list or watch.
pub fn list_options(context: &Context) -> StatusResult<ListOptions> {
    let query = context.query();
    check(&query)?;
    let resource_version = revision(&query, "resourceVersion")?;
    let version_match = match query.get("resourceVersionMatch") {
        "NotOlderThan" => Some(Match::NotOlderThan),
        "Exact" => Some(Match::Exact),
        _ => None,
    };
    let limit = query.integer("limit")?.and_then(|l| usize::try_from(l).ok()).unwrap_or(0);
    Ok(ListOptions {
        selection: selection(context, &query)?,
        resource_version,
        version_match,
        limit,
        continue_token: query.get("continue").to_owned(),
    })
}

/// Upstream: apimachinery/pkg/apis/meta/internalversion/validation, `ValidateListOptions`.
fn check(query: &Query<'_>) -> StatusResult<()> {
    let path = FieldPath::new("resourceVersionMatch");
    let (version, version_match) = (query.get("resourceVersion"), query.get("resourceVersionMatch"));
    let mut errors = Vec::new();
    if !version_match.is_empty() {
        if version.is_empty() {
            let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
            errors.push(FieldError::forbidden(&path, why));
        }
        if !query.get("continue").is_empty() {
            let why = "resourceVersionMatch is forbidden when continue is provided";
            errors.push(FieldError::forbidden(&path, why));
        }
        if !matches!(version_match, "Exact" | "NotOlderThan") {
            errors.push(FieldError::not_supported(&path, version_match, &["Exact", "NotOlderThan", ""]));
        }
        if version_match == "Exact" && version == "0" {
            let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
            errors.push(FieldError::forbidden(&path, why));
        }
    }
    if query.has("sendInitialEvents") {
        let why = "sendInitialEvents is forbidden for list";
        errors.push(FieldError::forbidden(&FieldPath::new("sendInitialEvents"), why));
    }
    if errors.is_empty() { Ok(()) } else { Err(invalid_list_options(&errors)) }
}

/// 422 about `ListOptions`.
pub fn invalid_list_options(errors: &[FieldError]) -> StatusError {
    let gvk = machinery::gvk::GroupVersionKind::new("meta.k8s.io", "v1", "ListOptions");
    StatusError::invalid(&gvk, "", errors)
}

/// Reads the selectors.
pub fn selection(context: &Context, query: &Query<'_>) -> StatusResult<Selection> {
    let labels = LabelSelector::parse(query.get("labelSelector"))
        .map_err(|e| StatusError::bad_request(format!("unable to parse requirement: {e}")))?;
    let fields = FieldSelector::parse(query.get("fieldSelector")).map_err(StatusError::bad_request)?;
    for requirement in fields.requirements() {
        let kind = &context.kind;
        if !apiserver_resources::supported_field(&kind.group, &kind.plural, &requirement.field) {
            return Err(StatusError::bad_request(unselectable(&context.kind, &requirement.field)));
        }
    }
    let (group, plural) = (&context.kind.group, &context.kind.plural);
    let fields = fields.renamed(|field| apiserver_resources::stored_field(group, plural, field));
    Ok(Selection { labels, fields })
}

/// What upstream says of a field that one cannot select by: each group has its own words
/// (pkg/apis/*/v1/conversion.go; apimachinery/pkg/runtime/conversion.go for the rest).
fn unselectable(kind: &Kind, field: &str) -> String {
    match (&*kind.group, &*kind.kind) {
        ("", "Pod" | "Node" | "ReplicationController" | "Event" | "Namespace" | "Secret" | "Service")
        | ("certificates.k8s.io" | "events.k8s.io", _) => format!("field label not supported: {field}"),
        _ if kind.schema.is_none() => format!("field label not supported: {field}"),
        ("resource.k8s.io", "ResourceSlice") => {
            format!("field label not supported for {}, Kind=ResourceSlice: {field}", kind.api_version())
        }
        ("batch", "Job") => format!("field label {field:?} not supported for Job"),
        _ => {
            format!("{field:?} is not a known field selector: only \"metadata.name\", \"metadata.namespace\"")
        }
    }
}

/// Reads a resource version; `None` where it is absent.
pub fn revision(query: &Query<'_>, name: &str) -> StatusResult<Option<Revision>> {
    match query.get(name) {
        "" => Ok(None),
        text => text.parse().map(|r| Some(Revision(r))).map_err(|_| {
            let path = FieldPath::new(name);
            let why = format!("strconv.ParseUint: parsing {text:?}: invalid syntax");
            invalid_list_options(&[FieldError::invalid(&path, text, why)])
        }),
    }
}
