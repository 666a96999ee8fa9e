//! What the server serves, as clients ask for it. Upstream: apiserver/pkg/endpoints/discovery, 1.36.
use std::sync::Arc;

use api::kinds::{Kind, Text};
use http::header::{ETAG, HeaderValue, IF_NONE_MATCH, VARY};
use http::{HeaderMap, Response, StatusCode};
use machinery::StatusResult;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::body::{Body, full};
use crate::negotiate;
use crate::respond;
use crate::server::Server;

/// Answers the paths of discovery; `None` for other paths.
pub fn answer(server: &Server, path: &str, headers: &HeaderMap) -> StatusResult<Option<Response<Body>>> {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let value = match parts.as_slice() {
        [root @ ("api" | "apis")] if wants_aggregated(headers) => {
            return Ok(Some(aggregated(server, *root == "api", headers)));
        }
        ["api"] => json!({
            "kind": "APIVersions",
            "versions": ["v1"],
            "serverAddressByClientCIDRs": [],
        }),
        ["apis"] => json!({
            "kind": "APIGroupList",
            "apiVersion": "v1",
            "groups": server.kinds.groups().iter().map(|(g, v)| group(g, v)).collect::<Vec<_>>(),
        }),
        ["apis", name] => match server.kinds.groups().iter().find(|(g, _)| g == name) {
            Some((g, versions)) => {
                let mut value = group(g, versions);
                value["kind"] = "APIGroup".into();
                value["apiVersion"] = "v1".into();
                value
            }
            None => return Ok(None),
        },
        ["api", version] => match resources(server, "", version) {
            Some(value) => value,
            None => return Ok(None),
        },
        ["apis", group, version] => match resources(server, group, version) {
            Some(value) => value,
            None => return Ok(None),
        },
        _ => return Ok(None),
    };
    let media = negotiate::negotiate(headers, false, false)?.media;
    Ok(Some(respond::json(StatusCode::OK, media, &value)))
}

fn group(name: &str, versions: &[String]) -> Value {
    let version = |v: &String| json!({ "groupVersion": format!("{name}/{v}"), "version": v });
    json!({
        "name": name,
        "versions": versions.iter().map(version).collect::<Vec<_>>(),
        "preferredVersion": versions.first().map(version),
    })
}

/// Verbs of a subresource as discovery shows them: streaming ones are created or got.
fn texts(values: &[Text]) -> Vec<&str> {
    values.iter().map(|v| &**v).collect()
}

/// `storageVersionHash` of upstream: first bytes of the hash of group/version/kind as it is stored, in base64.
fn storage_version_hash(kind: &Kind) -> String {
    use base64::Engine as _;
    let (group, version) = match (&*kind.group, &*kind.version) {
        ("events.k8s.io", _) => ("", "v1"),
        ("autoscaling", "v1") => ("autoscaling", "v2"),
        own => own,
    };
    let hash = Sha256::digest(format!("{group}/{version}/{}", kind.kind));
    base64::engine::general_purpose::STANDARD.encode(&hash[..8])
}

fn resources(server: &Server, group: &str, version: &str) -> Option<Value> {
    let kinds: Vec<&Arc<Kind>> =
        server.kinds.all().filter(|k| k.group == group && k.version == version).collect();
    let first = kinds.first()?;
    let mut list = Vec::new();
    for kind in &kinds {
        let mut entry = json!({
            "name": kind.plural,
            "singularName": kind.singular,
            "namespaced": kind.namespaced,
            "kind": kind.kind,
            "verbs": texts(&kind.verbs),
        });
        if !kind.short_names.is_empty() {
            entry["shortNames"] = texts(&kind.short_names).into();
        }
        if !kind.categories.is_empty() {
            entry["categories"] = texts(&kind.categories).into();
        }
        if kind.has_verb("list") {
            entry["storageVersionHash"] = storage_version_hash(kind).into();
        }
        list.push(entry);
        for sub in kind.subresources.iter() {
            let mut entry = json!({
                "name": format!("{}/{}", kind.plural, sub.name),
                "singularName": "",
                "namespaced": kind.namespaced,
                "kind": sub.kind,
                "verbs": texts(&sub.verbs),
            });
            if sub.group != kind.group || sub.version != kind.version {
                entry["group"] = (&*sub.group).into();
                entry["version"] = (&*sub.version).into();
            }
            list.push(entry);
        }
    }
    Some(json!({
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": first.api_version(),
        "resources": list,
    }))
}

fn wants_aggregated(headers: &HeaderMap) -> bool {
    for range in negotiate::ranges(headers) {
        if range.media != "application/json" {
            continue;
        }
        match (range.param("g"), range.param("v"), range.param("as")) {
            ("apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList") => return true,
            ("", "", "") => return false,
            _ => {}
        }
    }
    false
}

fn aggregated(server: &Server, core: bool, headers: &HeaderMap) -> Response<Body> {
    let groups = if core { vec![(String::new(), vec!["v1".to_owned()])] } else { server.kinds.groups() };
    let items: Vec<Value> = groups
        .iter()
        .map(|(group, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|version| {
                    let resources: Vec<Value> = server
                        .kinds
                        .all()
                        .filter(|k| k.group == *group && k.version == *version)
                        .map(|k| aggregated_resource(k))
                        .collect();
                    json!({ "version": version, "freshness": "Current", "resources": resources })
                })
                .collect();
            let mut metadata = json!({ "creationTimestamp": null });
            if !group.is_empty() {
                metadata["name"] = group.as_str().into();
            }
            json!({ "metadata": metadata, "versions": versions })
        })
        .collect();
    let value = json!({
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    });
    let body = serde_json::to_vec(&value).unwrap_or_default();
    let hash: String = Sha256::digest(&body).iter().map(|b| format!("{b:02X}")).collect();
    let etag = format!("\"{hash}\"");
    let mut response = if headers.get(IF_NONE_MATCH).and_then(|v| v.to_str().ok()).is_some_and(|v| v == etag)
    {
        let mut response = Response::new(full(""));
        *response.status_mut() = StatusCode::NOT_MODIFIED;
        response
    } else {
        respond::bytes(
            StatusCode::OK,
            "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            body,
        )
    };
    if let Ok(value) = HeaderValue::from_str(&etag) {
        response.headers_mut().insert(ETAG, value);
    }
    response.headers_mut().insert(VARY, HeaderValue::from_static("Accept"));
    response
}

fn aggregated_resource(kind: &Kind) -> Value {
    let response_kind = |group: &str, version: &str, name: &str| {
        // A group and version equal to the parent's are left empty.
        let same = group == kind.group && version == kind.version;
        json!({
            "group": if same { "" } else { group },
            "version": if same { "" } else { version },
            "kind": name,
        })
    };
    let mut value = json!({
        "resource": kind.plural,
        "responseKind": response_kind(&kind.group, &kind.version, &kind.kind),
        "scope": if kind.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": kind.singular,
        "verbs": texts(&kind.verbs),
    });
    if !kind.short_names.is_empty() {
        value["shortNames"] = texts(&kind.short_names).into();
    }
    if !kind.categories.is_empty() {
        value["categories"] = texts(&kind.categories).into();
    }
    if !kind.subresources.is_empty() {
        let subresources: Vec<Value> = kind
            .subresources
            .iter()
            .map(|s| {
                json!({
                    "subresource": s.name,
                    "responseKind": response_kind(&s.group, &s.version, &s.kind),
                    "verbs": texts(&s.verbs),
                })
            })
            .collect();
        value["subresources"] = subresources.into();
    }
    value
}
