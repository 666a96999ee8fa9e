//! The client's end of the streaming protocols, as towards a CRI runtime's streaming server.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures::{FutureExt, future::BoxFuture};
use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::sync::CancellationToken;

use crate::{
    BoxRead, BoxWrite, Duplex, ExecStatus, Limits, Streams, TerminalSize,
    accept::{SPDY_31, STREAM_PROTOCOL},
    dial::{DialError, Dialer},
    io::within,
    port_forward::{PORT, PROTOCOL, REQUEST_ID, TUNNEL_PROTOCOL},
    remote_command::{MAX_STATUS, STREAM_TYPE, SpdyVersion, WebSocketProtocol, channel},
    spdy::{self, Connection, Headers, Opener, Stream},
    ws::{self, Channels, Tunnel},
};

/// Bytes of a refusal that are read for its message.
const MAX_REFUSAL: usize = 16 * 1024;

/// Why a server did not start a session.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No connection.
    #[error("error dialing backend: {0}")]
    Dial(#[from] DialError),
    /// The connection broke.
    #[error("upgrade request failed: {0}")]
    Http(#[from] hyper::Error),
    /// A request that cannot be written.
    #[error("upgrade request is invalid: {0}")]
    Request(#[from] http::Error),
    /// The server answered otherwise than with an upgrade.
    #[error("unable to upgrade connection: {status}: {message}")]
    Refused {
        /// The answer's code.
        status: StatusCode,
        /// The answer's body.
        message: String,
    },
    /// The server agreed to a protocol that was not asked for.
    #[error("server chose protocol {0:?}, which was not offered")]
    Protocol(String),
    /// The server did not take the streams, or was too slow.
    #[error("unable to create streams: {0}")]
    Streams(#[from] std::io::Error),
}

/// The protocol to ask for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecProtocol {
    /// SPDY, `v4.channel.k8s.io`: every server has it, and it can say that the input has ended.
    Spdy,
    /// WebSocket, `v5.channel.k8s.io`.
    WebSocketV5,
    /// WebSocket, `v4.channel.k8s.io`: the end of input cannot be said.
    WebSocketV4,
}

/// A command at a server; streams that were not asked for are none.
pub struct ClientSession {
    /// Its input; shutting down ends it.
    pub stdin: Option<BoxWrite>,
    /// Its output.
    pub stdout: Option<BoxRead>,
    /// Its errors.
    pub stderr: Option<BoxRead>,
    /// Its terminal's size.
    pub resize: Option<ResizeSink>,
    /// How it ends. All output should have been read to its end as well; dropping this breaks the connection.
    pub status: BoxFuture<'static, ExecStatus>,
}

/// Tells a server the terminal's size.
pub struct ResizeSink(BoxWrite);

impl ResizeSink {
    /// Sends a size.
    pub async fn send(&mut self, size: TerminalSize) -> std::io::Result<()> {
        self.0.write_all(&serde_json::to_vec(&size)?).await
    }
}

type Upgraded = TokioIo<hyper::upgrade::Upgraded>;

/// Sends an upgrade request and waits for the 101.
async fn upgrade(
    dialer: &Dialer,
    uri: &Uri,
    request: http::request::Builder,
    limits: &Limits,
) -> Result<(Response<()>, Upgraded), ClientError> {
    let path = uri.path_and_query().map_or("/", |path| path.as_str());
    let host = uri.authority().map_or("", |authority| authority.as_str());
    let request = request
        .uri(path)
        .header(header::HOST, host)
        .header(header::CONNECTION, "Upgrade")
        .body(Empty::<Bytes>::new())?;
    let io = dialer.dial(uri).await?;
    let exchange = async {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
        // Ends with the response or the upgrade.
        tokio::spawn(connection.with_upgrades());
        let mut response = sender.send_request(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_REFUSAL).collect().await;
            let bytes = body.map(|body| body.to_bytes()).unwrap_or_default();
            let message = String::from_utf8_lossy(&bytes).trim().to_owned();
            return Err(ClientError::Refused { status, message });
        }
        let io = hyper::upgrade::on(&mut response).await?;
        Ok((response.map(drop), TokioIo::new(io)))
    };
    within(limits.stream_creation, "waiting for an upgrade", exchange).await?
}

async fn upgrade_websocket(
    dialer: &Dialer,
    uri: &Uri,
    protocol: &'static str,
    limits: &Limits,
) -> Result<Upgraded, ClientError> {
    let key = ws::new_key();
    let request = Request::builder()
        .method(Method::GET)
        .header(header::UPGRADE, "websocket")
        .header(header::SEC_WEBSOCKET_VERSION, "13")
        .header(header::SEC_WEBSOCKET_PROTOCOL, protocol)
        .header(header::SEC_WEBSOCKET_KEY, &key);
    let (response, io) = upgrade(dialer, uri, request, limits).await?;
    let text = |name| response.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let chosen = text(header::SEC_WEBSOCKET_PROTOCOL).unwrap_or_default();
    if chosen != protocol {
        return Err(ClientError::Protocol(chosen.to_owned()));
    }
    if text(header::SEC_WEBSOCKET_ACCEPT) != Some(ws::accept_key(key.as_bytes()).as_str()) {
        return Err(ClientError::Protocol("not WebSocket".to_owned()));
    }
    Ok(io)
}

async fn upgrade_spdy(
    dialer: &Dialer,
    uri: &Uri,
    protocol: &'static str,
    limits: &Limits,
) -> Result<Connection, ClientError> {
    let request = Request::builder()
        .method(Method::POST)
        .header(header::UPGRADE, SPDY_31)
        .header(STREAM_PROTOCOL, protocol);
    let (response, io) = upgrade(dialer, uri, request, limits).await?;
    let chosen = response.headers().get(STREAM_PROTOCOL);
    if chosen.is_none_or(|chosen| chosen != protocol) {
        let chosen = chosen.and_then(|chosen| chosen.to_str().ok()).unwrap_or_default();
        return Err(ClientError::Protocol(chosen.to_owned()));
    }
    Ok(Connection::start(io, spdy::Role::Client, limits))
}

/// Starts an exec or attach at a streaming server.
pub async fn remote_command(
    dialer: &Dialer,
    uri: &Uri,
    streams: Streams,
    protocol: ExecProtocol,
    limits: &Limits,
) -> Result<ClientSession, ClientError> {
    let protocol = match protocol {
        ExecProtocol::Spdy => return spdy_session(dialer, uri, streams, limits).await,
        ExecProtocol::WebSocketV5 => WebSocketProtocol::V5,
        ExecProtocol::WebSocketV4 => WebSocketProtocol::V4,
    };
    let io = upgrade_websocket(dialer, uri, protocol.name(), limits).await?;
    Ok(websocket_session(io, protocol, streams, limits).await)
}

async fn spdy_session(
    dialer: &Dialer,
    uri: &Uri,
    streams: Streams,
    limits: &Limits,
) -> Result<ClientSession, ClientError> {
    let connection = upgrade_spdy(dialer, uri, SpdyVersion::V4.name(), limits).await?;
    let opener = connection.opener();
    let open = async |wanted: bool, kind: &str| match wanted {
        true => opener.open(Headers::new([(STREAM_TYPE, kind)])).await.map(Some),
        false => Ok(None),
    };
    let mut error = open(true, "error").await?.expect("the error stream is always opened");
    let stdin = open(streams.stdin, "stdin").await?.map(|stream| Box::new(stream.into_split().1) as BoxWrite);
    let stdout =
        open(streams.stdout, "stdout").await?.map(|stream| Box::new(stream.into_split().0) as BoxRead);
    let stderr =
        open(streams.stderr, "stderr").await?.map(|stream| Box::new(stream.into_split().0) as BoxRead);
    let resize = open(streams.tty, "resize").await?.map(|stream| ResizeSink(Box::new(stream.into_split().1)));
    let status = async move {
        let status = read_status(&mut error).await;
        drop(connection);
        status
    };
    Ok(ClientSession { stdin, stdout, stderr, resize, status: status.boxed() })
}

async fn websocket_session(
    io: impl Duplex + 'static,
    protocol: WebSocketProtocol,
    streams: Streams,
    limits: &Limits,
) -> ClientSession {
    let socket = ws::framed(io, Role::Client, limits).await;
    let mut inbound: Vec<_> = (0..=channel::ERROR).map(|_| None).collect();
    let mut pipe = |channel: u8| {
        let (ours, theirs) = tokio::io::duplex(limits.stream_buffer);
        inbound[usize::from(channel)] = Some(ours);
        Box::new(theirs) as BoxRead
    };
    let stdout = streams.stdout.then(|| pipe(channel::STDOUT));
    let stderr = streams.stderr.then(|| pipe(channel::STDERR));
    let mut error = pipe(channel::ERROR);
    let v5 = protocol == WebSocketProtocol::V5;
    let channels = Channels::start(socket, protocol.codec(), v5, inbound, limits);
    let writer = if v5 { channels.closing_writer(channel::STDIN) } else { channels.writer(channel::STDIN) };
    let stdin = streams.stdin.then(|| Box::new(writer) as BoxWrite);
    let resize = streams.tty.then(|| ResizeSink(Box::new(channels.writer(channel::RESIZE))));
    let status = async move {
        let status = read_status(&mut error).await;
        drop(channels);
        status
    };
    ClientSession { stdin, stdout, stderr, resize, status: status.boxed() }
}

/// Reads an error channel to its end. Version 4 and later always say how it went.
async fn read_status(error: &mut (impl tokio::io::AsyncRead + Unpin)) -> ExecStatus {
    let mut bytes = Vec::new();
    match error.take(MAX_STATUS).read_to_end(&mut bytes).await {
        Ok(1..) => ExecStatus::parse(&bytes),
        Ok(0) => ExecStatus::internal_error("error sending request: connection ended without a status"),
        Err(error) => ExecStatus::internal_error(format!("error reading from error stream: {error}")),
    }
}

/// How a port-forward client carries SPDY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PortForwardTransport {
    /// Directly on the upgraded connection.
    Spdy,
    /// Inside a WebSocket.
    WebSocket,
}

