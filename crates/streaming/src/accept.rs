//! The server side of an upgrade: from a request to a session.

use std::io;

use futures::{FutureExt, future::BoxFuture};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::protocol::Role;

use crate::{
    Limits, MessageSocket, PortForwardSession, Session, Streams,
    body::{self, Body},
    io::within,
    port_forward::{self, forwarded_ports},
    remote_command::{self, SpdyVersion, WebSocketProtocol, spdy_protocol_names},
    spdy::{self, Connection},
    ws::{self, Codec, Tunnel},
};

/// The header that negotiates the protocol inside SPDY.
pub(crate) const STREAM_PROTOCOL: &str = "x-stream-protocol-version";
/// The header that lists what a server would have taken.
const ACCEPTED_PROTOCOLS: &str = "x-accepted-stream-protocol-versions";
/// SPDY's name in the `Upgrade` header.
pub(crate) const SPDY_31: &str = "SPDY/3.1";

/// An upgrade that was agreed to.
pub struct Accepted<T> {
    /// The 101 to answer with; the session starts only once it was sent.
    pub response: Response<Body>,
    /// The session.
    pub session: BoxFuture<'static, Result<T, SessionError>>,
}

/// Why no session came of an agreed upgrade.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// The HTTP connection ended before it could be upgraded.
    #[error("connection could not be upgraded")]
    Upgrade(#[source] hyper::Error),
    /// The client did not create its streams in time, or went away.
    #[error("client did not create its streams")]
    Streams(#[from] io::Error),
}

/// Agrees to an exec or attach over WebSocket or SPDY, or gives the answer that refuses it.
///
/// The connection must be served with upgrades enabled.
#[allow(clippy::result_large_err)]
pub fn remote_command<B>(
    request: &mut Request<B>,
    streams: Streams,
    limits: &Limits,
) -> Result<Accepted<Session>, Response<Body>> {
    let limits = limits.clone();
    if ws::is_upgrade(request.headers()) {
        let offered = ws::offered_protocols(request.headers());
        let (protocol, name) =
            WebSocketProtocol::choose(&offered).ok_or_else(|| refuse_websocket(&offered))?;
        let response = ws::switching_protocols(request.headers(), name)?;
        let upgrade = hyper::upgrade::on(request);
        let session = async move {
            let io = upgraded(upgrade, &limits).await?;
            Ok(remote_command::accept_websocket(io, protocol, streams, &limits).await)
        };
        return Ok(Accepted { response, session: session.boxed() });
    }
    let (response, name) = accept_spdy(request.headers(), &spdy_protocol_names())?;
    // A client that names no version is one of Kubernetes 1.0.
    let version = name.and_then(SpdyVersion::named).unwrap_or(SpdyVersion::V1);
    let upgrade = hyper::upgrade::on(request);
    let session = async move {
        let io = upgraded(upgrade, &limits).await?;
        let connection = Connection::start(io, spdy::Role::Server, &limits);
        let accept = remote_command::accept_spdy(connection, version, streams, &limits);
        Ok(within(limits.stream_creation, "waiting for client to create streams", accept).await??)
    };
    Ok(Accepted { response, session: session.boxed() })
}

/// Agrees to a port-forward over SPDY, SPDY in a WebSocket, or WebSocket channels (ports in the query).
///
/// The connection must be served with upgrades enabled.
#[allow(clippy::result_large_err)]
pub fn port_forward<B>(
    request: &mut Request<B>,
    limits: &Limits,
) -> Result<Accepted<PortForwardSession>, Response<Body>> {
    let limits = limits.clone();
    if !ws::is_upgrade(request.headers()) {
        let (response, _) = accept_spdy(request.headers(), &[port_forward::PROTOCOL])?;
        let upgrade = hyper::upgrade::on(request);
        let session = async move {
            let io = upgraded(upgrade, &limits).await?;
            Ok(PortForwardSession::spdy(Connection::start(io, spdy::Role::Server, &limits), &limits))
        };
        return Ok(Accepted { response, session: session.boxed() });
    }
    let offered = ws::offered_protocols(request.headers());
    if offered.contains(&port_forward::TUNNEL_PROTOCOL) {
        let response = ws::switching_protocols(request.headers(), Some(port_forward::TUNNEL_PROTOCOL))?;
        let upgrade = hyper::upgrade::on(request);
        let session = async move {
            let tunnel = Tunnel::server(upgraded(upgrade, &limits).await?, &limits).await;
            Ok(PortForwardSession::spdy(Connection::start(tunnel, spdy::Role::Server, &limits), &limits))
        };
        return Ok(Accepted { response, session: session.boxed() });
    }
    let known = [("v4.channel.k8s.io", Codec::Binary), ("v4.base64.channel.k8s.io", Codec::Base64)];
    let chosen = offered.iter().find_map(|name| known.iter().find(|(known, _)| known == name));
    let (name, codec) = match chosen {
        Some((name, codec)) => (Some(*name), *codec),
        None if offered.is_empty() => (None, Codec::Binary),
        None => return Err(refuse_websocket(&offered)),
    };
    let ports = forwarded_ports(request.uri().query().unwrap_or_default())
        .map_err(|error| body::text(StatusCode::BAD_REQUEST, &error.to_string()))?;
    let response = ws::switching_protocols(request.headers(), name)?;
    let upgrade = hyper::upgrade::on(request);
    let session = async move {
        let io = upgraded(upgrade, &limits).await?;
        Ok(PortForwardSession::websocket(io, codec, &ports, &limits).await)
    };
    Ok(Accepted { response, session: session.boxed() })
}

/// Agrees to a WebSocket on which only the server speaks.
///
/// Of the subprotocols that a client offers it gets the first: what is sent is the same for all.
#[allow(clippy::result_large_err)]
pub fn messages<B>(
    request: &mut Request<B>,
    limits: &Limits,
) -> Result<Accepted<MessageSocket>, Response<Body>> {
    // Clients have nothing to say.
    let limits = Limits { max_message: 64 * 1024, ..limits.clone() };
    let mut response = ws::switching_protocols(request.headers(), None)?;
    if let Some(first) = ws::offered_protocols(request.headers()).first()
        && let Ok(name) = HeaderValue::from_str(first)
    {
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, name);
    }
    let upgrade = hyper::upgrade::on(request);
    let session = async move {
        let io = upgraded(upgrade, &limits).await?;
        Ok(MessageSocket { socket: ws::framed(io, Role::Server, &limits).await })
    };
    Ok(Accepted { response, session: session.boxed() })
}

