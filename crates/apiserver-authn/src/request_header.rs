//! The front proxy: a client with a certificate of its own CA says in headers for whom it speaks.
use std::sync::Arc;

use async_trait::async_trait;
use http::HeaderMap;
use machinery::request::UserInfo;

use crate::{AuthRequest, Authenticator, AuthnError, ClientCertificate, with_authenticated_group};

/// Names of the headers; `X-Remote-User` and so on.
#[derive(Debug, Clone)]
pub struct RequestHeaderNames {
    /// Headers with the user name; the first present counts.
    pub username: Vec<String>,
    /// Headers with the uid; the first present counts.
    pub uid: Vec<String>,
    /// Headers with groups; all values count.
    pub group: Vec<String>,
    /// Prefixes of headers with extra facts.
    pub extra_prefixes: Vec<String>,
}

impl Default for RequestHeaderNames {
    fn default() -> Self {
        Self {
            username: vec!["x-remote-user".into()],
            uid: vec!["x-remote-uid".into()],
            group: vec!["x-remote-group".into()],
            extra_prefixes: vec!["x-remote-extra-".into()],
        }
    }
}

/// Believes the headers of a proxy that shows the right certificate.
pub struct RequestHeader {
    /// Checks the proxy's certificate.
    pub proxy: ClientCertificate,
    /// Common names a proxy may have; empty means any.
    pub allowed_names: Vec<String>,
    /// Names of the headers.
    pub headers: RequestHeaderNames,
}

/// The user that the headers name.
fn user(names: &RequestHeaderNames, headers: &HeaderMap) -> Option<UserInfo> {
    // What is no ASCII counts too: without it the request would be the proxy's own.
    let utf8 = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let text = |name: &str| headers.get(name).map(utf8).filter(|v| !v.is_empty());
    let first = |list: &[String]| list.iter().find_map(|n| text(n)).unwrap_or_default();
    let name = first(&names.username);
    if name.is_empty() {
        return None;
    }
    let mut user = UserInfo { name, uid: first(&names.uid), ..UserInfo::default() };
    for group in names.group.iter().flat_map(|n| headers.get_all(n.as_str())) {
        let group = utf8(group);
        if !group.is_empty() {
            user.groups.push(group);
        }
    }
    for (header, value) in headers {
        let key = names.extra_prefixes.iter().find_map(|p| {
            let prefix = p.to_ascii_lowercase();
            header.as_str().strip_prefix(prefix.as_str())
        });
        if let Some(key) = key {
            user.extra.entry(percent_decoded(key)).or_default().push(utf8(value));
        }
    }
    Some(user)
}

/// Upstream writes characters that a header name cannot have as `%xx`.
fn percent_decoded(key: &str) -> String {
    let bytes = key.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut i = 0;
    while i < bytes.len() {
        let hex =
            bytes.get(i + 1..i + 3).filter(|_| bytes[i] == b'%').and_then(|h| std::str::from_utf8(h).ok());
        match hex.and_then(|h| u8::from_str_radix(h, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                i += 3;
            }
            None => {
                out.push(bytes[i]);
                i += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| key.to_owned())
}

#[async_trait]
impl Authenticator for RequestHeader {
    async fn authenticate(&self, request: &AuthRequest<'_>) -> Result<Option<Arc<UserInfo>>, AuthnError> {
        // Without the headers this is a plain client, whose certificate another method judges.
        let Some(user) = user(&self.headers, request.headers) else { return Ok(None) };
        // Shown by a client whose certificate is not the proxy's, the headers mean nothing.
        let Ok(Some(proxy)) = self.proxy.user(request.client_certs) else { return Ok(None) };
        if !self.allowed_names.is_empty() && !self.allowed_names.contains(&proxy.name) {
            return Err(AuthnError(format!(
                "x509: subject with cn={} is not in the allowed list",
                proxy.name
            )));
        }
        Ok(Some(Arc::new(with_authenticated_group(user))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_headers() {
        let mut headers = HeaderMap::new();
        assert_eq!(user(&RequestHeaderNames::default(), &headers), None);
        for (k, v) in [
            ("x-remote-user", "jane"),
            ("x-remote-group", "a"),
            ("x-remote-group", "b"),
            ("x-remote-extra-example.com%2fscopes", "x"),
        ] {
            headers.append(k, v.parse().unwrap());
        }
        let user = user(&RequestHeaderNames::default(), &headers).unwrap();
        assert_eq!(
            (user.name.as_str(), user.groups.as_slice()),
            ("jane", &["a".to_owned(), "b".to_owned()][..])
        );
        assert_eq!(user.extra["example.com/scopes"], ["x"]);
    }
    #[test]
    fn a_name_that_is_no_ascii_is_a_name() {
        let mut headers = HeaderMap::new();
        let bytes = |text: &str| http::HeaderValue::from_bytes(text.as_bytes()).unwrap();
        headers.insert("x-remote-user", bytes("jörg"));
        headers.insert("x-remote-group", bytes("gruppe-ü"));
        let user = user(&RequestHeaderNames::default(), &headers).unwrap();
        assert_eq!((user.name.as_str(), user.groups.as_slice()), ("jörg", &["gruppe-ü".to_owned()][..]));
    }
}
