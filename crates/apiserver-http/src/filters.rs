//! The filters before a handler, in upstream's order: panic guard, request info, in-flight limits, authentication,
//! audit, impersonation, authorization. Upstream: apiserver/pkg/server/config.go, `DefaultBuildHandlerChain`, 1.36.
use std::collections::BTreeMap;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use apiserver_audit::Record;
use apiserver_authn::AuthRequest;
use apiserver_authz::{Answer, Decision, forbidden};
use futures::FutureExt as _;
use futures::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use machinery::request::{Attributes, RequestInfo, UserInfo};
use machinery::{StatusError, StatusResult};

use crate::audit;
use crate::body::{Body, full};
use crate::deliver;
use crate::gzip;
use crate::health::Health;
use crate::metrics::{Labels, Series};
use crate::query::Query;
use crate::request_info::request_info;
use crate::respond;
use crate::server::{Peer, Server};

/// What is counted of all that lies outside of the API, by the beginning of its path.
const COUNTED: [&str; 10] = [
    "/healthz",
    "/livez",
    "/readyz",
    "/metrics",
    "/version",
    "/openapi/v2",
    "/openapi/v3",
    "/apis",
    "/api",
    "/openid/v1/jwks",
];

/// Whether a path ends where a part of it does.
fn ends(rest: &str) -> bool {
    rest.is_empty() || rest.starts_with('/')
}

/// The verb as metrics have it; `None` for methods that nothing takes.
fn reported_verb(info: &RequestInfo, headers: &HeaderMap, long: bool) -> Option<&'static str> {
    Some(match info.verb.as_str() {
        "watch" => "WATCH",
        _ if long => "CONNECT",
        "get" => "GET",
        "list" => "LIST",
        "create" => "POST",
        "update" => "PUT",
        "patch" if crate::write::content_type(headers).starts_with("application/apply-patch+") => "APPLY",
        "patch" => "PATCH",
        "delete" => "DELETE",
        "deletecollection" => "DELETECOLLECTION",
        _ => return None,
    })
}

/// What a request is about: one object, a namespace, or all.
fn scope(info: &RequestInfo) -> &'static str {
    if !info.name.is_empty() || info.verb == "create" {
        "resource"
    } else if !info.namespace.is_empty() {
        "namespace"
    } else {
        "cluster"
    }
}

