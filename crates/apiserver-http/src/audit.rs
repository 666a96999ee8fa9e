//! Tells the audit what becomes of a request. Upstream: apiserver/pkg/endpoints/filters/audit.go, 1.36.
use std::net::IpAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use api::decode::Target;
use apiserver_audit::{Begin, Record, Stage};
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, USER_AGENT};
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use http_body_util::BodyExt as _;
use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;
use machinery::request::{RequestInfo, UserInfo};
use machinery::{StatusError, StatusResult};

use crate::body::{self, Body, BoxError, full};
use crate::server::{Peer, Server};

/// Names the events of a request, in both directions.
pub(crate) const AUDIT_ID: HeaderName = HeaderName::from_static("audit-id");
/// The longest name that a client may give.
const LONGEST_ID: usize = 64;

/// The name of a request: the client's, or one of ours.
pub(crate) fn id(headers: &HeaderMap) -> HeaderValue {
    let given = headers.get(AUDIT_ID).and_then(|v| v.to_str().ok()).filter(|id| !id.is_empty());
    let ours = || uuid::Uuid::new_v4().to_string();
    let text = given.map_or_else(ours, |id| id.chars().take(LONGEST_ID).collect());
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("unnamed"))
}

/// What is known of a request before it is known who asks.
pub(crate) struct Arrival {
    uri: String,
    received: Timestamp,
}

fn text(headers: &HeaderMap, name: impl http::header::AsHeaderName) -> &str {
    headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or("")
}

/// Where a request comes from: what proxies say, and the other end of the connection last.
fn source_ips(headers: &HeaderMap, peer: Option<IpAddr>) -> Vec<String> {
    let mut all: Vec<IpAddr> = text(headers, "x-forwarded-for")
        .split(',')
        .filter_map(|ip| ip.trim().parse().ok())
        .take(64)
        .collect();
    if let Ok(real) = text(headers, "x-real-ip").trim().parse()
        && !all.contains(&real)
    {
        all.push(real);
    }
    // A proxy on the way may have said so already.
    if let Some(peer) = peer.map(|p| p.to_canonical())
        && all.last() != Some(&peer)
    {
        all.push(peer);
    }
    all.iter().map(IpAddr::to_string).collect()
}

/// What a client tried to say who it is.
fn attempted(headers: &HeaderMap, peer: &Peer) -> String {
    let scheme = text(headers, AUTHORIZATION).split(' ').next().unwrap_or("");
    let mut all: Vec<&str> = Vec::new();
    if scheme.eq_ignore_ascii_case("basic") {
        all.push("basic");
    }
    if scheme.eq_ignore_ascii_case("bearer") {
        all.push("bearer");
    }
    if !peer.certificates.is_empty() {
        all.push("x509");
    }
    if all.is_empty() {
        "Authentication failed, no credentials provided".into()
    } else {
        format!("Authentication failed, attempted: {}", all.join(", "))
    }
}

impl Server {
    /// Notes when a request came; `None`: nothing is recorded.
    pub(crate) fn arrival(&self, request: &Request<Body>) -> Option<Arrival> {
        self.audit.as_ref()?;
        let uri = request.uri().path_and_query().map_or("/", |p| p.as_str()).to_owned();
        Some(Arrival { uri, received: Timestamp::now() })
    }

    /// Begins the record of a request; nobody asks where authentication failed.
    pub(crate) fn record(
        &self,
        arrival: Option<Arrival>,
        info: &RequestInfo,
        user: Option<&UserInfo>,
        peer: &Peer,
        headers: &HeaderMap,
        id: &HeaderValue,
    ) -> Option<Record> {
        let arrival = arrival?;
        self.audit.as_ref()?.begin(Begin {
            uri: &arrival.uri,
            request: info,
            user,
            source_ips: source_ips(headers, peer.address),
            user_agent: text(headers, USER_AGENT),
            audit_id: id.to_str().ok(),
            received: arrival.received,
        })
    }

    /// Records that nobody could be made out who asks.
    pub(crate) async fn record_stranger(
        &self,
        arrival: Option<Arrival>,
        info: &RequestInfo,
        peer: &Peer,
        headers: &HeaderMap,
        id: &HeaderValue,
    ) {
        let Some(mut record) = self.record(arrival, info, None, peer, headers, id) else { return };
        record.response_status(Status {
            message: Some(attempted(headers, peer)),
            code: Some(401),
            ..Status::default()
        });
        record.stage(Stage::ResponseStarted).await;
    }

    /// Keeps what was sent, if that is wanted. The handler gets the same bytes.
    pub(crate) async fn record_request(
        &self,
        record: &mut Record,
        info: &RequestInfo,
        request: Request<Body>,
    ) -> StatusResult<Request<Body>> {
        let has_body =
            matches!(info.verb.as_str(), "create" | "update" | "patch" | "delete" | "deletecollection");
        if !has_body || !info.is_resource || !record.wants_request() {
            return Ok(request);
        }
        let (parts, body) = request.into_parts();
        let bytes = body::read(body).await?;
        if !bytes.is_empty() {
            let media = text(&parts.headers, CONTENT_TYPE).split(';').next().unwrap_or("").trim();
            if let Some(json) = self.as_json(media, &bytes, info) {
                record.request_object(&json);
            }
        }
        Ok(Request::from_parts(parts, full(bytes)))
    }