/// A connection over which ports of one pod can be reached.
pub struct PortForwardClient {
    connection: Connection,
    opener: Opener,
    next_request: AtomicU64,
}

impl PortForwardClient {
    /// Connects to a streaming server.
    pub async fn connect(
        dialer: &Dialer,
        uri: &Uri,
        transport: PortForwardTransport,
        limits: &Limits,
    ) -> Result<Self, ClientError> {
        let connection = match transport {
            PortForwardTransport::Spdy => upgrade_spdy(dialer, uri, PROTOCOL, limits).await?,
            PortForwardTransport::WebSocket => {
                let io = upgrade_websocket(dialer, uri, TUNNEL_PROTOCOL, limits).await?;
                Connection::start(Tunnel::client(io, limits).await, spdy::Role::Client, limits)
            }
        };
        let opener = connection.opener();
        Ok(Self { connection, opener, next_request: AtomicU64::new(0) })
    }

    /// Connects to a port: the data, and a stream that ends empty or with a message.
    pub async fn open(&self, port: u16) -> std::io::Result<(Stream, Stream)> {
        let request = self.next_request.fetch_add(1, Ordering::Relaxed).to_string();
        let headers = |kind: &str| {
            Headers::new([(STREAM_TYPE, kind), (PORT, &port.to_string()), (REQUEST_ID, &request)])
        };
        let mut error = self.opener.open(headers("error")).await?;
        // Only the server writes to it.
        error.shutdown().await?;
        let data = self.opener.open(headers("data")).await?;
        Ok((data, error))
    }

    /// Cancelled when the connection has ended.
    pub fn closed(&self) -> CancellationToken {
        self.connection.closed()
    }

    /// Ends the connection in good order.
    pub async fn close(self) {
        self.connection.close().await;
    }
}
