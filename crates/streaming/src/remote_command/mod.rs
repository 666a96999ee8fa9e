//! Exec and attach: a command's standard streams, its terminal's size and its outcome.

mod resize;
mod session;
mod spdy;
mod status;
mod streams;
mod websocket;

pub use resize::{ResizeStream, TerminalSize};
pub use session::{Session, SessionEnd};
pub use status::ExecStatus;
pub use streams::{InvalidStreams, Streams};

pub(crate) use spdy::{SpdyVersion, accept as accept_spdy, protocol_names as spdy_protocol_names};
pub(crate) use status::MAX_STATUS;
pub(crate) use websocket::{WebSocketProtocol, accept as accept_websocket};

/// Channel numbers of the WebSocket protocols.
pub(crate) mod channel {
    pub(crate) const STDIN: u8 = 0;
    pub(crate) const STDOUT: u8 = 1;
    pub(crate) const STDERR: u8 = 2;
    pub(crate) const ERROR: u8 = 3;
    pub(crate) const RESIZE: u8 = 4;
}

/// The header that says what a SPDY stream is for.
pub(crate) const STREAM_TYPE: &str = "streamType";
