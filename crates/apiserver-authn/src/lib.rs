//! Who is asking: client certificates, service-account tokens, token files, bootstrap tokens, front proxy, anonymous.
//!
//! Read [`Authenticator`] first. Bearer tokens go through [`TokenAuthenticator`],
//! which the TokenReview API asks too. Everything here is a decision over bytes: no sockets, no storage. What the
//! service-account method must know of the cluster comes through [`service_account::ServiceAccountGetter`].
pub mod service_account;

use std::sync::Arc;

use async_trait::async_trait;
use machinery::request::UserInfo;
use rustls_pki_types::CertificateDer;

/// What an authenticator may look at.
#[derive(Debug, Clone, Copy)]
pub struct AuthRequest<'a> {
    /// The chain the client proved to own, leaf first; empty where it showed none.
    pub client_certs: &'a [CertificateDer<'a>],
    /// Headers of the request.
    pub headers: &'a http::HeaderMap,
}

/// Credentials that were shown and are no good: the answer is 401. The text is for the server's log.
#[derive(Debug, Clone, thiserror::Error)]
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
