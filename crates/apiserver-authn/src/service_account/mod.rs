//! Tokens of service accounts: who signs them, what they say, when they are still good.
//!
//! [`SigningKey`] and [`VerifyKeys`] hold keys, [`TokenIssuer`] answers TokenRequests, [`ServiceAccountTokens`] checks
//! tokens, and [`openid_configuration`] with [`VerifyKeys::jwks`] tell others how to check them.
mod discovery;
mod issue;
mod keys;
mod legacy;
mod verify;

use std::sync::Arc;

use async_trait::async_trait;
use machinery::Object;

pub use discovery::openid_configuration;
pub use issue::{Bound, BoundRef, TokenIssuer, bound_ref, prepare_token_request};
pub use keys::{KeyError, SigningKey, VerifyKeys};
pub use legacy::LegacyTokens;
pub use verify::ServiceAccountTokens;

/// What token verification must know of the cluster: cached reads, with a live read where the cache has nothing.
#[async_trait]
pub trait ServiceAccountGetter: Send + Sync {
    /// The service account, if it exists.
    async fn service_account(&self, namespace: &str, name: &str) -> Option<Arc<Object>>;
    /// The pod, if it exists.
    async fn pod(&self, namespace: &str, name: &str) -> Option<Arc<Object>>;
    /// The secret, if it exists.
    async fn secret(&self, namespace: &str, name: &str) -> Option<Arc<Object>>;
    /// The node, if it exists.
    async fn node(&self, name: &str) -> Option<Arc<Object>>;
}

/// The user name of a service account.
pub fn user_name(namespace: &str, name: &str) -> String {
    format!("system:serviceaccount:{namespace}:{name}")
}

/// The groups of a service account, `system:authenticated` included.
pub fn groups(namespace: &str) -> Vec<String> {
    vec![
        "system:serviceaccounts".into(),
        format!("system:serviceaccounts:{namespace}"),
        crate::ALL_AUTHENTICATED.into(),
    ]
}

#[cfg(test)]
pub(crate) mod test_keys {
    pub(crate) use super::keys::tests::rsa_pem;
}
