//! What happens to headers on their way through a proxy. Pure.

use std::net::IpAddr;

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{self, Entry},
};

/// Headers about one connection, not about the request.
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
];

/// Removes what belongs to the connection the message came on.
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let listed: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .into_iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        .collect();
    for name in listed.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
}

/// Removes the client's credentials for this server: they are no business of the one behind it.
pub(crate) fn remove_credentials(headers: &mut HeaderMap) {
    headers.remove(header::AUTHORIZATION);
    let impersonation: Vec<HeaderName> =
        headers.keys().filter(|name| name.as_str().starts_with("impersonate-")).cloned().collect();
    for name in impersonation {
        headers.remove(name);
    }
}

/// Adds the client's address for the one behind.
pub(crate) fn add_forwarded_for(headers: &mut HeaderMap, client: IpAddr) {
    let name = HeaderName::from_static("x-forwarded-for");
    let client = client.to_string();
    let value = match headers.get(&name).and_then(|value| value.to_str().ok()) {
        Some(before) => format!("{before}, {client}"),
        None => client,
    };
    if let Ok(value) = HeaderValue::from_str(&value) {
        headers.insert(name, value);
    }
}

/// Removes what a proxied page says about other origins: behind this server they are not true.
pub(crate) fn remove_cors(headers: &mut HeaderMap) {
    for name in [
        header::ACCESS_CONTROL_ALLOW_CREDENTIALS,
        header::ACCESS_CONTROL_ALLOW_HEADERS,
        header::ACCESS_CONTROL_ALLOW_METHODS,
        header::ACCESS_CONTROL_ALLOW_ORIGIN,
        header::ACCESS_CONTROL_EXPOSE_HEADERS,
        header::ACCESS_CONTROL_MAX_AGE,
        header::ACCESS_CONTROL_REQUEST_HEADERS,
        header::ACCESS_CONTROL_REQUEST_METHOD,
    ] {
        headers.remove(name);
    }
}

/// Keeps redirects inside the proxy: an absolute path, or a URL of the target's host, gets the prefix.
pub(crate) fn rewrite_location(headers: &mut HeaderMap, prefix: &str, target_authority: &str) {
    let Entry::Occupied(mut location) = headers.entry(header::LOCATION) else { return };
    let rewritten = location.get().to_str().ok().and_then(|text| rewritten(text, prefix, target_authority));
    if let Some(value) = rewritten.and_then(|text| HeaderValue::from_str(&text).ok()) {
        location.insert(value);
    }
}

fn rewritten(location: &str, prefix: &str, target_authority: &str) -> Option<String> {
    let path = match location.split_once("://") {
        Some((_, rest)) => {
            let (authority, _) = rest.split_once('/').unwrap_or((rest, ""));
            (authority == target_authority).then(|| &rest[authority.len()..])?
        }
        None => location,
    };
    let path = if path.is_empty() { "/" } else { path };
    let prefix = prefix.trim_end_matches('/');
    let inside =
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?']));
    (path.starts_with('/') && !path.starts_with("//") && !inside).then(|| format!("{prefix}{path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drops_what_is_of_one_connection() {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONNECTION, HeaderValue::from_static("close, X-Mine"));
        headers.insert("x-mine", HeaderValue::from_static("1"));
        headers.insert("x-other", HeaderValue::from_static("2"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        remove_hop_by_hop(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["x-other"]);
    }

    #[test]
    fn keeps_credentials_here() {
        let mut headers = HeaderMap::new();
        for name in ["authorization", "impersonate-user", "impersonate-extra-x", "cookie"] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("x"));
        }
        remove_credentials(&mut headers);
        assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["cookie"]);
    }

    #[test]
    fn redirects_stay_inside_the_proxy() {
        let check = |location, expect: Option<&str>| {
            assert_eq!(rewritten(location, "/p/proxy/", "10.0.0.1:80").as_deref(), expect, "{location}");
        };
        check("/login", Some("/p/proxy/login"));
        check("http://10.0.0.1:80/a?b", Some("/p/proxy/a?b"));
        check("http://10.0.0.1:80", Some("/p/proxy/"));
        check("http://elsewhere/a", None);
        check("//elsewhere/a", None);
        check("relative", None);
        check("/p/proxy/already", None);
        check("/p/proxyother", Some("/p/proxy/p/proxyother"));
    }

    #[test]
    fn addresses_line_up() {
        let mut headers = HeaderMap::new();
        add_forwarded_for(&mut headers, [127, 0, 0, 1].into());
        add_forwarded_for(&mut headers, [10, 0, 0, 1].into());
        assert_eq!(headers["x-forwarded-for"], "127.0.0.1, 10.0.0.1");
    }
}
