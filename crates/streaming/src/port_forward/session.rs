//! The server's view of one port-forward connection, whatever protocol carries it.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::{
    io::{AsyncWriteExt, join},
    time::Instant,
};
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_util::task::task_tracker::{TaskTracker, TaskTrackerToken};

use super::{
    PORT, REQUEST_ID,
    pairs::{Added, Kind, Pairs, request_id},
    parse_port,
};
use crate::{
    Duplex, Limits,
    remote_command::STREAM_TYPE,
    spdy::{Connection, Incoming, Stream},
    ws::{self, ChannelWriter, Channels, Codec, Message},
};

/// A client's connection to one port of the pod.
pub struct Forward {
    /// The port, never 0.
    pub port: u16,
    /// The connection's bytes.
    pub data: Box<dyn Duplex>,
    /// Where a failure is reported; to be used once the data is done with.
    pub error: ErrorSink,
}

/// Ends a forwarded connection, well or with a message.
pub struct ErrorSink(Sink);

enum Sink {
    Spdy(Stream),
    WebSocket { writer: ChannelWriter, _open: TaskTrackerToken },
}

impl ErrorSink {
    /// The connection ended as connections do.
    pub async fn close(self) {
        match self.0 {
            // A failure means that the client is gone.
            Sink::Spdy(mut stream) => drop(stream.shutdown().await),
            Sink::WebSocket { mut writer, .. } => drop(writer.shutdown().await),
        }
    }

    /// The connection could not be made or broke.
    pub async fn fail(mut self, message: &str) {
        let writer: &mut (dyn tokio::io::AsyncWrite + Send + Unpin) = match &mut self.0 {
            Sink::Spdy(stream) => stream,
            Sink::WebSocket { writer, .. } => writer,
        };
        if writer.write_all(message.as_bytes()).await.is_ok() {
            self.close().await;
        }
    }
}

/// A client that opens connections to a pod's ports; dropping it breaks them all.
pub struct PortForwardSession(Kinds);

enum Kinds {
    Spdy { connection: Connection, pairs: Pairs<(u16, Stream)>, limits: Limits },
    WebSocket { channels: Option<Channels>, ready: VecDeque<Forward>, open: TaskTracker },
}

impl PortForwardSession {
    pub(crate) fn spdy(connection: Connection, limits: &Limits) -> Self {
        Self(Kinds::Spdy { connection, pairs: Pairs::new(), limits: limits.clone() })
    }

    /// Every port is one connection, with two channels: data and error. Each starts with the port's number.
    pub(crate) async fn websocket(
        io: impl Duplex + 'static,
        codec: Codec,
        ports: &[u16],
        limits: &Limits,
    ) -> Self {
        let socket = ws::framed(io, Role::Server, limits).await;
        let mut inbound = Vec::new();
        let mut readers = Vec::new();
        for _ in ports {
            let (ours, theirs) = tokio::io::duplex(limits.stream_buffer);
            inbound.extend([Some(ours), None]);
            readers.push(theirs);
        }
        let channels = Channels::start(socket, codec, false, inbound, limits);
        let open = TaskTracker::new();
        let mut ready = VecDeque::new();
        for ((&port, reader), at) in ports.iter().zip(readers).zip(0u8..) {
            let (data, error) = (2 * at, 2 * at + 1);
            for channel in [data, error] {
                channels.send(Message::Data(channel, Bytes::copy_from_slice(&port.to_le_bytes()))).await;
            }
            let sink = Sink::WebSocket { writer: channels.writer(error), _open: open.token() };
            let data = Box::new(join(reader, channels.writer(data)));
            ready.push_back(Forward { port, data, error: ErrorSink(sink) });
        }
        open.close();
        Self(Kinds::WebSocket { channels: Some(channels), ready, open })
    }

    /// The next connection the client wants; none once the client has closed, or for WebSocket channels once all
    /// connections have ended.
    pub async fn next(&mut self) -> Option<Forward> {
        match &mut self.0 {
            Kinds::Spdy { connection, pairs, limits } => next_spdy(connection, pairs, limits).await,
            Kinds::WebSocket { channels, ready, open } => {
                if let Some(forward) = ready.pop_front() {
                    return Some(forward);
                }
                let closed = channels.as_ref()?.closed();
                tokio::select! {
                    () = open.wait() => {
                        channels.take()?.finish().await;
                    }
                    () = closed.cancelled() => {}
                }
                None
            }
        }
    }
}

async fn next_spdy(
    connection: &mut Connection,
    pairs: &mut Pairs<(u16, Stream)>,
    limits: &Limits,
) -> Option<Forward> {
    loop {
        let deadline = pairs.next_deadline();
        let expiry = async {
            match deadline {
                Some(deadline) => tokio::time::sleep_until(deadline).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            incoming = connection.accept() => {
                if let Some(forward) = admit(incoming?, pairs, limits).await {
                    return Some(forward);
                }
            }
            () = expiry => {
                for (request, kind, (_, stream)) in pairs.expire(Instant::now()) {
                    tracing::debug!(request, "timed out waiting for a port-forward's streams");
                    if kind == Kind::Error {
                        let message = format!("(request={request}) timed out waiting for streams");
                        ErrorSink(Sink::Spdy(stream)).fail(&message).await;
                    }
                }
            }
        }
    }
}

/// Takes a stream if it is one of a port-forward's; gives the connection it completes.
async fn admit(incoming: Incoming, pairs: &mut Pairs<(u16, Stream)>, limits: &Limits) -> Option<Forward> {
    let port = incoming.headers.get(PORT).and_then(|port| parse_port(port).ok());
    let kind = incoming.headers.get(STREAM_TYPE).and_then(Kind::named);
    let (Some(port), Some(kind)) = (port, kind) else {
        tracing::debug!("port-forward stream without a valid port and stream type");
        incoming.refuse().await;
        return None;
    };
    let request = request_id(incoming.headers.get(REQUEST_ID), kind, incoming.id());
    let stream = incoming.accept().await;
    match pairs.add(request, kind, (port, stream), Instant::now() + limits.stream_creation) {
        Added::Waiting => None,
        Added::Complete { data: (port, data), error: (_, error) } => {
            Some(Forward { port, data: Box::new(data), error: ErrorSink(Sink::Spdy(error)) })
        }
        Added::Duplicate((_, stream)) => {
            tracing::debug!("port-forward stream of a kind the request has already");
            stream.reset().await;
            None
        }
    }
}