    /// A body as JSON; `None`: it has no such form, or is of a kind that is not the resource's own.
    fn as_json(&self, media: &str, bytes: &Bytes, info: &RequestInfo) -> Option<Bytes> {
        match media {
            // A patch for server-side apply is YAML too.
            "application/yaml" | "application/apply-patch+yaml" => {
                let value: serde_json::Value = serde_saphyr::from_slice(bytes).ok()?;
                serde_json::to_vec(&value).ok().map(Bytes::from)
            }
            api::proto::CONTENT_TYPE => {
                let kind = self.kinds.find(&info.api_group, &info.api_version, &info.resource)?;
                let object = api::proto::decode_protobuf(bytes, &Target::of(kind)).ok()?;
                serde_json::to_vec(&object).ok().map(Bytes::from)
            }
            _ => Some(bytes.clone()),
        }
    }

    /// Records an answer.
    pub(crate) async fn record_response(
        &self,
        mut record: Record,
        info: &RequestInfo,
        long: bool,
        failed: Option<Status>,
        mut response: Response<Body>,
    ) -> Response<Body> {
        let code = i32::from(response.status().as_u16());
        record.response_status(Status { code: Some(code), ..failed.clone().unwrap_or_default() });
        if long && failed.is_none() {
            record.stage(Stage::ResponseStarted).await;
            return response.map(|body| UntilEnd { body, record: Some(record) }.boxed_unsync());
        }
        // A finished deletion is answered with a status, which is recorded as one.
        let may_be_status = info.verb.starts_with("delete");
        if record.wants_response() || may_be_status {
            let (parts, body) = response.into_parts();
            let bytes = match body.collect().await {
                Ok(all) => all.to_bytes(),
                Err(e) => {
                    tracing::debug!(error = %e, "an answer ended early");
                    Bytes::new()
                }
            };
            let media = text(&parts.headers, CONTENT_TYPE).split(';').next().unwrap_or("").trim();
            if let Some(json) = self.as_json(media, &bytes, info) {
                if may_be_status
                    && let Ok(status) = serde_json::from_slice::<Status>(&json)
                    && status.status.is_some()
                {
                    record.response_status(Status { code: Some(code), ..status });
                }
                record.response_object(&json);
            }
            response = Response::from_parts(parts, full(bytes));
        }
        record.stage(Stage::ResponseComplete).await;
        response
    }
}

/// Records that a handler panicked.
pub(crate) async fn record_panic(mut record: Record) {
    record.response_status(Status {
        status: Some("Failure".into()),
        reason: Some("InternalError".into()),
        message: Some("APIServer panic'd".into()),
        code: Some(500),
        ..Status::default()
    });
    record.stage(Stage::Panic).await;
}

/// Records that a request was received. An error: it must not be served, since it cannot be recorded.
pub(crate) async fn record_received(record: &mut Record) -> StatusResult<()> {
    if record.stage(Stage::RequestReceived).await {
        Ok(())
    } else {
        Err(StatusError::internal("failed to store audit event"))
    }
}

/// A body that lasts; its end is the end of the record.
struct UntilEnd {
    body: Body,
    record: Option<Record>,
}

impl http_body::Body for UntilEnd {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Drop for UntilEnd {
    fn drop(&mut self) {
        if let Some(record) = self.record.take() {
            record.end();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_a_name() {
        let mut headers = HeaderMap::new();
        assert_eq!(id(&headers).len(), 36);
        assert_ne!(id(&headers), id(&headers));
        for (given, want) in [("mine", "mine"), (&"x".repeat(100), &"x".repeat(64))] {
            headers.insert(AUDIT_ID, given.parse().unwrap());
            assert_eq!(id(&headers), want);
        }
        headers.insert(AUDIT_ID, HeaderValue::from_bytes(b"\xff\xfe").unwrap());
        assert_eq!(id(&headers).len(), 36);
    }

    #[test]
    fn sources_are_listed_from_far_to_near() {
        let check = |forwarded: &str, real: &str, peer: &str, expect: &[&str]| {
            let mut headers = HeaderMap::new();
            for (name, value) in [("x-forwarded-for", forwarded), ("x-real-ip", real)] {
                if !value.is_empty() {
                    headers.insert(name, value.parse().unwrap());
                }
            }
            assert_eq!(source_ips(&headers, peer.parse().ok()), expect);
        };
        check("", "", "", &[]);
        check("", "", "::ffff:10.0.0.1", &["10.0.0.1"]);
        check("1.1.1.1, bad, 2.2.2.2", "3.3.3.3", "10.0.0.1", &["1.1.1.1", "2.2.2.2", "3.3.3.3", "10.0.0.1"]);
        check("1.1.1.1", "1.1.1.1", "1.1.1.1", &["1.1.1.1"]);
    }

    #[test]
    fn failed_attempts_are_named() {
        let mut headers = HeaderMap::new();
        assert_eq!(attempted(&headers, &Peer::default()), "Authentication failed, no credentials provided");
        headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer secret-token"));
        assert_eq!(attempted(&headers, &Peer::default()), "Authentication failed, attempted: bearer");
    }
}