/// What is recorded of a request, and what it asks.
type Recorded = Option<(Record, RequestInfo)>;

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
        let began = Instant::now();
        let head = request.method() == Method::HEAD;
        let method = request.method().clone();
        let path = request.uri().path().to_owned();
        let query_text = request.uri().query().unwrap_or("").to_owned();
        let query = Query::parse(&query_text);
        let info = request_info(&method, &path, &query);
        let long = is_long_running(&info, &query);
        let gzip = method == Method::GET && !long && gzip::is_accepted(request.headers());
        let series = self.series(&info, &query, &method, request.headers(), long);
        let running = if long { series.clone().map(Series::run) } else { None };
        let mut delivery = deliver::Request { series, running, ..deliver::Request::default() };
        let mut recorded: Recorded = None;
        let id = audit::id(request.headers());
        let filtered = self.filtered(&peer, request, info, &query, long, &mut delivery, &mut recorded, &id);
        let result = AssertUnwindSafe(filtered).catch_unwind().await;
        let (mut response, failed) = match result {
            Ok(Ok(response)) => (response, None),
            Ok(Err(e)) => {
                if e.code() >= 500 {
                    tracing::warn!(%method, path, code = e.code(), error = %e, "a request failed");
                }
                let failed = recorded.is_some().then(|| (*e.0).clone());
                let mut response = respond::error(&e);
                respond::warn(&mut response, &delivery.notes.take_warnings());
                (response, failed)
            }
            Err(_) => {
                tracing::error!(%method, path, "a handler panicked; this is a bug");
                if let Some((record, _)) = recorded.take() {
                    audit::record_panic(record).await;
                }
                (respond::error(&StatusError::internal("the server panicked on this request")), None)
            }
        };
        if let Some((record, info)) = recorded {
            response = self.record_response(record, &info, long, failed, response).await;
        }
        response.headers_mut().insert(audit::AUDIT_ID, id);
        if gzip {
            response = gzip::compress(response);
        }
        if head {
            *response.body_mut() = full("");
        }
        delivery.deliver(began, response)
    }

    /// Where a request is counted; `None` for what is not served.
    fn series(
        &self,
        info: &RequestInfo,
        query: &Query<'_>,
        method: &Method,
        headers: &HeaderMap,
        long: bool,
    ) -> Option<Arc<Series>> {
        if !info.is_resource {
            let path = info.path.trim_end_matches('/');
            let counted = COUNTED.iter().find(|p| path.strip_prefix(**p).is_some_and(ends))?;
            let verb = if *method == Method::GET { "GET" } else { return None };
            let labels = Labels {
                verb,
                dry_run: false,
                group: "",
                version: "",
                resource: "",
                subresource: counted,
                scope: "",
            };
            return self.metrics.series(&labels, || true);
        }
        let labels = Labels {
            verb: reported_verb(info, headers, long)?,
            dry_run: query.get("dryRun") == "All",
            group: &info.api_group,
            version: &info.api_version,
            resource: &info.resource,
            subresource: &info.subresource,
            scope: scope(info),
        };
        self.metrics.series(&labels, || {
            let kind = self.kinds.find(&info.api_group, &info.api_version, &info.resource);
            kind.is_some_and(|k| info.subresource.is_empty() || k.subresource(&info.subresource).is_some())
        })
    }

    #[allow(clippy::too_many_arguments)]
    async fn filtered(
        self: &Arc<Self>,
        peer: &Peer,
        mut request: Request<Body>,
        info: RequestInfo,
        query: &Query<'_>,
        long: bool,
        delivery: &mut deliver::Request,
        recorded: &mut Recorded,
        id: &HeaderValue,
    ) -> StatusResult<Response<Body>> {
        let arrival = self.arrival(&request);
        if !self.serving.load(Ordering::Acquire) && !Health::is_health(&info.path) && peer.local.is_none() {
            let why = "the server is starting: it has not read all of its store yet";
            return Err(StatusError::service_unavailable(why).with_retry_after(1));
        }
        let time = self.limits.timeout(query);
        let began = tokio::time::Instant::now();
        let user = match self.authenticate(peer, request.headers(), request.uri().path()).await {
            Ok(user) => user,
            Err(e) => {
                self.record_stranger(arrival, &info, peer, request.headers(), id).await;
                return Err(e);
            }
        };
        *recorded = self
            .record(arrival, &info, Some(&user), peer, request.headers(), id)
            .map(|record| (record, info.clone()));
        if let Some((record, _)) = recorded {
            audit::record_received(record).await?;
        }
        let asking = user.clone();
        let user = self.impersonate(user, request.headers()).await?;
        if let Some((record, _)) = recorded
            && !Arc::ptr_eq(&asking, &user)
        {
            record.impersonated(&user);
        }
        if !long {
            let writes = !matches!(*request.method(), Method::GET | Method::HEAD | Method::OPTIONS);
            // Parts of this process and the masters may always enter, so that an overloaded server can be mended.
            let exempt = peer.local.is_some() || user.in_group("system:masters");
            delivery.slot = Some(self.limits.enter(writes, exempt)?);
        }
        let answer = self.decide(&user, &info).await;
        if let Some((record, _)) = recorded {
            let allowed = answer.decision == Decision::Allow;
            if allowed || answer.error().is_empty() {
                record.annotate("authorization.k8s.io/decision", if allowed { "allow" } else { "forbid" });
                record.annotate("authorization.k8s.io/reason", answer.reason());
            } else {
                record.annotate("authorization.k8s.io/reason", "internal error");
            }
        }
        Self::obey(&user, &info, &answer)?;
        if let Some((record, _)) = recorded
            && !long
        {
            request = self.record_request(record, &info, request).await?;
        }
        let series = delivery.series.clone();
        let notes = delivery.notes.clone();
        let work = async {
            let done = if info.is_resource {
                self.resource(info, user, request, series, notes.clone()).await
            } else {
                self.other(&request.into_parts().0).await
            };
            if let Some((record, _)) = recorded {
                for (key, value) in notes.take() {
                    record.annotate(key, value);
                }
            }
            done
        };
        if long {
            return work.await;
        }
        let time = time?;
        delivery.deadline = Some(time.saturating_sub(began.elapsed()));
        match tokio::time::timeout_at(began + time, work).await {
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

    async fn decide(&self, user: &UserInfo, info: &RequestInfo) -> Answer {
        self.authorizer.authorize(&Attributes { user, request: info }).await
    }

    fn obey(user: &UserInfo, info: &RequestInfo, answer: &Answer) -> StatusResult<()> {
        if answer.decision == Decision::Allow {
            return Ok(());
        }
        if !answer.error().is_empty() {
            let what = format!("Internal Server Error: {:?}: {}", info.path, answer.error());
            return Err(StatusError::new(500, "InternalError", what));
        }
        Err(forbidden(&Attributes { user, request: info }, answer.reason()))
    }

    pub(crate) async fn authorize(&self, user: &UserInfo, info: &RequestInfo) -> StatusResult<()> {
        Self::obey(user, info, &self.decide(user, info).await)
    }

    /// Upstream: apiserver/pkg/endpoints/filters/impersonation.go.
    async fn impersonate(&self, user: Arc<UserInfo>, headers: &HeaderMap) -> StatusResult<Arc<UserInfo>> {
        // A name that is no ASCII is a name all the same: a value that was left out would let its sender act as itself.
        let values = |name: &str| -> Vec<String> {
            headers.get_all(name).iter().map(|v| String::from_utf8_lossy(v.as_bytes()).into_owned()).collect()
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
