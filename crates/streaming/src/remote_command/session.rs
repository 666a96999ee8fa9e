//! The server's view of one exec or attach, whatever protocol carries it.

use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio_util::sync::CancellationToken;

use super::{ExecStatus, ResizeStream, channel};
use crate::{
    BoxRead, BoxWrite,
    spdy::{Connection, StreamReader, StreamWriter},
    ws::{Channels, Message},
};

/// A client waiting for a command's output; streams it did not ask for are none.
pub struct Session {
    /// What the client types; its end is the client's end of input.
    pub stdin: Option<BoxRead>,
    /// Standard output.
    pub stdout: Option<BoxWrite>,
    /// Standard error.
    pub stderr: Option<BoxWrite>,
    /// Sizes of the client's terminal.
    pub resize: Option<ResizeStream>,
    /// The way to end the session.
    pub end: SessionEnd,
}

/// Ends a session; dropping it breaks the connection.
pub struct SessionEnd {
    pub(crate) end: End,
    pub(crate) finish_limit: Duration,
}

/// What the protocols need to end.
pub(crate) enum End {
    WebSocket {
        channels: Channels,
        json_status: bool,
    },
    Spdy {
        connection: Connection,
        error: StreamWriter,
        json_status: bool,
        /// Streams the client writes to, reset so that it stops.
        inputs: Vec<StreamWriter>,
        /// Streams the client reads, ended so that it sees their end.
        outputs: Vec<StreamReader>,
    },
}

impl SessionEnd {
    /// Resolves when the client is gone.
    pub async fn closed(&self) {
        self.closed_token().cancelled().await;
    }

    fn closed_token(&self) -> CancellationToken {
        match &self.end {
            End::WebSocket { channels, .. } => channels.closed(),
            End::Spdy { connection, .. } => connection.closed(),
        }
    }

    /// Reports the outcome after all output and waits until the client has read everything and closed.
    ///
    /// The server must not close first: data of the client's on a closed socket would make the kernel throw away
    /// output still on its way. Drop the session's `stdin` before, so that late input is not waited for.
    pub async fn finish(self, status: &ExecStatus) {
        let closed = self.closed_token();
        let finish = async {
            match self.end {
                End::WebSocket { channels, json_status } => {
                    if let Some(bytes) = encode(status, json_status) {
                        channels.send(Message::Data(channel::ERROR, bytes.into())).await;
                    }
                    channels.finish().await;
                }
                End::Spdy { connection, mut error, json_status, inputs, outputs } => {
                    for input in inputs {
                        input.reset().await;
                    }
                    // Failing here means that the client is gone, which the wait below sees.
                    if let Some(bytes) = encode(status, json_status) {
                        let _ = error.write_all(&bytes).await;
                    }
                    for output in &outputs {
                        output.finish_writing().await;
                    }
                    let _ = error.shutdown().await;
                    closed.cancelled().await;
                    drop((connection, outputs));
                }
            }
        };
        if tokio::time::timeout(self.finish_limit, finish).await.is_err() {
            tracing::debug!("client neither read nor closed a finished session");
        }
    }
}

fn encode(status: &ExecStatus, json: bool) -> Option<Vec<u8>> {
    if json { Some(status.to_json()) } else { status.to_legacy_text().map(|text| text.as_bytes().to_vec()) }
}
