//! `/openapi/v3`: an index with hashes, and one document for each group and version.
//!
//! Documents are made when they are asked for, which clients do once for each hash; only the hashes are kept.
use std::sync::OnceLock;

use api::openapi::{Served, v3_document, v3_hash, v3_index, v3_path};
use http::{HeaderMap, Response, StatusCode};
use machinery::StatusResult;

use crate::body::Body;
use crate::kinds::Kinds;
use crate::negotiate::negotiate;
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

impl OpenApi {
    /// Answers paths below `/openapi/v3`; `None` for other paths.
    pub fn answer(
        &self,
        kinds: &Kinds,
        path: &str,
        headers: &HeaderMap,
    ) -> StatusResult<Option<Response<Body>>> {
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