/// Whether a request asks for an upgrade to anything.
pub fn is_upgrade(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::CONNECTION).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|token| token.trim().eq_ignore_ascii_case("upgrade"))
}

/// Whether a request asks for SPDY/3.1.
pub fn is_spdy_upgrade(headers: &HeaderMap) -> bool {
    let wanted = |value: &HeaderValue| {
        value.to_str().is_ok_and(|value| value.to_ascii_lowercase().contains("spdy/3.1"))
    };
    is_upgrade(headers) && headers.get(header::UPGRADE).is_some_and(wanted)
}

fn refuse_websocket(offered: &[&str]) -> Response<Body> {
    body::text(StatusCode::FORBIDDEN, &format!("requested protocol(s) are not supported: {offered:?}"))
}

/// Waits for the HTTP connection to become a byte stream.
async fn upgraded(
    upgrade: OnUpgrade,
    limits: &Limits,
) -> Result<TokioIo<hyper::upgrade::Upgraded>, SessionError> {
    let io = within(limits.stream_creation, "waiting for the upgrade", upgrade).await?;
    io.map(TokioIo::new).map_err(SessionError::Upgrade)
}

/// The 101 for a SPDY request and the protocol inside it, if the client named any.
#[allow(clippy::result_large_err)]
fn accept_spdy(
    headers: &HeaderMap,
    supported: &[&'static str],
) -> Result<(Response<Body>, Option<&'static str>), Response<Body>> {
    if !is_spdy_upgrade(headers) {
        return Err(body::text(
            StatusCode::BAD_REQUEST,
            "unable to upgrade: missing upgrade headers in request",
        ));
    }
    let values = headers.get_all(STREAM_PROTOCOL).into_iter().filter_map(|value| value.to_str().ok());
    let offered: Vec<&str> =
        values.flat_map(|value| value.split(',')).map(str::trim).filter(|name| !name.is_empty()).collect();
    let chosen = offered.iter().find_map(|name| supported.iter().find(|known| *known == name)).copied();
    if chosen.is_none() && !offered.is_empty() {
        let message = format!(
            "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
            offered.join(" "),
            supported.join(" ")
        );
        let mut refusal = body::text(StatusCode::FORBIDDEN, &message);
        for name in supported {
            refusal.headers_mut().append(ACCEPTED_PROTOCOLS, HeaderValue::from_static(name));
        }
        return Err(refusal);
    }
    let mut response = Response::new(body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let answer = response.headers_mut();
    answer.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    answer.insert(header::UPGRADE, HeaderValue::from_static(SPDY_31));
    if let Some(name) = chosen {
        answer.insert(STREAM_PROTOCOL, HeaderValue::from_static(name));
    }
    Ok((response, chosen))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spdy_headers(protocols: &[&'static str]) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("SPDY/3.1"));
        for protocol in protocols {
            headers.append(STREAM_PROTOCOL, HeaderValue::from_static(protocol));
        }
        headers
    }

    #[test]
    fn takes_the_first_protocol_both_know() {
        let supported = spdy_protocol_names();
        let (response, chosen) =
            accept_spdy(&spdy_headers(&["v5.channel.k8s.io", "v3.channel.k8s.io"]), &supported)
                .expect("accepted");
        assert_eq!(chosen, Some("v3.channel.k8s.io"));
        assert_eq!(response.headers()[STREAM_PROTOCOL], "v3.channel.k8s.io");
        let (response, chosen) = accept_spdy(&spdy_headers(&[]), &supported).expect("accepted");
        assert_eq!((chosen, response.headers().get(STREAM_PROTOCOL)), (None, None));
    }

    #[test]
    fn says_what_it_would_have_taken() {
        let refusal = accept_spdy(&spdy_headers(&["v9.channel.k8s.io"]), &["a", "b"]).expect_err("refused");
        assert_eq!(refusal.status(), StatusCode::FORBIDDEN);
        let accepted: Vec<_> = refusal.headers().get_all(ACCEPTED_PROTOCOLS).iter().collect();
        assert_eq!(accepted, ["a", "b"]);
        let refusal = accept_spdy(&HeaderMap::new(), &["a"]).expect_err("refused");
        assert_eq!(refusal.status(), StatusCode::BAD_REQUEST);
    }
}
