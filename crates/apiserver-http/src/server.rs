//! The server: what it consists of, and how a request finds its handler.
use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use api::kinds::Kind;
use apiserver_admission::Chain;
use apiserver_audit::Audit;
use apiserver_authn::{Authenticator, TokenAuthenticator};
use apiserver_authz::Authorizer;
use apiserver_registry::{Notes, Registry, Store, Warnings};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use machinery::request::{RequestInfo, UserInfo};
use machinery::{Object, StatusError, StatusResult};
use rustls_pki_types::CertificateDer;
use tokio_util::sync::CancellationToken;

use crate::body::Body;
use crate::context::{Context, Endpoint};
use crate::health::Health;
use crate::kinds::Kinds;
use crate::limits::Limits;
use crate::metrics::{Metrics, Series, Text};
use crate::openapi::OpenApi;
use crate::query::Query;
use crate::{deprecation, read, respond, watch, write};

/// Who is at the other end of a connection.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// The chain the client proved to own, leaf first.
    pub certificates: Arc<[CertificateDer<'static>]>,
    /// A part in this process, which needs no proof.
    pub local: Option<Arc<UserInfo>>,
    /// Where the connection comes from.
    pub address: Option<IpAddr>,
}

/// All that answers requests.
pub struct Server {
    /// Kinds that are served.
    pub kinds: Kinds,
    /// Stores of the kinds that are kept.
    pub registry: Arc<Registry>,
    /// Who asks.
    pub authenticator: Box<dyn Authenticator>,
    /// Whom a token stands for.
    pub tokens: Arc<dyn TokenAuthenticator>,
    /// What one may.
    pub authorizer: Arc<dyn Authorizer>,
    /// What is recorded of requests; nothing without it, at no cost.
    pub audit: Option<Arc<Audit>>,
    /// Plugins for `CONNECT`, which the store does not see.
    pub admission: Arc<Chain>,
    /// What is not simply stored, by group, plural and subresource.
    pub endpoints: BTreeMap<(String, String, String), Arc<dyn Endpoint>>,
    /// What is served outside the API, by path: documents that never change while the server runs.
    pub documents: BTreeMap<String, serde_json::Value>,
    /// Health checks.
    pub health: Health,
    /// `/openapi/v2` and `/openapi/v3`.
    pub openapi: OpenApi,
    /// Requests at a time, and their time.
    pub limits: Limits,
    /// What is counted.
    pub metrics: Metrics,
    /// Whether all is read that is needed to answer; before that, only health checks are answered.
    pub serving: Arc<AtomicBool>,
    /// Fires when watches have to end, since the server stops.
    pub drain: CancellationToken,
}

impl Server {
    /// Answers an authorized request about a resource.
    pub(crate) async fn resource(
        self: &Arc<Self>,
        info: RequestInfo,
        user: Arc<UserInfo>,
        request: Request<Body>,
        series: Option<Arc<Series>>,
        notes: Notes,
    ) -> StatusResult<Response<Body>> {
        let kind = self
            .kinds
            .find(&info.api_group, &info.api_version, &info.resource)
            .ok_or_else(StatusError::no_such_path)?
            .clone();
        if kind.namespaced && info.namespace.is_empty() && !matches!(info.verb.as_str(), "list" | "watch") {
            return Err(StatusError::no_such_path());
        }
        if !kind.namespaced && !info.namespace.is_empty() && kind.plural != "namespaces" {
            return Err(StatusError::no_such_path());
        }
        if let Some(old) = deprecation::warning(&kind) {
            Warnings::beside(&notes).add(old);
        }
        let found = notes.clone();
        let context = Context {
            server: self.clone(),
            headers: request.headers().clone(),
            query: request.uri().query().unwrap_or("").to_owned(),
            info,
            kind,
            user,
            series,
            notes,
        };
        let mut answer = self.route(context, request).await;
        // Those of an answer that is an error are sent with it.
        if let Ok(response) = &mut answer {
            respond::warn(response, &found.take_warnings());
        }
        answer
    }

