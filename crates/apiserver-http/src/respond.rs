//! Answers.
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue, RETRY_AFTER, WARNING};
use http::{Response, StatusCode};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use machinery::{Object, StatusError};
use serde::Serialize;

use crate::body::{Body, full};
use crate::negotiate::Media;

/// An answer of some bytes.
pub fn bytes(status: StatusCode, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// An answer in the form agreed on, from JSON bytes.
pub fn json_bytes(status: StatusCode, media: Media, json: impl Into<Bytes>) -> Response<Body> {
    let json = json.into();
    match media {
        Media::Json => bytes(status, media.content_type(), json),
        Media::Yaml => match yaml(&json) {
            Ok(text) => bytes(status, media.content_type(), text),
            Err(e) => error(&StatusError::internal(e)),
        },
        Media::Protobuf => match protobuf(&json) {
            Some(message) => bytes(status, media.content_type(), message),
            None => bytes(status, Media::Json.content_type(), json),
        },
    }
}

/// The message of an object. `None`: it has no such form; a client that takes protobuf reads the `Content-Type`.
fn protobuf(json: &[u8]) -> Option<Vec<u8>> {
    let object: Object = serde_json::from_slice(json).ok()?;
    api::proto::encode_object(&object.0)
        .inspect_err(|e| tracing::debug!(error = %e, "answering in JSON"))
        .ok()
}

fn yaml(json: &[u8]) -> Result<String, Box<dyn std::error::Error>> {
    let value: serde_json::Value = serde_json::from_slice(json)?;
    Ok(serde_saphyr::to_string(&value)?)
}

/// An answer from anything that serializes.
pub fn json(status: StatusCode, media: Media, value: &impl Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(encoded) => json_bytes(status, media, encoded),
        Err(e) => error(&StatusError::internal(e)),
    }
}

/// JSON with indentation, as upstream writes what people ask for with curl.
pub fn indented(value: &serde_json::Value) -> Response<Body> {
    match serde_json::to_vec_pretty(value) {
        Ok(encoded) => json_bytes(StatusCode::OK, Media::Json, encoded),
        Err(e) => error(&StatusError::internal(e)),
    }
}

/// An answer of one object.
pub fn object(status: StatusCode, media: Media, object: &Object) -> Response<Body> {
    json(status, media, object)
}

/// A `Status` with its code.
pub fn error(e: &StatusError) -> Response<Body> {
    let code = StatusCode::from_u16(e.code()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let mut response = json(code, Media::Json, &*e.0);
    if let Some(seconds) = e.0.details.as_ref().and_then(|d| d.retry_after_seconds)
        && matches!(e.code(), 429 | 503 | 504)
    {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
    }
    response
}

/// The `Success` status of a finished deletion.
pub fn deleted(media: Media, group: &str, resource: &str, name: &str, uid: &str) -> Response<Body> {
    let some = |s: &str| (!s.is_empty()).then(|| s.to_owned());
    let mut status = Status { status: Some("Success".into()), ..Status::default() };
    status.details = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::StatusDetails {
        group: some(group),
        kind: some(resource),
        name: some(name),
        uid: some(uid),
        ..Default::default()
    });
    json(StatusCode::OK, media, &status)
}

/// Adds `Warning` headers (RFC 9110 section 5.5, code 299).
pub fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for text in warnings.iter().take(20) {
        let quoted: String = text
            .chars()
            .filter(|c| !c.is_control())
            .flat_map(|c| match c {
                '"' | '\\' => vec!['\\', c],
                c => vec![c],
            })
            .collect();
        if let Ok(value) = HeaderValue::from_str(&format!("299 - \"{quoted}\"")) {
            response.headers_mut().append(WARNING, value);
        }
    }
}
