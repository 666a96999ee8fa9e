//! What a peer may make this process hold or wait for.

use std::time::Duration;

/// The bounds of one streaming connection.
#[derive(Debug, Clone)]
pub struct Limits {
    /// A connection without a byte in either direction for this long is closed
    /// (`--streaming-connection-idle-timeout`).
    pub idle: Duration,
    /// How long the upgrade and the creation of the expected streams may take.
    pub stream_creation: Duration,
    /// How long a finished session waits for the client to read all output and close.
    pub finish: Duration,
    /// SPDY streams open at once on one connection.
    pub max_streams: usize,
    /// Bytes of one SPDY control frame, compressed.
    pub max_control_frame: usize,
    /// Bytes of one SPDY header block after inflating.
    pub max_header_block: usize,
    /// Bytes of one WebSocket message.
    pub max_message: usize,
    /// Bytes received for a stream and not yet read by its owner.
    pub stream_buffer: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            idle: Duration::from_secs(4 * 60 * 60),
            stream_creation: Duration::from_secs(30),
            finish: Duration::from_secs(15 * 60),
            max_streams: 2048,
            max_control_frame: 64 * 1024,
            max_header_block: 64 * 1024,
            max_message: 8 * 1024 * 1024,
            stream_buffer: 64 * 1024,
        }
    }
}
