//! Whoever shows nothing is `system:anonymous`.
use std::sync::{Arc, LazyLock};

use async_trait::async_trait;
use machinery::request::UserInfo;

use crate::{AuthRequest, Authenticator, AuthnError};

/// Takes every request. Comes last.
#[derive(Debug, Clone, Copy)]
pub struct Anonymous;

static USER: LazyLock<Arc<UserInfo>> = LazyLock::new(|| Arc::new(UserInfo::anonymous()));

#[async_trait]
impl Authenticator for Anonymous {
    async fn authenticate(&self, _request: &AuthRequest<'_>) -> Result<Option<Arc<UserInfo>>, AuthnError> {
        Ok(Some(USER.clone()))
    }
}
