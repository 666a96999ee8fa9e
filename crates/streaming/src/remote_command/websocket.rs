//! Exec and attach over WebSocket channels.

use bytes::Bytes;
use tokio_tungstenite::tungstenite::protocol::Role;

use super::{ResizeStream, Session, SessionEnd, Streams, channel, session::End};
use crate::{
    BoxRead, BoxWrite, Duplex, Limits,
    ws::{self, Channels, Codec, Message},
};

/// The WebSocket subprotocols of exec and attach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WebSocketProtocol {
    /// `v5.channel.k8s.io`: v4 plus the end of single channels.
    V5,
    /// `v4.channel.k8s.io`: JSON status.
    V4,
    /// `v4.base64.channel.k8s.io`.
    V4Base64,
    /// `channel.k8s.io`, also for clients that offer none: text on failure only.
    Legacy,
    /// `base64.channel.k8s.io`.
    LegacyBase64,
}

impl WebSocketProtocol {
    const ALL: [Self; 5] = [Self::V5, Self::V4, Self::V4Base64, Self::Legacy, Self::LegacyBase64];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V5 => "v5.channel.k8s.io",
            Self::V4 => "v4.channel.k8s.io",
            Self::V4Base64 => "v4.base64.channel.k8s.io",
            Self::Legacy => "channel.k8s.io",
            Self::LegacyBase64 => "base64.channel.k8s.io",
        }
    }

    /// The first of the client's offers that we speak, and whether to name it; none if it offers only others.
    pub(crate) fn choose(offered: &[&str]) -> Option<(Self, Option<&'static str>)> {
        if offered.is_empty() {
            return Some((Self::Legacy, None));
        }
        let known = |name: &&str| Self::ALL.into_iter().find(|protocol| protocol.name() == *name);
        offered.iter().find_map(known).map(|protocol| (protocol, Some(protocol.name())))
    }

    pub(crate) fn codec(self) -> Codec {
        match self {
            Self::V4Base64 | Self::LegacyBase64 => Codec::Base64,
            Self::V5 | Self::V4 | Self::Legacy => Codec::Binary,
        }
    }

    fn json_status(self) -> bool {
        !matches!(self, Self::Legacy | Self::LegacyBase64)
    }
}

/// Starts a session over an upgraded connection.
pub(crate) async fn accept(
    io: impl Duplex + 'static,
    protocol: WebSocketProtocol,
    streams: Streams,
    limits: &Limits,
) -> Session {
    let socket = ws::framed(io, Role::Server, limits).await;
    let mut inbound: Vec<_> = (0..=channel::RESIZE).map(|_| None).collect();
    let mut pipe = |wanted: bool, channel: u8| {
        wanted.then(|| {
            let (ours, theirs) = tokio::io::duplex(limits.stream_buffer);
            inbound[usize::from(channel)] = Some(ours);
            theirs
        })
    };
    let stdin = pipe(streams.stdin, channel::STDIN);
    let resize = pipe(streams.tty, channel::RESIZE);
    let channels =
        Channels::start(socket, protocol.codec(), protocol == WebSocketProtocol::V5, inbound, limits);
    // Tells the client that the connection stands, before there is output.
    let lowest = match streams {
        Streams { stdout: true, .. } => channel::STDOUT,
        Streams { stderr: true, .. } => channel::STDERR,
        _ => channel::ERROR,
    };
    channels.send(Message::Data(lowest, Bytes::new())).await;
    let sink = |wanted: bool, number: u8| wanted.then(|| Box::new(channels.writer(number)) as BoxWrite);
    Session {
        stdin: stdin.map(|pipe| Box::new(pipe) as BoxRead),
        stdout: sink(streams.stdout, channel::STDOUT),
        stderr: sink(streams.stderr, channel::STDERR),
        resize: resize.map(ResizeStream::new),
        end: SessionEnd {
            end: End::WebSocket { channels, json_status: protocol.json_status() },
            finish_limit: limits.finish,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn takes_the_clients_first_choice() {
        let choose = |offered: &[&str]| WebSocketProtocol::choose(offered).map(|(protocol, _)| protocol);
        assert_eq!(choose(&["v5.channel.k8s.io"]), Some(WebSocketProtocol::V5));
        assert_eq!(choose(&["x", "channel.k8s.io", "v4.channel.k8s.io"]), Some(WebSocketProtocol::Legacy));
        assert_eq!(choose(&[]), Some(WebSocketProtocol::Legacy));
        assert_eq!(choose(&["SPDY/3.1+portforward.k8s.io"]), None);
    }
}
