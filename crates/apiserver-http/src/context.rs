//! What a handler knows of its request.
use std::sync::Arc;

use api::decode::Target;
use api::kinds::Kind;
use apiserver_admission::{Attributes, Operation};
use apiserver_registry::{Notes, Warnings};
use async_trait::async_trait;
use http::{HeaderMap, Request, Response};
use machinery::gvk::GroupVersionKind;
use machinery::request::{RequestInfo, UserInfo};
use machinery::{Object, StatusError, StatusResult};

use crate::body::Body;
use crate::metrics::Series;
use crate::negotiate::{Agreed, Media, negotiate};
use crate::query::Query;
use crate::server::Server;

/// One authorized request about a resource.
pub struct Context {
    /// The server.
    pub server: Arc<Server>,
    /// What is asked.
    pub info: RequestInfo,
    /// Row of the resource.
    pub kind: Arc<Kind>,
    /// Who asks.
    pub user: Arc<UserInfo>,
    /// Headers of the request.
    pub headers: HeaderMap,
    /// The raw query string.
    pub query: String,
    /// Where the request is counted.
    pub series: Option<Arc<Series>>,
    /// Facts for the audit trail.
    pub notes: Notes,
}

impl Context {
    /// The decoded query.
    pub fn query(&self) -> Query<'_> {
        Query::parse(&self.query)
    }

    /// Agrees on an answer that may also be a Table or PartialObjectMetadata.
    pub fn negotiate(&self) -> StatusResult<Agreed> {
        negotiate(&self.headers, true, self.has_protobuf())
    }

    /// Agrees on the form of the bytes of an answer that is always the object itself.
    pub fn media(&self) -> StatusResult<Media> {
        negotiate(&self.headers, false, self.has_protobuf()).map(|a| a.media)
    }

    /// Whether the kind has a protobuf form: all but custom resources do.
    pub fn has_protobuf(&self) -> bool {
        self.kind.schema.is_some()
    }

    /// Takes a body that is not stored as it is through admission.
    pub async fn admit(
        &self,
        operation: Operation,
        kind: &GroupVersionKind,
        body: &mut Object,
        dry_run: bool,
    ) -> StatusResult<()> {
        let gvr = self.kind.gvr();
        let mut attributes = Attributes {
            operation,
            gvk: kind,
            gvr: &gvr,
            subresource: &self.info.subresource,
            namespace: &self.info.namespace,
            name: &self.info.name,
            object: Some(body),
            old: None,
            options: None,
            user: &self.user,
            dry_run,
            warnings: Vec::new(),
            annotations: Vec::new(),
        };
        let mut admitted = self.server.admission.mutate(&mut attributes).await;
        if admitted.is_ok() {
            admitted = self.server.admission.validate(&mut attributes).await;
        }
        self.notes.add(attributes.annotations);
        admitted
    }

    /// Whether `dryRun=All` was asked for.
    pub fn dry_run(&self) -> StatusResult<bool> {
        let query = self.query();
        let mut dry = false;
        for value in query.all("dryRun") {
            match value {
                "" => {}
                "All" => dry = true,
                other => {
                    let path = machinery::FieldPath::new("dryRun");
                    let errors = [machinery::FieldError::not_supported(&path, other, &["All"])];
                    let options = GroupVersionKind::new("meta.k8s.io", "v1", options_kind(&self.info.verb));
                    return Err(StatusError::invalid(&options, "", &errors));
                }
            }
        }
        Ok(dry)
    }

    /// Decodes a body into what a path takes.
    pub fn decode(&self, body: &[u8], target: &Target<'_>, warnings: &Warnings) -> StatusResult<Object> {
        crate::write::decode(self, body, target, warnings)
    }
}

/// The options of a verb.
pub fn options_kind(verb: &str) -> &'static str {
    match verb {
        "create" => "CreateOptions",
        "update" => "UpdateOptions",
        "patch" => "PatchOptions",
        _ => "DeleteOptions",
    }
}

/// A resource or subresource that is not simply stored: reviews, tokens, bindings, logs, exec.
#[async_trait]
pub trait Endpoint: Send + Sync {
    /// Answers an authorized request.
    async fn serve(&self, context: &Context, request: Request<Body>) -> StatusResult<Response<Body>>;
}
