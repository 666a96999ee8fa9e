//! Clients that act as service accounts: each request carries a token got by TokenRequest, renewed before it expires.
//!
//! Upstream: controller/clientbuilder in k8s.io/cloud-provider and transport/token_source.go in client-go, 1.36.
use std::sync::Arc;
use std::time::Duration;

use base::Chain;
use http::header::{AUTHORIZATION, HeaderValue};
use http::{Request, StatusCode};
use k8s_openapi::api::authentication::v1::{TokenRequest, TokenRequestSpec};
use k8s_openapi::api::core::v1::ServiceAccount;
use kube::api::PostParams;
use kube::client::Body;
use kube::{Api, Client};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tower::BoxError;

use crate::transport::in_process;

/// How long a token is asked for, as upstream's controllers do.
const LIFETIME: Duration = Duration::from_secs(3600);
/// How long the API server gets to make a token.
const PATIENCE: Duration = Duration::from_secs(30);
/// How long to go on with a good token before asking again, where it could not be renewed.
const AGAIN: Duration = Duration::from_secs(10);

/// Makes clients for the service accounts of one namespace. An account that does not exist is created.
#[derive(Clone)]
pub struct ServiceAccounts {
    transport: Client,
    issuer: Client,
    namespace: String,
    agent: String,
}

impl ServiceAccounts {
    /// `transport` has no credentials of its own; `issuer` may create service accounts and tokens for them.
    pub fn new(transport: Client, issuer: Client, namespace: &str, user_agent: &str) -> Self {
        Self { transport, issuer, namespace: namespace.into(), agent: user_agent.into() }
    }

    /// The client of one account. Its first request gets the first token.
    pub fn client(&self, account: &str) -> Client {
        let transport = self.transport.clone();
        let tokens = Arc::new(Tokens {
            api: Api::namespaced(self.issuer.clone(), &self.namespace),
            account: account.to_owned(),
            held: Mutex::new(None),
        });
        let service = tower::service_fn(move |mut request: Request<Body>| {
            let (transport, tokens) = (transport.clone(), tokens.clone());
            async move {
                let token = tokens.current().await?;
                request.headers_mut().insert(AUTHORIZATION, token.clone());
                let response = transport.send(request).await?;
                if response.status() == StatusCode::UNAUTHORIZED {
                    tokens.forget(&token).await;
                }
                Ok::<_, BoxError>(response)
            }
        });
        in_process(service, &format!("{} {account}", self.agent))
    }
}

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
enum TokenError {
    #[error("cannot get a token for service account {account}")]
    Refused {
        account: String,
        #[source]
        source: Box<kube::Error>,
    },
    #[error("cannot get a token for service account {account}: no answer within {} s", PATIENCE.as_secs())]
    Timeout { account: String },
    #[error("the token of service account {account} is no header value")]
    Unusable { account: String },
}

struct Tokens {
    api: Api<ServiceAccount>,
    account: String,
    held: Mutex<Option<Held>>,
}

/// A token, and what its age means on our own clock: the server's is never compared with ours.
struct Held {
    header: HeaderValue,
    renew: Instant,
    expires: Instant,
}

impl Tokens {
    /// A token that is good for a while. Requests that come while one is being made wait for it.
    async fn current(&self) -> Result<HeaderValue, TokenError> {
        let mut held = self.held.lock().await;
        let now = Instant::now();
        if let Some(held) = held.as_ref().filter(|held| now < held.renew) {
            return Ok(held.header.clone());
        }
        let error = match tokio::time::timeout(PATIENCE, self.make()).await {
            Ok(Ok((header, lifetime))) => {
                tracing::debug!(account = self.account, seconds = lifetime.as_secs(), "got a token");
                let renew = now + lifetime * 4 / 5;
                *held = Some(Held { header: header.clone(), renew, expires: now + lifetime });
                return Ok(header);
            }
            Ok(Err(error)) => error,
            Err(_) => TokenError::Timeout { account: self.account.clone() },
        };
        match held.as_mut().filter(|held| Instant::now() < held.expires) {
            Some(held) => {
                tracing::warn!(error = %Chain(&error), "the token is not renewed yet");
                held.renew = Instant::now() + AGAIN;
                Ok(held.header.clone())
            }
            None => Err(error),
        }
    }

    /// The server does not take a token any more: its account was made anew, or the server's key.
    async fn forget(&self, refused: &HeaderValue) {
        let mut held = self.held.lock().await;
        if held.as_ref().is_some_and(|held| held.header == *refused) {
            *held = None;
        }
    }

    async fn make(&self) -> Result<(HeaderValue, Duration), TokenError> {
        let refused =
            |source| TokenError::Refused { account: self.account.clone(), source: Box::new(source) };
        let answer = match self.request().await {
            Err(kube::Error::Api(status)) if status.code == 404 => {
                self.create_account().await.map_err(refused)?;
                self.request().await
            }
            answer => answer,
        };
        let answer = answer.map_err(refused)?;
        let status = answer.status.unwrap_or_default();
        let unusable = |_| TokenError::Unusable { account: self.account.clone() };
        let mut header = HeaderValue::from_str(&format!("Bearer {}", status.token.unwrap_or_default()))
            .map_err(unusable)?;
        header.set_sensitive(true);
        // The server may grant less than was asked for, or more.
        let seconds =
            answer.spec.and_then(|spec| spec.expiration_seconds).and_then(|s| u64::try_from(s).ok());
        Ok((header, seconds.map_or(LIFETIME, Duration::from_secs)))
    }

