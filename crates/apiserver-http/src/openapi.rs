//! `/openapi/v3`: an index with hashes, and one document for each group and version. `/openapi/v2`: one document of
//! everything, for `kubectl` before 1.27.
//!
//! Documents are made when they are asked for, which clients do once for each hash; only the hashes are kept.
use std::sync::OnceLock;

use api::openapi::{Served, v3_document, v3_hash, v3_index, v3_path};
use api::openapi_v2::{self, v2_document};
use api::openapi_v3_message;
use http::header::{CACHE_CONTROL, ETAG, EXPIRES, HeaderValue, IF_NONE_MATCH, LOCATION, VARY};
use http::{HeaderMap, Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use machinery::{StatusError, StatusResult};
use serde_json::Value;

use crate::body::{Body, full};
use crate::kinds::Kinds;
use crate::negotiate::{Media, ranges};
use crate::query::Query;
use crate::respond;

/// What is known of the documents.
#[derive(Debug, Default)]
pub struct OpenApi {
    /// Path and hash.
    hashes: OnceLock<Vec<(String, String)>>,
}

fn document(kinds: &Kinds, group: &str, version: &str) -> Value {
    let served: Vec<Served<'_>> = kinds
        .all()
        .filter(|k| k.group == group && k.version == version)
        .map(|kind| Served { kind, schema: None })
        .collect();
    v3_document(group, version, &served)
}

fn json(document: &Value) -> Vec<u8> {
    serde_json::to_vec(document).unwrap_or_default()
}

/// Whether the client wants a document as protobuf, which has two names; else as JSON.
fn wants_protobuf(headers: &HeaderMap, names: [&'static str; 2]) -> StatusResult<bool> {
    let ranges = ranges(headers);
    if ranges.is_empty() {
        return Ok(false);
    }
    ranges
        .iter()
        .find_map(|range| match range.media {
            "application/json" | "application/*" | "*/*" => Some(false),
            media => names.contains(&media).then_some(true),
        })
        .ok_or_else(|| StatusError::not_acceptable(&["application/json", names[0], names[1]]))
}

fn answer_v2(kinds: &Kinds, headers: &HeaderMap) -> StatusResult<Response<Body>> {
    let protobuf = wants_protobuf(headers, [openapi_v2::MEDIA, openapi_v2::CONTENT_TYPE])?;
    let served: Vec<Served<'_>> = kinds.all().map(|kind| Served { kind, schema: None }).collect();
    let document = v2_document(&served);
    let (media, bytes) = if protobuf {
        (openapi_v2::CONTENT_TYPE, openapi_v2::encode(&document))
    } else {
        (Media::Json.content_type(), serde_json::to_vec(&document).unwrap_or_default())
    };
    Ok(tagged(headers, &hash(&bytes), || respond::bytes(StatusCode::OK, media, bytes)))
}

/// How long a client may keep a document whose URL has its hash.
const KEEP: &str = "public, immutable";

fn matches(headers: &HeaderMap, etag: &str) -> bool {
    let given = headers.get(IF_NONE_MATCH).and_then(|v| v.to_str().ok()).unwrap_or("");
    given.split(',').map(|v| v.trim().trim_start_matches("W/")).any(|v| v == etag || v == "*")
}

/// Adds the `ETag` of an answer, which is left out when the client has it already.
pub fn tagged(headers: &HeaderMap, hash: &str, answer: impl FnOnce() -> Response<Body>) -> Response<Body> {
    let etag = format!("\"{hash}\"");
    let mut response = if matches(headers, &etag) {
        let mut response = Response::new(full(""));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        answer()
    };
    let out = response.headers_mut();
    if let Ok(value) = HeaderValue::from_str(&etag) {
        out.insert(ETAG, value);
    }
    out.insert(VARY, HeaderValue::from_static("Accept"));
    response
}

/// The hash of an answer's bytes, as upstream writes it in an `ETag`.
pub fn hash(bytes: &[u8]) -> String {
    use sha2::Digest as _;
    sha2::Sha512::digest(bytes).iter().map(|b| format!("{b:02X}")).collect()
}

impl OpenApi {
    /// Answers `/openapi/v2` and paths below `/openapi/v3`; `None` for other paths.
    pub fn answer(
        &self,
        kinds: &Kinds,
        path: &str,
        query: Option<&str>,
        headers: &HeaderMap,
    ) -> StatusResult<Option<Response<Body>>> {
        if path == "/openapi/v2" {
            return answer_v2(kinds, headers).map(Some);
        }
        let Some(rest) = path.strip_prefix("/openapi/v3") else { return Ok(None) };
        let versions = kinds.group_versions();
        let hashes = self.hashes.get_or_init(|| {
            versions.iter().map(|(g, v)| (v3_path(g, v), v3_hash(&json(&document(kinds, g, v))))).collect()
        });
        if rest.is_empty() {
            let index = v3_index(hashes.iter().map(|(path, hash)| (path.as_str(), hash.as_str())));
            let encoded = serde_json::to_vec(&index).unwrap_or_default();
            let hash = hash(&encoded);
            // The index has one form, whatever is asked for.
            let media = Media::Json;
            return Ok(Some(tagged(headers, &hash, || respond::json_bytes(StatusCode::OK, media, encoded))));
        }
        let wanted = rest.trim_start_matches('/');
        let Some((group, version)) = versions.iter().find(|(g, v)| v3_path(g, v) == wanted) else {
            return Ok(None);
        };
        let protobuf =
            wants_protobuf(headers, [openapi_v3_message::MEDIA, openapi_v3_message::CONTENT_TYPE])?;
        let current = hashes.iter().find(|(path, _)| path == wanted).map_or("", |(_, hash)| hash.as_str());
        let query = Query::parse(query.unwrap_or(""));
        let asked = query.get("hash");
        if !asked.is_empty() && asked != current {
            // What a client remembers of an older document leads to the present one.
            let mut response = Response::new(full(""));
            *response.status_mut() = StatusCode::MOVED_PERMANENTLY;
            if let Ok(to) = HeaderValue::from_str(&format!("{path}?hash={current}")) {
                response.headers_mut().insert(LOCATION, to);
            }
            return Ok(Some(response));
        }
        let mut response = tagged(headers, current, || {
            let document = document(kinds, group, version);
            let (media, bytes) = if protobuf {
                (openapi_v3_message::CONTENT_TYPE, openapi_v3_message::encode(&document))
            } else {
                (Media::Json.content_type(), json(&document))
            };
            respond::bytes(StatusCode::OK, media, bytes)
        });
        if !asked.is_empty() {
            response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static(KEEP));
            let year = Timestamp::now() + SignedDuration::from_hours(24 * 365);
            let until = year.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string();
            if let Ok(until) = HeaderValue::from_str(&until) {
                response.headers_mut().insert(EXPIRES, until);
            }
        }
        Ok(Some(response))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http::header::{ACCEPT, CONTENT_TYPE};

    use super::*;

    fn content_type(accept: Option<&str>) -> Result<String, u16> {
        let mut headers = HeaderMap::new();
        if let Some(accept) = accept {
            headers.insert(ACCEPT, accept.parse().expect("a header"));
        }
        let kinds = Kinds::new(api::kinds::KINDS.iter().cloned().map(Arc::new));
        let answer =
            OpenApi::default().answer(&kinds, "/openapi/v2", None, &headers).map_err(|e| e.code())?;
        let answer = answer.expect("the path is served");
        Ok(answer.headers()[CONTENT_TYPE].to_str().expect("text").to_owned())
    }

    #[test]
    fn the_second_version_is_json_unless_protobuf_is_asked_for() {
        assert_eq!(content_type(None).as_deref(), Ok("application/json"));
        assert_eq!(content_type(Some("application/json, */*")).as_deref(), Ok("application/json"));
        assert_eq!(content_type(Some(openapi_v2::MEDIA)).as_deref(), Ok(openapi_v2::CONTENT_TYPE));
        assert_eq!(content_type(Some(openapi_v2::CONTENT_TYPE)).as_deref(), Ok(openapi_v2::CONTENT_TYPE));
        assert_eq!(content_type(Some("application/yaml")), Err(406));
    }

    #[test]
    fn a_document_under_its_hash_may_be_kept() {
        let kinds = Kinds::new(api::kinds::KINDS.iter().cloned().map(Arc::new));
        let openapi = OpenApi::default();
        let get = |path: &str, query: Option<&str>, headers: &HeaderMap| {
            openapi.answer(&kinds, path, query, headers).ok().flatten().expect("it is served")
        };
        let none = HeaderMap::new();
        let index = get("/openapi/v3", None, &none);
        let mut known = HeaderMap::new();
        known.insert(IF_NONE_MATCH, index.headers()[ETAG].clone());
        assert_eq!(get("/openapi/v3", None, &known).status(), 304);
        let path = "/openapi/v3/apis/batch/v1";
        let plain = get(path, None, &none);
        assert_eq!(plain.headers()[CACHE_CONTROL], "no-cache, private");
        let hash = plain.headers()[ETAG].to_str().expect("text").trim_matches('"').to_owned();
        let kept = get(path, Some(&format!("hash={hash}")), &none);
        assert_eq!((kept.status().as_u16(), kept.headers()[CACHE_CONTROL].to_str().ok()), (200, Some(KEEP)));
        let mut binary = HeaderMap::new();
        binary.insert(ACCEPT, openapi_v3_message::MEDIA.parse().expect("a header"));
        let message = get(path, Some(&format!("hash={hash}")), &binary);
        assert_eq!(message.headers()[CONTENT_TYPE], openapi_v3_message::CONTENT_TYPE);
        assert_eq!(message.headers()[ETAG], plain.headers()[ETAG]);
        assert_eq!(get("/openapi/v3", None, &binary).headers()[CONTENT_TYPE], "application/json");
        let mut yaml = HeaderMap::new();
        yaml.insert(ACCEPT, "application/yaml".parse().expect("a header"));
        assert_eq!(openapi.answer(&kinds, path, None, &yaml).map(|_| ()).map_err(|e| e.code()), Err(406));
        let moved = get(path, Some("hash=00"), &none);
        assert_eq!(moved.status(), 301);
        assert_eq!(moved.headers()[LOCATION], format!("{path}?hash={hash}"));
        assert!(openapi.answer(&kinds, "/openapi/v3/apis/none/v1", None, &none).ok().flatten().is_none());
    }
}
