//! Errors as every Kubernetes client reads them: `metav1.Status`.
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, StatusCause, StatusDetails};

use crate::field::{FieldError, aggregate};
use crate::gvk::{GroupResource, GroupVersionKind};

/// An error that becomes a `Status` on the wire. Constructors follow apimachinery/pkg/api/errors.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{}", .0.message.as_deref().unwrap_or("unknown error"))]
pub struct StatusError(pub Box<Status>);

/// What a fallible operation of the API gives.
pub type StatusResult<T> = Result<T, StatusError>;

impl StatusError {
    /// An error of any code and reason.
    pub fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        Self(Box::new(Status {
            code: Some(code.into()),
            message: Some(message.into()),
            reason: Some(reason.into()),
            status: Some("Failure".into()),
            ..Status::default()
        }))
    }

    /// HTTP status code.
    pub fn code(&self) -> u16 {
        self.0.code.and_then(|c| u16::try_from(c).ok()).unwrap_or(500)
    }

    /// Machine-readable reason, for example `NotFound`.
    pub fn reason(&self) -> &str {
        self.0.reason.as_deref().unwrap_or("")
    }

    /// The details, made where they are absent.
    pub fn details_mut(&mut self) -> &mut StatusDetails {
        self.0.details.get_or_insert_with(StatusDetails::default)
    }

    fn about(mut self, group: &str, kind: &str, name: &str) -> Self {
        let some = |s: &str| (!s.is_empty()).then(|| s.to_owned());
        let details = self.details_mut();
        details.group = some(group);
        details.kind = some(kind);
        details.name = some(name);
        self
    }

    /// Adds a cause.
    #[must_use]
    pub fn with_cause(mut self, reason: &str, field: &str, message: impl Into<String>) -> Self {
        let some = |s: &str| (!s.is_empty()).then(|| s.to_owned());
        self.details_mut().causes.get_or_insert_with(Vec::new).push(StatusCause {
            reason: some(reason),
            field: some(field),
            message: Some(message.into()),
        });
        self
    }

    /// Tells the client to come again after so many seconds.
    #[must_use]
    pub fn with_retry_after(mut self, seconds: i32) -> Self {
        self.details_mut().retry_after_seconds = Some(seconds);
        self
    }

    /// 404: `pods "x" not found`.
    pub fn not_found(gr: &GroupResource, name: &str) -> Self {
        Self::new(404, "NotFound", format!("{gr} {name:?} not found")).about(&gr.group, &gr.resource, name)
    }

    /// 404 for a path that serves nothing.
    pub fn no_such_path() -> Self {
        let mut e = Self::new(404, "NotFound", "the server could not find the requested resource");
        e.details_mut();
        e
    }

    /// 409: `pods "x" already exists`.
    pub fn already_exists(gr: &GroupResource, name: &str) -> Self {
        Self::new(409, "AlreadyExists", format!("{gr} {name:?} already exists")).about(
            &gr.group,
            &gr.resource,
            name,
        )
    }

    /// 409: `Operation cannot be fulfilled on pods "x": why`.
    pub fn conflict(gr: &GroupResource, name: &str, why: &str) -> Self {
        Self::new(409, "Conflict", format!("Operation cannot be fulfilled on {gr} {name:?}: {why}")).about(
            &gr.group,
            &gr.resource,
            name,
        )
    }

    /// 409 because the object changed since it was read.
    pub fn stale(gr: &GroupResource, name: &str) -> Self {
        Self::conflict(
            gr,
            name,
            "the object has been modified; please apply your changes to the latest version and try again",
        )
    }

    /// 422 with one cause for each problem.
    pub fn invalid(gvk: &GroupVersionKind, name: &str, errors: &[FieldError]) -> Self {
        let gk = GroupResource::new(&gvk.group, &gvk.kind);
        let mut e = Self::new(422, "Invalid", format!("{gk} {name:?} is invalid: {}", aggregate(errors)))
            .about(&gvk.group, &gvk.kind, name);
        for error in errors {
            e = e.with_cause(error.ty.reason(), error.path.as_str(), error.body());
        }
        e
    }

    /// 400.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// 401.
    pub fn unauthorized() -> Self {
        Self::new(401, "Unauthorized", "Unauthorized")
    }

    /// 403: `pods "x" is forbidden: why`.
    pub fn forbidden(gr: &GroupResource, name: &str, why: &str) -> Self {
        let message = match (gr.resource.is_empty(), name.is_empty()) {
            (true, _) => format!("forbidden: {why}"),
            (false, true) => format!("{gr} is forbidden: {why}"),
            (false, false) => format!("{gr} {name:?} is forbidden: {why}"),
        };
        Self::new(403, "Forbidden", message).about(&gr.group, &gr.resource, name)
    }

    /// 405.
    pub fn method_not_supported(gr: &GroupResource, verb: &str) -> Self {
        Self::new(405, "MethodNotAllowed", format!("{verb} is not supported on resources of kind \"{gr}\""))
            .about(&gr.group, &gr.resource, "")
    }

    /// 406.
    pub fn not_acceptable(accepted: &[&str]) -> Self {
        Self::new(
            406,
            "NotAcceptable",
            format!("only the following media types are accepted: {}", accepted.join(", ")),
        )
    }

    /// 413.
    pub fn too_large(message: impl Into<String>) -> Self {
        Self::new(413, "RequestEntityTooLarge", message)
    }

    /// 415.
    pub fn unsupported_media_type(accepted: &[&str]) -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            format!(
                "the body of the request was in an unknown format - accepted media types include: {}",
                accepted.join(", ")
            ),
        )
    }

    /// 429.
    pub fn too_many_requests(message: impl Into<String>, retry_after: i32) -> Self {
        Self::new(429, "TooManyRequests", message).with_retry_after(retry_after)
    }

    /// 410: the revision asked for is gone.
    pub fn expired(message: impl Into<String>) -> Self {
        Self::new(410, "Expired", message)
    }

    /// 504.
    pub fn timeout(message: impl Into<String>, retry_after: i32) -> Self {
        Self::new(504, "Timeout", format!("Timeout: {}", message.into())).with_retry_after(retry_after)
    }

    /// 503.
    pub fn service_unavailable(message: impl Into<String>) -> Self {
        Self::new(503, "ServiceUnavailable", message)
    }

    /// 500: `Internal error occurred: why`.
    pub fn internal(why: impl std::fmt::Display) -> Self {
        Self::new(500, "InternalError", format!("Internal error occurred: {why}")).with_cause(
            "",
            "",
            why.to_string(),
        )
    }
}
