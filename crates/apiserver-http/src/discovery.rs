//! What the server serves, as clients ask for it. Upstream: apiserver/pkg/endpoints/discovery, 1.36.
use std::sync::Arc;

use api::kinds::{Kind, Text};
use http::{HeaderMap, Response, StatusCode};
use machinery::StatusResult;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::body::Body;
use crate::negotiate;
use crate::openapi::{hash, tagged};
use crate::respond;
use crate::server::Server;

/// Answers the paths of discovery; `None` for other paths.
pub fn answer(server: &Server, path: &str, headers: &HeaderMap) -> StatusResult<Option<Response<Body>>> {
    let parts: Vec<&str> = path.trim_start_matches('/').split('/').collect();
    let value = match parts.as_slice() {
        [root @ ("api" | "apis")] if let Some(version) = wants_aggregated(headers) => {
            return Ok(Some(aggregated(server, *root == "api", version, headers)));
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

/// A version of the aggregated form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Aggregated {
    V2,
    /// For clients from before 1.30.
    V2Beta1,
}

impl Aggregated {
    fn version(self) -> &'static str {
        match self {
            Self::V2 => "v2",
            Self::V2Beta1 => "v2beta1",
        }
    }

    fn content_type(self) -> &'static str {
        match self {
            Self::V2 => "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList",
            Self::V2Beta1 => "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList",
        }
    }
}

fn wants_aggregated(headers: &HeaderMap) -> Option<Aggregated> {
    for range in negotiate::ranges(headers) {
        if range.media != "application/json" {
            continue;
        }
        match (range.param("g"), range.param("v"), range.param("as")) {
            ("apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList") => return Some(Aggregated::V2),
            ("apidiscovery.k8s.io", "v2beta1", "APIGroupDiscoveryList") => return Some(Aggregated::V2Beta1),
            ("", "", "") => return None,
            _ => {}
        }
    }
    None
}

fn aggregated(server: &Server, core: bool, form: Aggregated, headers: &HeaderMap) -> Response<Body> {
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
        "apiVersion": format!("apidiscovery.k8s.io/{}", form.version()),
        "metadata": {},
        "items": items,
    });
    let body = serde_json::to_vec(&value).unwrap_or_default();
    tagged(headers, &hash(&body), || respond::bytes(StatusCode::OK, form.content_type(), body))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_form_that_is_asked_for_is_taken() {
        let check = |accept: &str, expect: Option<Aggregated>| {
            let mut headers = HeaderMap::new();
            headers.insert(http::header::ACCEPT, accept.parse().expect("a header"));
            assert_eq!(wants_aggregated(&headers), expect, "{accept}");
        };
        let v2 = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
        let v2beta1 = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";
        check(&format!("{v2},{v2beta1},application/json"), Some(Aggregated::V2));
        check(&format!("{v2beta1},application/json"), Some(Aggregated::V2Beta1));
        check(&format!("application/json,{v2}"), None);
        check("application/json", None);
    }
}
