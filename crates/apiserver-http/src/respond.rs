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

/// As many characters of warnings are sent in full.
const WARNED: usize = 4 * 1024;
/// Beyond that, as many of each, until there are as many again.
const WARNED_EACH: usize = 256;

/// Which of these warnings are sent, and how much of each (endpoints/filters/warning.go).
fn shown(warnings: &[String]) -> Vec<String> {
    let whole: Vec<&String> =
        warnings.iter().filter(|text| !text.is_empty() && !text.chars().any(char::is_control)).collect();
    let length = |text: &str| text.chars().count();
    if whole.iter().map(|text| length(text)).sum::<usize>() <= WARNED {
        return whole.into_iter().cloned().collect();
    }
    let (mut out, mut written) = (Vec::new(), 0);
    for text in whole {
        if written >= WARNED {
            break;
        }
        let cut: String = text.chars().take(WARNED_EACH).collect();
        written += length(&cut);
        out.push(cut);
    }
    out
}

/// Adds `Warning` headers for the writer, behind those that are there.
pub fn warn(response: &mut Response<Body>, warnings: &[String]) {
    for text in shown(warnings) {
        let mut quoted = String::with_capacity(text.len() + 10);
        quoted.push_str("299 - \"");
        for c in text.chars() {
            if matches!(c, '"' | '\\') {
                quoted.push('\\');
            }
            quoted.push(c);
        }
        quoted.push('"');
        if let Ok(value) = HeaderValue::from_bytes(quoted.as_bytes()) {
            response.headers_mut().append(WARNING, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_warnings_are_cut() {
        let few = ["a".to_owned(), String::new(), "b\nc".to_owned()];
        assert_eq!(shown(&few), ["a"]);
        let long = vec!["x".repeat(1000); 5];
        assert_eq!(shown(&long[..4]).iter().map(String::len).collect::<Vec<_>>(), [1000; 4]);
        assert_eq!(shown(&long).iter().map(String::len).collect::<Vec<_>>(), [256; 5]);
        assert_eq!(shown(&vec!["x".repeat(1000); 50]).len(), 16);
    }

    #[test]
    fn warnings_are_quoted_and_in_order() {
        let mut response = Response::new(full(""));
        warn(&mut response, &["first".to_owned(), "say \"ü\"".to_owned()]);
        let all: Vec<&[u8]> = response.headers().get_all(WARNING).iter().map(HeaderValue::as_bytes).collect();
        assert_eq!(all, [&b"299 - \"first\""[..], "299 - \"say \\\"ü\\\"\"".as_bytes()]);
    }
}
