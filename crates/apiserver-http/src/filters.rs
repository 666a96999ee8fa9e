//! The filters before a handler, in upstream's order: panic guard, request info, in-flight limits, authentication,
//! impersonation, authorization. Upstream: apiserver/pkg/server/config.go, `DefaultBuildHandlerChain`, 1.36.
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use apiserver_authn::AuthRequest;
use apiserver_authz::{Decision, forbidden};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{HeaderMap, Method, Request, Response};
use machinery::request::{Attributes, RequestInfo, UserInfo};
use machinery::{StatusError, StatusResult};
use tokio::sync::Semaphore;

use crate::body::{Body, full};
use crate::query::Query;
use crate::request_info::request_info;
use crate::respond;
use crate::server::{Peer, Server};

/// How long a request that is not long-running may take (`--request-timeout`).
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

/// How many requests are served at a time; watches and streams do not count.
pub struct Limits {
    reading: Semaphore,
    writing: Semaphore,
}

impl Limits {
    /// `--max-requests-inflight` and `--max-mutating-requests-inflight`.
    pub fn new(reading: usize, writing: usize) -> Self {
        Self { reading: Semaphore::new(reading), writing: Semaphore::new(writing) }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self::new(400, 200)
    }
}

/// Watches, and streams that end when the client wants.
fn is_long_running(info: &RequestInfo, query: &Query<'_>) -> bool {
    match (info.verb.as_str(), info.subresource.as_str()) {
        ("watch" | "proxy", _) | (_, "exec" | "attach" | "portforward" | "proxy") => true,
        (_, "log") => query.flag("follow"),
        _ => false,
    }
}