    async fn request(&self) -> Result<TokenRequest, kube::Error> {
        let spec = TokenRequestSpec {
            expiration_seconds: i64::try_from(LIFETIME.as_secs()).ok(),
            ..TokenRequestSpec::default()
        };
        let request = TokenRequest { spec: Some(spec), ..TokenRequest::default() };
        self.api.create_token_request(&self.account, &PostParams::default(), &request).await
    }

    async fn create_account(&self) -> Result<(), kube::Error> {
        let mut account = ServiceAccount::default();
        account.metadata.name = Some(self.account.clone());
        match self.api.create(&PostParams::default(), &account).await {
            Ok(_) => tracing::info!(account = self.account, "created a service account"),
            Err(kube::Error::Api(status)) if status.code == 409 => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex as Shared;

    use http::{Method, Response};
    use http_body_util::Full;
    use k8s_openapi::api::core::v1::Namespace;
    use serde_json::{Value, json};

    use super::*;

    /// A server that knows accounts and counts the tokens it gave out.
    #[derive(Default)]
    struct Server {
        accounts: Vec<String>,
        given: usize,
        /// Tokens before this one are refused.
        oldest: usize,
        down: bool,
        seen: Vec<String>,
    }

    impl Server {
        fn answer(&mut self, request: &Request<Body>) -> (u16, Value) {
            let path = request.uri().path().to_owned();
            let fail = |code: u16, reason: &str| {
                let value = json!({ "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code,
                    "reason": reason, "message": reason });
                (code, value)
            };
            if path.ends_with("/token") {
                if self.down {
                    return fail(500, "InternalError");
                }
                if self.accounts.is_empty() {
                    return fail(404, "NotFound");
                }
                self.given += 1;
                let status =
                    json!({ "token": self.given.to_string(), "expirationTimestamp": "2000-01-01T00:00:00Z" });
                return (
                    201,
                    json!({ "spec": { "audiences": [], "expirationSeconds": 1000 }, "status": status }),
                );
            }
            if request.method() == Method::POST {
                self.accounts.push(path);
                return (201, json!({ "metadata": { "name": "a" } }));
            }
            let token = request.headers()[AUTHORIZATION].to_str().unwrap_or_default().to_owned();
            let number: usize = token.trim_start_matches("Bearer ").parse().unwrap_or(0);
            self.seen.push(token);
            if number < self.oldest {
                return fail(401, "Unauthorized");
            }
            (200, json!({ "metadata": { "name": "x" } }))
        }
    }

    fn client_of(server: &Arc<Shared<Server>>) -> Client {
        let server = server.clone();
        let service = tower::service_fn(move |request: Request<Body>| {
            let (code, value) = server.lock().unwrap_or_else(|e| e.into_inner()).answer(&request);
            let body = Full::new(bytes::Bytes::from(value.to_string()));
            let mut response = Response::new(body);
            *response.status_mut() = StatusCode::from_u16(code).unwrap_or_default();
            async move { Ok::<_, BoxError>(response) }
        });
        in_process(service, "test")
    }

    fn seen(server: &Arc<Shared<Server>>) -> Vec<String> {
        std::mem::take(&mut server.lock().unwrap_or_else(|e| e.into_inner()).seen)
    }

    #[tokio::test(start_paused = true)]
    async fn tokens_are_kept_renewed_in_time_and_dropped_when_refused() {
        let server = Arc::new(Shared::new(Server::default()));
        let change = |how: &dyn Fn(&mut Server)| how(&mut server.lock().unwrap_or_else(|e| e.into_inner()));
        let accounts = ServiceAccounts::new(client_of(&server), client_of(&server), "kube-system", "test/v1");
        let api: Api<Namespace> = Api::all(accounts.client("job-controller"));

        api.get("x").await.expect("the first token");
        api.get("x").await.expect("the same token");
        assert_eq!(seen(&server), ["Bearer 1", "Bearer 1"]);
        let made = server.lock().unwrap_or_else(|e| e.into_inner()).accounts.clone();
        assert_eq!(made, ["/api/v1/namespaces/kube-system/serviceaccounts"]);

        // Four fifths of its life: 1000 s was granted, whatever was asked for.
        tokio::time::advance(Duration::from_secs(799)).await;
        api.get("x").await.expect("still good");
        tokio::time::advance(Duration::from_secs(2)).await;
        api.get("x").await.expect("renewed");
        assert_eq!(seen(&server), ["Bearer 1", "Bearer 2"]);

        // A server that is short of breath: the old one serves while it lasts.
        change(&|s| s.down = true);
        tokio::time::advance(Duration::from_secs(900)).await;
        api.get("x").await.expect("not expired yet");
        assert_eq!(seen(&server), ["Bearer 2"]);
        tokio::time::advance(Duration::from_secs(101)).await;
        let error = Chain(&api.get("x").await.expect_err("expired")).to_string();
        assert!(error.contains("cannot get a token for service account job-controller"), "{error}");
        assert_eq!(seen(&server), [""; 0]);

        // Refused: the next request comes with a new one.
        change(&|s| s.down = false);
        api.get("x").await.expect("a third token");
        change(&|s| s.oldest = 4);
        api.get("x").await.expect_err("refused");
        api.get("x").await.expect("a fourth token");
        assert_eq!(seen(&server), ["Bearer 3", "Bearer 3", "Bearer 4"]);
    }
}
