//! Forwards requests: upgraded connections byte for byte, everything else with a streaming body.

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;

use crate::{
    Limits, accept,
    body::{self, Body, BoxError},
    dial::{DialError, Dialer},
    io::{splice, within},
    proxied_headers::{
        add_forwarded_for, remove_cors, remove_credentials, remove_hop_by_hop, rewrite_location,
    },
};

/// What a proxy adds to a request and changes in an answer.
#[derive(Debug, Clone, Default)]
pub struct ProxyOptions {
    /// The client's address, for `X-Forwarded-For`.
    pub client: Option<IpAddr>,
    /// Where the target appears at this server (`/api/v1/.../proxy`): redirects and `X-Forwarded-Uri` get it.
    pub path_prefix: Option<String>,
}

/// Why a request could not be forwarded.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// The target cannot be reached.
    #[error("error dialing backend: {0}")]
    Dial(#[from] DialError),
    /// The connection broke before there was an answer.
    #[error("error trying to reach service: {}", crate::io::chain(.0))]
    Send(#[from] hyper::Error),
    /// There was no answer in time.
    #[error("error trying to reach service: {0}")]
    Slow(#[from] std::io::Error),
    /// The target is no URI to send a request to.
    #[error("invalid proxy target: {0}")]
    Target(#[from] http::Error),
}

impl ProxyError {
    /// The answer upstream gives: a `Status` with code 500, or 503 for a service that does not answer.
    pub fn into_response(self) -> Response<Body> {
        let (code, reason) = match self {
            Self::Send(_) | Self::Slow(_) => (StatusCode::SERVICE_UNAVAILABLE, Some("ServiceUnavailable")),
            Self::Dial(_) | Self::Target(_) => (StatusCode::INTERNAL_SERVER_ERROR, None),
        };
        let mut status = serde_json::json!({
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.to_string(),
            "code": code.as_u16(),
        });
        if let Some(reason) = reason {
            status["reason"] = reason.into();
        }
        let mut response = Response::new(body::full(status.to_string()));
        *response.status_mut() = code;
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
        response
    }
}

/// Forwards a request to `target`, whose path and query replace the request's own; upgrades become tunnels.
pub async fn forward<B>(
    request: Request<B>,
    target: &Uri,
    dialer: &Dialer,
    options: &ProxyOptions,
    limits: &Limits,
) -> Result<Response<Body>, ProxyError>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    if accept::is_upgrade(request.headers()) {
        upgrade_proxy(request, target, dialer, options, limits).await
    } else {
        reverse_proxy(request, target, dialer, options).await
    }
}

/// Forwards an upgrade request and, if the target agrees, joins the two connections byte for byte.
///
/// An answer other than 101 is passed back as it is.
pub async fn upgrade_proxy<B>(
    mut request: Request<B>,
    target: &Uri,
    dialer: &Dialer,
    options: &ProxyOptions,
    limits: &Limits,
) -> Result<Response<Body>, ProxyError> {
    let client = hyper::upgrade::on(&mut request);
    let (mut parts, _) = request.into_parts();
    prepare(&mut parts, target, options)?;
    // An upgrade request has no body: what follows it is the other protocol.
    parts.headers.remove(header::CONTENT_LENGTH);
    parts.headers.remove(header::TRANSFER_ENCODING);
    let request = Request::from_parts(parts, Empty::<Bytes>::new());
    let io = dialer.dial(target).await?;
    let exchange = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
        tokio::spawn(connection.with_upgrades());
        sender.send_request(request).await
    };
    let mut response = within(limits.stream_creation, "waiting for the backend's answer", exchange).await??;
    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
        return Ok(answer(response, target, options));
    }
    let backend = hyper::upgrade::on(&mut response);
    let idle = limits.idle;
    let limit = limits.stream_creation;
    tokio::spawn(async move {
        let upgraded =
            within(limit, "waiting for both upgrades", futures::future::try_join(client, backend)).await;
        match upgraded {
            Ok(Ok((client, backend))) => {
                match splice(TokioIo::new(client), TokioIo::new(backend), idle).await {
                    Ok((sent, received)) => tracing::debug!(sent, received, "tunnel ended"),
                    Err(error) => tracing::debug!(%error, "tunnel broke"),
                }
            }
            Ok(Err(error)) => tracing::debug!(%error, "tunnel could not start"),
            Err(error) => tracing::debug!(%error, "tunnel could not start"),
        }
    });
    let (parts, _) = response.into_parts();
    Ok(Response::from_parts(parts, body::empty()))
}

/// Forwards a request and streams its body and the answer's.
pub async fn reverse_proxy<B>(
    request: Request<B>,
    target: &Uri,
    dialer: &Dialer,
    options: &ProxyOptions,
) -> Result<Response<Body>, ProxyError>
where
    B: http_body::Body<Data = Bytes> + Send + Unpin + 'static,
    B::Error: Into<BoxError>,
{
    let (mut parts, body) = request.into_parts();
    remove_hop_by_hop(&mut parts.headers);
    prepare(&mut parts, target, options)?;
    let request = Request::from_parts(parts, body);
    let io = dialer.dial(target).await?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
    // Lives as long as the answer's body is read, and ends when the client goes.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "proxied connection broke");
        }
    });
    let response = sender.send_request(request).await?;
    let mut response = answer(response, target, options);
    remove_hop_by_hop(response.headers_mut());
    Ok(response)
}

/// Points a request at the target.
fn prepare(parts: &mut http::request::Parts, target: &Uri, options: &ProxyOptions) -> Result<(), ProxyError> {
    // HTTP/2 has the host in the URI.
    let in_uri =
        || parts.uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
    let original_host = parts.headers.get(header::HOST).cloned().or_else(in_uri);
    parts.uri =
        target.path_and_query().map_or("/", |path| path.as_str()).parse().map_err(http::Error::from)?;
    parts.version = http::Version::HTTP_11;
    let authority = target.authority().map_or("", |authority| authority.as_str());
    let headers = &mut parts.headers;
    headers.insert(header::HOST, HeaderValue::from_str(authority).map_err(http::Error::from)?);
    remove_credentials(headers);
    if let Some(client) = options.client {
        add_forwarded_for(headers, client);
    }
    if let Some(prefix) = &options.path_prefix {
        let forwarded = format!("{}{}", prefix.trim_end_matches('/'), target.path());
        headers.insert("x-forwarded-uri", HeaderValue::from_str(&forwarded).map_err(http::Error::from)?);
        headers.insert("x-forwarded-proto", HeaderValue::from_static("https"));
        if let Some(host) = original_host {
            headers.insert("x-forwarded-host", host);
        }
    }
    Ok(())
}

/// The target's answer with a boxed body.
fn answer(response: Response<hyper::body::Incoming>, target: &Uri, options: &ProxyOptions) -> Response<Body> {
    let mut response = response.map(|body| body.map_err(BoxError::from).boxed());
    remove_cors(response.headers_mut());
    if let (Some(prefix), Some(authority)) = (&options.path_prefix, target.authority()) {
        rewrite_location(response.headers_mut(), prefix, authority.as_str());
    }
    response
}
