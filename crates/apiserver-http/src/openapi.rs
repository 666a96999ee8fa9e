//! `/openapi/v3`: an index with hashes, and one document for each group and version. `/openapi/v2`: one document of
//! everything, for `kubectl` before 1.27.
//!
//! Documents are made when they are asked for, which clients do once for each hash; only the hashes are kept.
use std::sync::OnceLock;

use api::openapi::{Served, v3_document, v3_hash, v3_index, v3_path};
use api::openapi_v2::{self, v2_document};
use http::{HeaderMap, Response, StatusCode};
use machinery::{StatusError, StatusResult};

use crate::body::Body;
use crate::kinds::Kinds;
use crate::negotiate::{Media, negotiate, ranges};
use crate::respond;

/// What is known of the documents.
#[derive(Debug, Default)]
pub struct OpenApi {
    /// Path and hash.
    hashes: OnceLock<Vec<(String, String)>>,
}

fn document(kinds: &Kinds, group: &str, version: &str) -> Vec<u8> {
    let served: Vec<Served<'_>> = kinds
        .all()
        .filter(|k| k.group == group && k.version == version)
        .map(|kind| Served { kind, schema: None })
        .collect();
    serde_json::to_vec(&v3_document(group, version, &served)).unwrap_or_default()
}

/// Whether the client wants the second version as protobuf; else as JSON.
fn wants_protobuf(headers: &HeaderMap) -> StatusResult<bool> {
    let ranges = ranges(headers);
    if ranges.is_empty() {
        return Ok(false);
    }
    ranges
        .iter()
        .find_map(|range| match range.media {
            "application/json" | "application/*" | "*/*" => Some(false),
            openapi_v2::MEDIA | openapi_v2::CONTENT_TYPE => Some(true),
            _ => None,
        })
        .ok_or_else(|| {
            StatusError::not_acceptable(&["application/json", openapi_v2::MEDIA, openapi_v2::CONTENT_TYPE])
        })
}

fn answer_v2(kinds: &Kinds, headers: &HeaderMap) -> StatusResult<Response<Body>> {
    let protobuf = wants_protobuf(headers)?;
    let served: Vec<Served<'_>> = kinds.all().map(|kind| Served { kind, schema: None }).collect();
    let document = v2_document(&served);
    Ok(if protobuf {
        respond::bytes(StatusCode::OK, openapi_v2::CONTENT_TYPE, openapi_v2::encode(&document))
    } else {
        respond::json(StatusCode::OK, Media::Json, &document)
    })
}

impl OpenApi {
    /// Answers `/openapi/v2` and paths below `/openapi/v3`; `None` for other paths.
    pub fn answer(
        &self,
        kinds: &Kinds,
        path: &str,
        headers: &HeaderMap,
    ) -> StatusResult<Option<Response<Body>>> {
        if path == "/openapi/v2" {
            return answer_v2(kinds, headers).map(Some);
        }
        let Some(rest) = path.strip_prefix("/openapi/v3") else { return Ok(None) };
        let media = negotiate(headers, false, false)?.media;
        let versions = kinds.group_versions();
        if rest.is_empty() {
            let hashes = self.hashes.get_or_init(|| {
                versions.iter().map(|(g, v)| (v3_path(g, v), v3_hash(&document(kinds, g, v)))).collect()
            });
            let index = v3_index(hashes.iter().map(|(path, hash)| (path.as_str(), hash.as_str())));
            return Ok(Some(respond::json(StatusCode::OK, media, &index)));
        }
        let wanted = rest.trim_start_matches('/');
        let found = versions.iter().find(|(g, v)| v3_path(g, v) == wanted);
        Ok(found.map(|(g, v)| respond::json_bytes(StatusCode::OK, media, document(kinds, g, v))))
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
        let answer = OpenApi::default().answer(&kinds, "/openapi/v2", &headers).map_err(|e| e.code())?;
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
}
