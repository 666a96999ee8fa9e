//! Several methods in turn: the first that knows the user wins.
use std::sync::Arc;

use async_trait::async_trait;
use machinery::request::UserInfo;

use crate::{Anonymous, AuthRequest, Authenticator, AuthnError, TokenAuthenticator, TokenUser};

/// Tries methods in order. Bad credentials for one do not keep the next from trying; but where nobody knows the user
/// and somebody refused, the request is refused, never anonymous.
pub struct Union {
    methods: Vec<Box<dyn Authenticator>>,
    anonymous: Anonymous,
}

impl Union {
    /// These methods, then anonymous where it is allowed.
    pub fn new(methods: Vec<Box<dyn Authenticator>>, anonymous: Anonymous) -> Self {
        Self { methods, anonymous }
    }
}

#[async_trait]
impl Authenticator for Union {
    async fn authenticate(&self, request: &AuthRequest<'_>) -> Result<Option<Arc<UserInfo>>, AuthnError> {
        let mut errors = Vec::new();
        for method in &self.methods {
            match method.authenticate(request).await {
                Ok(Some(user)) => return Ok(Some(user)),
                Ok(None) => {}
                Err(e) => errors.push(e),
            }
        }
        match joined(errors) {
            Some(e) => Err(e),
            None => Ok(self.anonymous.user(request)),
        }
    }
}

/// Tries ways to read a token in order.
pub struct TokenUnion(pub Vec<Box<dyn TokenAuthenticator>>);

#[async_trait]
impl TokenAuthenticator for TokenUnion {
    async fn authenticate_token(
        &self,
        token: &str,
        audiences: &[String],
    ) -> Result<Option<TokenUser>, AuthnError> {
        let mut errors = Vec::new();
        for method in &self.0 {
            match method.authenticate_token(token, audiences).await {
                Ok(Some(user)) => return Ok(Some(user)),
                Ok(None) => {}
                Err(e) => errors.push(e),
            }
        }
        joined(errors).map_or(Ok(None), Err)
    }
}

fn joined(errors: Vec<AuthnError>) -> Option<AuthnError> {
    match errors.as_slice() {
        [] => None,
        [one] => Some(one.clone()),
        many => {
            let texts: Vec<&str> = many.iter().map(|e| e.0.as_str()).collect();
            Some(AuthnError(format!("[{}]", texts.join(", "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Says(Result<Option<&'static str>, &'static str>);

    #[async_trait]
    impl Authenticator for Says {
        async fn authenticate(
            &self,
            _request: &AuthRequest<'_>,
        ) -> Result<Option<Arc<UserInfo>>, AuthnError> {
            match self.0 {
                Ok(name) => Ok(name.map(|n| Arc::new(UserInfo::new(n, &[])))),
                Err(e) => Err(AuthnError(e.into())),
            }
        }
    }

    async fn check(methods: Vec<Says>, anonymous: bool, want: Result<Option<&str>, &str>) {
        let methods = methods.into_iter().map(|m| Box::new(m) as Box<dyn Authenticator>).collect();
        let headers = http::HeaderMap::new();
        let request = AuthRequest { client_certs: &[], headers: &headers, path: "/api" };
        let anonymous = if anonymous { Anonymous::Everywhere } else { Anonymous::Refused };
        let got = Union::new(methods, anonymous).authenticate(&request).await;
        let got = got.map(|user| user.map(|u| u.name.clone())).map_err(|e| e.0);
        assert_eq!(got, want.map(|n| n.map(str::to_owned)).map_err(str::to_owned));
    }

    #[tokio::test]
    async fn bad_credentials_never_fall_back_to_anonymous() {
        check(vec![Says(Ok(None))], true, Ok(Some("system:anonymous"))).await;
        check(vec![Says(Ok(None))], false, Ok(None)).await;
        check(vec![Says(Err("expired"))], true, Err("expired")).await;
        check(
            vec![Says(Err("expired")), Says(Err("invalid bearer token"))],
            true,
            Err("[expired, invalid bearer token]"),
        )
        .await;
        check(vec![Says(Err("expired")), Says(Ok(Some("jane")))], true, Ok(Some("jane"))).await;
    }
}
