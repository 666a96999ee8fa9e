//! Get and list.
use std::sync::Arc;

use apiserver_registry::list::{ListOptions, Match, Page, Selection};
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
use machinery::{Object, StatusError, StatusResult};
use serde_json::{Map, Value, json};
use storage::Revision;

use crate::body::Body;
use crate::context::Context;
use crate::negotiate::{Agreed, Form, Media};
use crate::query::Query;
use crate::respond;

/// Lists are sent in pieces of about this many bytes.
const PIECE: usize = 64 * 1024;

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
    let (group, plural) = (&*context.kind.group, &*context.kind.plural);
    let now = Timestamp::now();
    let query = context.query();
    let include = query.get("includeObject");
    let rows: Vec<Value> = objects
        .map(|object| {
            let cells = apiserver_resources::table::row(group, plural, &object, now);
            let mut row = json!({ "cells": cells });
            match include {
                "None" => {}
                "Object" => row["object"] = object.into_value(),
                _ => row["object"] = partial(object).into_value(),
            }
            row
        })
        .collect();
    let definitions: Vec<Value> = if columns {
        apiserver_resources::table::columns(group, plural).iter().map(|c| c.to_json()).collect()
    } else {
        Vec::new()
    };
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
    let page = store.list(&context.info.namespace, &options).await?;
    if agreed == (Agreed { media: Media::Json, form: Form::Object }) && context.is_storage_version(store) {
        return Ok(stitched(context, page));
    }
    let metadata = list_metadata(&page);
    let objects = page.items.iter().filter_map(|o| encode::decode(&o.value, o.revision).ok());
    let objects = objects.map(|o| context.from_storage(o));
    let value = match agreed.form {
        Form::Table => table(context, objects, metadata, true),
        Form::Partial => json!({
            "kind": "PartialObjectMetadataList",
            "apiVersion": "meta.k8s.io/v1",
            "metadata": metadata,
            "items": objects.map(|o| partial(o).into_value()).collect::<Vec<_>>(),
        }),
        Form::Object => json!({
            "kind": context.kind.list_kind(),
            "apiVersion": context.kind.api_version(),
            "metadata": metadata,
            "items": objects
                .map(|mut o| {
                    o.0.remove("apiVersion");
                    o.0.remove("kind");
                    o.into_value()
                })
                .collect::<Vec<_>>(),
        }),
    };
    Ok(respond::json(StatusCode::OK, agreed.media, &value))
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

/// A list stitched from the stored bytes, sent in pieces as the client takes them.
fn stitched(context: &Context, page: Page) -> Response<Body> {
    let head = format!(
        "{{\"kind\":{},\"apiVersion\":{},\"metadata\":{},\"items\":[",
        Value::from(context.kind.list_kind()),
        Value::from(context.kind.api_version()),
        list_metadata(&page)
    );
    let pieces = Pieces { head: Some(head), items: page.items.into_iter(), first: true, done: false };
    let body = if pieces.items.len() <= 16 {
        crate::body::full(pieces.fold(Vec::new(), |mut all, piece| {
            all.extend_from_slice(&piece);
            all
        }))
    } else {
        StreamBody::new(stream::iter(pieces.map(|p| Ok(Frame::data(p))))).boxed_unsync()
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

struct Pieces {
    head: Option<String>,
    items: std::vec::IntoIter<Arc<CachedObject>>,
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
        while out.len() < PIECE {
            let Some(item) = self.items.next() else {
                out.extend_from_slice(b"]}");
                self.done = true;
                break;
            };
            if !std::mem::take(&mut self.first) {
                out.push(b',');
            }
            write_item(&item, &mut out);
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
    out.extend_from_slice(METADATA);
    out.extend_from_slice(b"\"resourceVersion\":\"");
    out.extend_from_slice(item.revision.to_string().as_bytes());
    out.extend_from_slice(b"\",");
    out.extend_from_slice(&item.value[item.splice as usize..]);
}

/// Reads the parameters of a list or watch.
pub fn list_options(context: &Context) -> StatusResult<ListOptions> {
    let query = context.query();
    let resource_version = revision(&query, "resourceVersion")?;
    let version_match = match query.get("resourceVersionMatch") {
        "" => None,
        "NotOlderThan" => Some(Match::NotOlderThan),
        "Exact" => Some(Match::Exact),
        other => {
            let errors = [machinery::FieldError::not_supported(
                &machinery::FieldPath::new("resourceVersionMatch"),
                other,
                &["Exact", "NotOlderThan", ""],
            )];
            return Err(invalid_list_options(&errors));
        }
    };
    let path = machinery::FieldPath::new("resourceVersionMatch");
    if version_match.is_some() && resource_version.is_none() && !query.flag("sendInitialEvents") {
        let why = "resourceVersionMatch is forbidden unless resourceVersion is provided";
        return Err(invalid_list_options(&[machinery::FieldError::forbidden(&path, why)]));
    }
    if version_match == Some(Match::Exact) && resource_version == Some(Revision::ZERO) {
        let why = "resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\"";
        return Err(invalid_list_options(&[machinery::FieldError::forbidden(&path, why)]));
    }
    let limit = query.integer("limit")?.and_then(|l| usize::try_from(l).ok()).unwrap_or(0);
    Ok(ListOptions {
        selection: selection(context, &query)?,
        resource_version,
        version_match,
        limit,
        continue_token: query.get("continue").to_owned(),
    })
}

/// 422 about `ListOptions`.
pub fn invalid_list_options(errors: &[machinery::FieldError]) -> StatusError {
    let gvk = machinery::gvk::GroupVersionKind::new("meta.k8s.io", "v1", "ListOptions");
    StatusError::invalid(&gvk, "", errors)
}

/// Reads the selectors.
pub fn selection(context: &Context, query: &Query<'_>) -> StatusResult<Selection> {
    let labels = LabelSelector::parse(query.get("labelSelector"))
        .map_err(|e| StatusError::bad_request(format!("unable to parse requirement: {e}")))?;
    let fields = FieldSelector::parse(query.get("fieldSelector")).map_err(StatusError::bad_request)?;
    let strategy = apiserver_resources::strategy_for(&context.kind.group, &context.kind.plural, "");
    let of_kind = strategy.selectable_fields(&Object::default());
    let mut supported: Vec<&str> = of_kind.iter().map(|(name, _)| *name).collect();
    supported.push("metadata.name");
    if context.kind.namespaced {
        supported.push("metadata.namespace");
    }
    for requirement in fields.requirements() {
        if !supported.contains(&requirement.field.as_str()) {
            return Err(StatusError::bad_request(format!(
                "field label not supported: {}",
                requirement.field
            )));
        }
    }
    let (group, plural) = (&context.kind.group, &context.kind.plural);
    let fields = fields.renamed(|field| apiserver_resources::stored_field(group, plural, field));
    Ok(Selection { labels, fields })
}

/// Reads a resource version; `None` where it is absent.
pub fn revision(query: &Query<'_>, name: &str) -> StatusResult<Option<Revision>> {
    match query.get(name) {
        "" => Ok(None),
        text => text.parse().map(|r| Some(Revision(r))).map_err(|_| {
            let path = machinery::FieldPath::new(name);
            invalid_list_options(&[machinery::FieldError::invalid(
                &path,
                text,
                "must be an unsigned integer",
            )])
        }),
    }
}