impl Server {
    /// Answers one request. Never fails: what goes wrong becomes a `Status`.
    ///
    /// Boxed, since this is the seam where everything below is one type for those above.
    pub fn handle(self: Arc<Self>, peer: Peer, request: Request<Body>) -> BoxFuture<'static, Response<Body>> {
        Box::pin(self.answer(peer, request))
    }

    async fn answer(self: Arc<Self>, peer: Peer, request: Request<Body>) -> Response<Body> {
        let head = request.method() == Method::HEAD;
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let result = AssertUnwindSafe(self.filtered(&peer, request)).catch_unwind().await;
        let mut response = match result {
            Ok(Ok(response)) => response,
            Ok(Err(e)) => {
                if e.code() >= 500 {
                    tracing::warn!(%method, path, code = e.code(), error = %e, "a request failed");
                }
                respond::error(&e)
            }
            Err(_) => {
                tracing::error!(%method, path, "a handler panicked; this is a bug");
                respond::error(&StatusError::internal("the server panicked on this request"))
            }
        };
        if head {
            *response.body_mut() = full("");
        }
        response
    }

    async fn filtered(self: &Arc<Self>, peer: &Peer, request: Request<Body>) -> StatusResult<Response<Body>> {
        let query_text = request.uri().query().unwrap_or("").to_owned();
        let query = Query::parse(&query_text);
        let info = request_info(request.method(), request.uri().path(), &query);
        let long = is_long_running(&info, &query);
        let _slot = if long {
            None
        } else {
            let writes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
            let slots = if writes { &self.limits.writing } else { &self.limits.reading };
            // The master group may always enter, so that an overloaded server can be mended.
            match slots.try_acquire() {
                Ok(slot) => Some(slot),
                Err(_) if peer.local.is_some() => None,
                Err(_) => {
                    let message =
                        "The apiserver handling this request is overloaded, please try again later.";
                    return Err(StatusError::too_many_requests(message, 1));
                }
            }
        };
        let user = self.authenticate(peer, request.headers(), request.uri().path()).await?;
        let user = self.impersonate(user, request.headers()).await?;
        self.authorize(&user, &info).await?;
        let work = async {
            if info.is_resource { self.resource(info, user, request).await } else { self.other(&request) }
        };
        if long {
            return work.await;
        }
        match tokio::time::timeout(REQUEST_TIMEOUT, work).await {
            Ok(result) => result,
            Err(_) => {
                let why = "request did not complete within the allotted timeout";
                Err(StatusError::timeout(why, 0))
            }
        }
    }

    async fn authenticate(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
        path: &str,
    ) -> StatusResult<Arc<UserInfo>> {
        if let Some(user) = &peer.local {
            return Ok(user.clone());
        }
        let asked = AuthRequest { client_certs: &peer.certificates, headers, path };
        match self.authenticator.authenticate(&asked).await {
            Ok(Some(user)) => Ok(user),
            Ok(None) => Err(StatusError::unauthorized()),
            Err(e) => {
                tracing::debug!(error = %e, "credentials were refused");
                Err(StatusError::unauthorized())
            }
        }
    }

    pub(crate) async fn authorize(&self, user: &UserInfo, info: &RequestInfo) -> StatusResult<()> {
        let attributes = Attributes { user, request: info };
        let answer = self.authorizer.authorize(&attributes).await;
        if answer.decision == Decision::Allow {
            return Ok(());
        }
        Err(forbidden(&attributes, answer.reason()))
    }

    /// Upstream: apiserver/pkg/endpoints/filters/impersonation.go.
    async fn impersonate(&self, user: Arc<UserInfo>, headers: &HeaderMap) -> StatusResult<Arc<UserInfo>> {
        let values = |name: &str| -> Vec<String> {
            headers.get_all(name).iter().filter_map(|v| v.to_str().ok()).map(str::to_owned).collect()
        };
        let name = values("impersonate-user").into_iter().next().unwrap_or_default();
        let groups = values("impersonate-group");
        let uid = values("impersonate-uid").into_iter().next().unwrap_or_default();
        let mut extra: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for key in headers.keys() {
            if let Some(suffix) = key.as_str().strip_prefix("impersonate-extra-") {
                let decoded = percent_encoding::percent_decode_str(suffix).decode_utf8_lossy().to_lowercase();
                extra.insert(decoded, values(key.as_str()));
            }
        }
        if name.is_empty() {
            if groups.is_empty() && uid.is_empty() && extra.is_empty() {
                return Ok(user);
            }
            let why = "requested impersonation without impersonating a user";
            return Err(StatusError::internal(why));
        }
        let check = async |group: &str, resource: &str, subresource: &str, namespace: &str, name: &str| {
            let info = RequestInfo {
                verb: "impersonate".into(),
                is_resource: true,
                api_group: group.into(),
                api_version: "v1".into(),
                namespace: namespace.into(),
                resource: resource.into(),
                subresource: subresource.into(),
                name: name.into(),
                ..RequestInfo::default()
            };
            self.authorize(&user, &info).await
        };
        let mut implied: Vec<String> = Vec::new();
        match name.strip_prefix("system:serviceaccount:").and_then(|rest| rest.split_once(':')) {
            Some((namespace, account)) => {
                check("", "serviceaccounts", "", namespace, account).await?;
                if groups.is_empty() {
                    implied.push("system:serviceaccounts".into());
                    implied.push(format!("system:serviceaccounts:{namespace}"));
                }
            }
            None => check("", "users", "", "", &name).await?,
        }
        for group in &groups {
            check("", "groups", "", "", group).await?;
        }
        if !uid.is_empty() {
            check("authentication.k8s.io", "uids", "", "", &uid).await?;
        }
        for (key, all) in &extra {
            for value in all {
                check("authentication.k8s.io", "userextras", key, "", value).await?;
            }
        }
        let mut all = groups;
        all.extend(implied);
        let standing =
            if name == "system:anonymous" { "system:unauthenticated" } else { "system:authenticated" };
        if !all.iter().any(|g| g == "system:authenticated" || g == "system:unauthenticated") {
            all.push(standing.into());
        }
        Ok(Arc::new(UserInfo { name, uid, groups: all, extra }))
    }
}
