//! Exec and attach over SPDY streams.

use std::{collections::HashMap, io};

use super::{ResizeStream, STREAM_TYPE, Session, SessionEnd, Streams, session::End};
use crate::{
    BoxRead, BoxWrite, Limits,
    spdy::{Connection, Stream},
};

/// The versions of remote command over SPDY.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SpdyVersion {
    /// JSON status.
    V4,
    /// Terminal sizes.
    V3,
    /// As v1, with streams that close properly.
    V2,
    /// Also for clients that name no version.
    V1,
}

impl SpdyVersion {
    const ALL: [Self; 4] = [Self::V4, Self::V3, Self::V2, Self::V1];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::V4 => "v4.channel.k8s.io",
            Self::V3 => "v3.channel.k8s.io",
            Self::V2 => "v2.channel.k8s.io",
            Self::V1 => "channel.k8s.io",
        }
    }

    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|version| version.name() == name)
    }

    fn has_resize(self) -> bool {
        matches!(self, Self::V4 | Self::V3)
    }
}

/// The names of all versions, best first.
pub(crate) fn protocol_names() -> Vec<&'static str> {
    SpdyVersion::ALL.map(SpdyVersion::name).to_vec()
}

/// The kinds of streams a client creates for a request.
fn expected(version: SpdyVersion, streams: Streams) -> Vec<&'static str> {
    let wanted = [
        ("error", true),
        ("stdin", streams.stdin),
        ("stdout", streams.stdout),
        ("stderr", streams.stderr),
        ("resize", streams.tty && version.has_resize()),
    ];
    wanted.into_iter().filter(|(_, wanted)| *wanted).map(|(name, _)| name).collect()
}

/// Waits for the client to create its streams.
pub(crate) async fn accept(
    mut connection: Connection,
    version: SpdyVersion,
    streams: Streams,
    limits: &Limits,
) -> io::Result<Session> {
    let mut missing = expected(version, streams);
    let mut opened: HashMap<&'static str, Stream> = HashMap::new();
    while !missing.is_empty() {
        let Some(incoming) = connection.accept().await else {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "client closed before creating its streams",
            ));
        };
        let kind =
            incoming.headers.get(STREAM_TYPE).and_then(|kind| missing.iter().position(|name| *name == kind));
        match kind {
            Some(at) => {
                opened.insert(missing.swap_remove(at), incoming.accept().await);
            }
            None => {
                tracing::debug!(kind = incoming.headers.get(STREAM_TYPE), "unexpected stream type");
                incoming.refuse().await;
            }
        }
    }
    connection.refuse_further();
    let mut inputs = Vec::new();
    let mut input = |stream: Stream| {
        let (reader, writer) = stream.into_split();
        inputs.push(writer);
        Box::new(reader) as BoxRead
    };
    let stdin = opened.remove("stdin").map(&mut input);
    let resize = opened.remove("resize").map(&mut input);
    let mut outputs = Vec::new();
    let mut output = |stream: Stream| {
        let (reader, writer) = stream.into_split();
        outputs.push(reader);
        writer
    };
    let stdout = opened.remove("stdout").map(&mut output);
    let stderr = opened.remove("stderr").map(&mut output);
    let error = opened.remove("error").map(&mut output).expect("the error stream is always expected");
    Ok(Session {
        stdin,
        stdout: stdout.map(|writer| Box::new(writer) as BoxWrite),
        stderr: stderr.map(|writer| Box::new(writer) as BoxWrite),
        resize: resize.map(ResizeStream::new),
        end: SessionEnd {
            end: End::Spdy { connection, error, json_status: version == SpdyVersion::V4, inputs, outputs },
            finish_limit: limits.finish,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn old_versions_have_no_resize_stream() {
        let streams = Streams { stdin: true, stdout: true, stderr: false, tty: true };
        assert_eq!(expected(SpdyVersion::V4, streams), ["error", "stdin", "stdout", "resize"]);
        assert_eq!(expected(SpdyVersion::V2, streams), ["error", "stdin", "stdout"]);
    }
}
