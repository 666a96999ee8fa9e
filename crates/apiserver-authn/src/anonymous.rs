//! Whoever shows nothing is `system:anonymous`, where that is allowed.
use std::sync::{Arc, LazyLock};

use machinery::request::UserInfo;

use crate::AuthRequest;

/// Which requests without credentials are let through to authorization; the others are answered with 401.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Anonymous {
    /// None.
    Refused,
    /// All.
    Everywhere,
    /// Those to exactly these paths.
    Paths(Vec<String>),
}

static USER: LazyLock<Arc<UserInfo>> = LazyLock::new(|| Arc::new(UserInfo::anonymous()));

impl Anonymous {
    /// Health and version: what a load balancer asks and a client must know before it has credentials.
    pub fn health_and_version() -> Self {
        Self::Paths(["/healthz", "/livez", "/readyz", "/version", "/version/"].map(str::to_owned).to_vec())
    }

    /// The user of a request that shows nothing.
    pub fn user(&self, request: &AuthRequest<'_>) -> Option<Arc<UserInfo>> {
        let allowed = match self {
            Self::Refused => false,
            Self::Everywhere => true,
            Self::Paths(paths) => paths.iter().any(|p| p == request.path),
        };
        allowed.then(|| USER.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_compared_whole() {
        let headers = http::HeaderMap::new();
        let check = |setting: &Anonymous, path: &str| {
            setting.user(&AuthRequest { client_certs: &[], headers: &headers, path }).is_some()
        };
        let some = Anonymous::health_and_version();
        for (path, want) in
            [("/livez", true), ("/livez/", false), ("/livezz", false), ("/api", false), ("/version", true)]
        {
            assert_eq!(check(&some, path), want, "{path}");
        }
        assert!(check(&Anonymous::Everywhere, "/api") && !check(&Anonymous::Refused, "/livez"));
    }
}
