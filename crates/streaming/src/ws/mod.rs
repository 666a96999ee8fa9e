//! WebSocket as Kubernetes uses it: messages whose first byte is a channel, or plain bytes in binary messages.

mod channels;
mod codec;
mod handshake;
mod tunnel;

use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::protocol::{Role, WebSocketConfig},
};

pub(crate) use channels::{ChannelWriter, Channels, Message};
pub use codec::Codec;
pub use handshake::is_upgrade;
pub(crate) use handshake::{accept_key, new_key, offered_protocols, switching_protocols};
pub use tunnel::Tunnel;

use crate::{Duplex, Limits};

/// Starts WebSocket framing over an upgraded connection.
pub(crate) async fn framed<T: Duplex>(io: T, role: Role, limits: &Limits) -> WebSocketStream<T> {
    let config = WebSocketConfig::default()
        .read_buffer_size(16 * 1024)
        .write_buffer_size(32 * 1024)
        .max_message_size(Some(limits.max_message))
        .max_frame_size(Some(limits.max_message));
    WebSocketStream::from_raw_socket(io, role, Some(config)).await
}
