//! Who is asking: client certificates, service-account tokens, token files, bootstrap tokens, OpenID Connect, a webhook,
//! a front proxy, anonymous.
//!
//! Read [`Authenticator`] first; [`Union`] tries several in turn. Bearer tokens go through [`TokenAuthenticator`],
//! which the TokenReview API asks too. Everything here is a decision over bytes: no sockets, no storage. What the
//! service-account method must know of the cluster comes through [`service_account::ServiceAccountGetter`], and who has
//! to ask others does so through [`HttpClient`].
mod anonymous;
mod bearer;
mod bootstrap_token;
mod client_certificate;
mod http_client;
pub mod oidc;
mod request_header;
pub mod review;
pub mod service_account;
mod token_cache;
mod token_file;
mod union;
mod webhook;

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use async_trait::async_trait;
use machinery::request::UserInfo;
use rustls_pki_types::CertificateDer;

pub use anonymous::Anonymous;
pub use bearer::BearerToken;
pub use bootstrap_token::BootstrapTokens;
pub use client_certificate::{ClientCertificate, ClientCertificateError};
pub use http_client::{HttpClient, SharedHttpClient};
pub use request_header::{RequestHeader, RequestHeaderNames};
pub use token_cache::TokenCache;
pub use token_file::{TokenFile, TokenFileError};
pub use union::{TokenUnion, Union};
pub use webhook::TokenWebhook;

/// What an authenticator may look at.
#[derive(Debug, Clone, Copy)]
pub struct AuthRequest<'a> {
    /// The chain the client proved to own, leaf first; empty where it showed none.
    pub client_certs: &'a [CertificateDer<'a>],
    /// Headers of the request.
    pub headers: &'a http::HeaderMap,
    /// Its path.
    pub path: &'a str,
}

/// A method whose files may change while it is in use.
#[async_trait]
impl<T: Authenticator> Authenticator for pki::Fresh<T> {
    async fn authenticate(&self, request: &AuthRequest<'_>) -> Result<Option<Arc<UserInfo>>, AuthnError> {
        self.get().authenticate(request).await
    }
}

/// Credentials that were shown and are no good: the answer is 401. The text is for the server's log.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct AuthnError(pub String);

/// One way to tell who asks.
#[async_trait]
pub trait Authenticator: Send + Sync {
    /// The user; `None` where the request carries nothing that this method understands.
    async fn authenticate(&self, request: &AuthRequest<'_>) -> Result<Option<Arc<UserInfo>>, AuthnError>;
}

/// Whom a token stands for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TokenUser {
    /// The user.
    pub user: Arc<UserInfo>,
    /// Which of the audiences asked for the token is good for; empty where the method knows no audiences.
    pub audiences: Vec<String>,
}

/// One way to read a bearer token.
#[async_trait]
pub trait TokenAuthenticator: Send + Sync {
    /// The user of a token that is good for at least one of `audiences` (none given: the server's own).
    async fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<TokenUser>, AuthnError>;
}

#[async_trait]
impl TokenAuthenticator for Arc<dyn TokenAuthenticator> {
    async fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<TokenUser>, AuthnError> {
        self.as_ref().authenticate_token(token, audiences).await
    }
}

/// Tells the time; tests tell another.
pub type Now = Arc<dyn Fn() -> SystemTime + Send + Sync>;

/// The machine's clock.
pub fn system_time() -> Now {
    Arc::new(SystemTime::now)
}

/// Seconds since 1970; a clock before that reads as 0.
fn unix_seconds(time: SystemTime) -> i64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
}

/// The group of everyone who is somebody.
pub const ALL_AUTHENTICATED: &str = "system:authenticated";

/// The key of `extra` that tells which credential was shown.
pub const CREDENTIAL_ID: &str = "authentication.kubernetes.io/credential-id";

/// Adds `system:authenticated`, unless the user says to be nobody.
fn with_authenticated_group(mut user: UserInfo) -> UserInfo {
    if !user.in_group(ALL_AUTHENTICATED) && !user.in_group("system:unauthenticated") {
        user.groups.push(ALL_AUTHENTICATED.to_owned());
    }
    user
}

fn sha256(parts: &[&[u8]]) -> [u8; 32] {
    use sha2::{Digest as _, Sha256};
    let mut hash = Sha256::new();
    for part in parts {
        hash.update(part);
    }
    hash.finalize().into()
}