    /// Finds who serves it.
    async fn route(
        self: &Arc<Self>,
        context: Context,
        request: Request<Body>,
    ) -> StatusResult<Response<Body>> {
        let kind = &context.kind;
        let key = (kind.group.to_string(), kind.plural.to_string(), context.info.subresource.clone());
        if let Some(endpoint) = self.endpoints.get(&key) {
            return endpoint.clone().serve(&context, request).await;
        }
        let store = self
            .registry
            .store(&context.kind.group, &context.kind.plural)
            .ok_or_else(StatusError::no_such_path)?
            .clone();
        context.check_verb(request.method())?;
        match context.info.verb.as_str() {
            "get" => read::get(&context, &store).await,
            "list" => read::list(&context, &store).await,
            "watch" => watch::watch(Arc::new(context), &store, request).await,
            "create" => write::create(&context, &store, request).await,
            "update" => write::update(&context, &store, request).await,
            "patch" => write::patch(&context, &store, request).await,
            "delete" => write::delete(&context, &store, request).await,
            "deletecollection" => write::delete_collection(&context, &store, request).await,
            _ => Err(StatusError::method_not_supported(&context.kind.group_resource(), &context.info.verb)),
        }
    }

    /// Serves what lies outside the API.
    pub(crate) async fn other(self: &Arc<Self>, request: &Parts) -> StatusResult<Response<Body>> {
        let path = request.uri.path();
        if !matches!(request.method, Method::GET | Method::HEAD) {
            let e = StatusError::new(
                405,
                "MethodNotAllowed",
                "the server does not allow this method on the requested resource",
            );
            return Err(e);
        }
        let trimmed = if path.len() > 1 { path.trim_end_matches('/') } else { path };
        let query = Query::parse(request.uri.query().unwrap_or(""));
        if let Some(answer) = self.health.answer(trimmed, &query).await {
            return Ok(answer);
        }
        if let Some(answer) = crate::discovery::answer(self, trimmed, &request.headers)? {
            return Ok(answer);
        }
        if trimmed == "/metrics" {
            let (reading, writing) = self.limits.under_way();
            let page = self.metrics.page(reading, writing);
            return Ok(respond::bytes(StatusCode::OK, Text::CONTENT_TYPE, page));
        }
        if let Some(answer) =
            self.openapi.answer(&self.kinds, trimmed, request.uri.query(), &request.headers)?
        {
            return Ok(answer);
        }
        if let Some(document) = self.documents.get(trimmed) {
            return Ok(match trimmed {
                "/version" => respond::indented(document),
                _ => respond::json(StatusCode::OK, crate::negotiate::Media::Json, document),
            });
        }
        if trimmed == "/" {
            let mut paths: Vec<&str> = vec!["/api", "/apis", "/metrics", "/openapi/v2", "/openapi/v3"];
            let groups = self.kinds.groups();
            let group_paths: Vec<String> = groups
                .iter()
                .flat_map(|(group, versions)| {
                    let of_group = format!("/apis/{group}");
                    let of_versions: Vec<String> =
                        versions.iter().map(|v| format!("{of_group}/{v}")).collect();
                    std::iter::once(of_group).chain(of_versions)
                })
                .chain(self.health.paths())
                .chain(std::iter::once("/api/v1".to_owned()))
                .collect();
            paths.extend(group_paths.iter().map(String::as_str));
            paths.extend(self.documents.keys().map(String::as_str));
            paths.sort_unstable();
            let value = serde_json::json!({ "paths": paths });
            return Ok(respond::indented(&value));
        }
        Err(StatusError::no_such_path())
    }
}

impl Context {
    fn check_verb(&self, method: &Method) -> StatusResult<()> {
        let verbs = if self.info.subresource.is_empty() {
            &self.kind.verbs
        } else {
            let subresource = self.kind.subresource(&self.info.subresource);
            &subresource.ok_or_else(StatusError::no_such_path)?.verbs
        };
        if verbs.iter().any(|v| *v == self.info.verb) && self.info.rest.is_empty() {
            return Ok(());
        }
        let mut e = StatusError::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        );
        if method == Method::OPTIONS {
            e.details_mut();
        }
        Err(e)
    }

    /// Whether the request speaks the version that is stored.
    pub fn is_storage_version(&self, store: &Store) -> bool {
        store.kind.group == self.kind.group && store.kind.version == self.kind.version
    }

    /// An object from storage in the version of the request.
    pub fn from_storage(&self, object: Object) -> Object {
        self.convert(object, &self.kind)
    }

    /// An object of the request in the version of storage.
    pub fn to_storage(&self, object: Object) -> Object {
        match self.server.registry.store(&self.kind.group, &self.kind.plural) {
            Some(store) => self.convert(object, &store.kind),
            None => object,
        }
    }

    fn convert(&self, object: Object, to: &Kind) -> Object {
        if object.api_version() == to.api_version() {
            return object;
        }
        apiserver_resources::convert(object, to)
    }
}
