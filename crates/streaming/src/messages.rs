//! A WebSocket on which only the server speaks: a watch, message by message.

use std::time::Duration;

use bytes::Bytes;
use futures::{SinkExt, StreamExt};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{self, Message};

/// How long a client may take none of what waits for it.
const STALL: Duration = Duration::from_secs(60);

/// Sends messages until the client goes.
pub struct MessageSocket {
    pub(crate) socket: WebSocketStream<TokioIo<hyper::upgrade::Upgraded>>,
}

impl MessageSocket {
    /// Sends a message as text, or as bytes.
    pub async fn send(&mut self, message: Bytes, text: bool) -> std::io::Result<()> {
        let message = if text {
            let text = String::from_utf8(message.into()).map_err(std::io::Error::other)?;
            Message::Text(text.into())
        } else {
            Message::Binary(message)
        };
        match tokio::time::timeout(STALL, self.socket.send(message)).await {
            Ok(sent) => sent.map_err(std::io::Error::other),
            Err(_) => Err(std::io::ErrorKind::TimedOut.into()),
        }
    }

    /// Waits until the client goes; what it says is answered as the protocol wants (pings) and dropped.
    pub async fn gone(&mut self) {
        while let Some(message) = self.socket.next().await {
            if matches!(message, Err(_) | Ok(Message::Close(_))) {
                return;
            }
        }
    }

    /// Ends the connection well.
    pub async fn close(mut self) {
        let close = async {
            match self.socket.close(None).await {
                Ok(()) | Err(tungstenite::Error::ConnectionClosed) => self.gone().await,
                Err(_) => {}
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(5), close).await;
    }
}
