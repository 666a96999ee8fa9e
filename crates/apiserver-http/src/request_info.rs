//! From a path to what it asks for. Upstream: apiserver/pkg/endpoints/request/requestinfo.go, 1.36.
use http::Method;
use machinery::field_selector::FieldSelector;
use machinery::names;
use machinery::request::RequestInfo;
use percent_encoding::percent_decode_str;

use crate::query::Query;

/// Reads method, path and query.
pub fn request_info(method: &Method, path: &str, query: &Query<'_>) -> RequestInfo {
    let mut info = RequestInfo {
        path: path.to_owned(),
        verb: method.as_str().to_ascii_lowercase(),
        ..RequestInfo::default()
    };
    let decoded: Vec<String> = path
        .trim_matches('/')
        .split('/')
        .map(|part| percent_decode_str(part).decode_utf8_lossy().into_owned())
        .collect();
    let mut parts: &[String] = &decoded;
    let take = |parts: &mut &[String]| -> String {
        match parts.split_first() {
            Some((first, rest)) => {
                *parts = rest;
                first.clone()
            }
            None => String::new(),
        }
    };
    let grouped = match parts.first().map(String::as_str) {
        Some("api") if parts.len() >= 3 => false,
        Some("apis") if parts.len() >= 4 => true,
        _ => return info,
    };
    take(&mut parts);
    if grouped {
        info.api_group = take(&mut parts);
    }
    info.api_version = take(&mut parts);
    info.is_resource = true;

    if matches!(parts.first().map(String::as_str), Some("proxy" | "watch")) && parts.len() > 1 {
        info.verb = take(&mut parts);
    } else {
        info.verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => "",
        }
        .to_owned();
    }
    let sub_of_namespace = |s: &str| matches!(s, "status" | "finalize");
    if parts.first().map(String::as_str) == Some("namespaces")
        && let Some(namespace) = parts.get(1)
    {
        info.namespace.clone_from(namespace);
        // A namespace's own status and finalize are subresources, all else is a resource in it.
        if parts.len() > 2 && !sub_of_namespace(&parts[2]) {
            parts = &parts[2..];
        }
    }
    if let Some(resource) = parts.first() {
        info.resource.clone_from(resource);
    }
    if let Some(name) = parts.get(1) {
        info.name.clone_from(name);
    }
    if let Some(subresource) = parts.get(2) {
        info.subresource.clone_from(subresource);
    }
    if parts.len() > 3 {
        info.rest = parts[3..].join("/");
    }
    if info.name.is_empty() && info.verb == "get" {
        info.verb = if query.flag("watch") { "watch" } else { "list" }.into();
    }
    if info.name.is_empty() && info.verb == "delete" {
        info.verb = "deletecollection".into();
    }
    if matches!(info.verb.as_str(), "list" | "watch" | "deletecollection") {
        info.field_selector = query.get("fieldSelector").to_owned();
        info.label_selector = query.get("labelSelector").to_owned();
    }
    if matches!(info.verb.as_str(), "list" | "watch") && info.name.is_empty() {
        // Only the real parser knows which commas separate terms: authorization believes this name.
        let selector = FieldSelector::parse(&info.field_selector).unwrap_or_default();
        let named = selector.exact("metadata.name").filter(|name| names::path_segment(name).is_empty());
        info.name = named.unwrap_or("").to_owned();
    }
    info
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(method: &str, target: &str, expect: &str) {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let i = request_info(&method.parse().unwrap(), path, &Query::parse(query));
        let got = format!(
            "{} {}/{} ns={} {} name={} sub={} {}",
            i.verb, i.api_group, i.api_version, i.namespace, i.resource, i.name, i.subresource, i.rest
        );
        assert_eq!(got.trim_end(), expect, "{method} {target}");
    }

    #[test]
    fn paths_are_read_as_upstream_reads_them() {
        check("GET", "/api/v1/pods", "list /v1 ns= pods name= sub=");
        check("GET", "/api/v1/pods?watch=true", "watch /v1 ns= pods name= sub=");
        check("GET", "/api/v1/watch/pods", "watch /v1 ns= pods name= sub=");
        check("GET", "/api/v1/namespaces/a", "get /v1 ns=a namespaces name=a sub=");
        check("PUT", "/api/v1/namespaces/a/finalize", "update /v1 ns=a namespaces name=a sub=finalize");
        check("POST", "/api/v1/namespaces/a/pods", "create /v1 ns=a pods name= sub=");
        check(
            "DELETE",
            "/apis/apps/v1/namespaces/a/deployments",
            "deletecollection apps/v1 ns=a deployments name= sub=",
        );
        check("GET", "/api/v1/namespaces/a/pods/p/log", "get /v1 ns=a pods name=p sub=log");
        check("GET", "/api/v1/nodes/n/proxy/a/b", "get /v1 ns= nodes name=n sub=proxy a/b");
        check(
            "GET",
            "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Dx&watch=1",
            "watch /v1 ns=a pods name=x sub=",
        );
        // An escaped comma is part of a value: this selects nearly everything, and names nothing.
        check(
            "GET",
            "/api/v1/namespaces/a/secrets?fieldSelector=type!%3Dx%5C,metadata.name%3Dy",
            "list /v1 ns=a secrets name= sub=",
        );
        check("GET", "/healthz", "get / ns=  name= sub=");
        check("GET", "/apis/apps/v1", "get / ns=  name= sub=");
    }
}
