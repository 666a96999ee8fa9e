//! SPDY/3.1 as Kubernetes uses it: streams with headers over one connection, without flow control windows.
//!
//! Start a [`Connection`] over any byte stream, then [`Connection::accept`] the peer's streams or
//! [`Opener::open`] own ones. A stream that is not read stops the whole connection once its buffer is full, as
//! there are no windows to stop only its sender.

mod connection;
mod dictionary;
pub mod frame;
mod header_block;
mod stream;
mod table;

pub use connection::{Connection, Incoming, Opener, Role};
pub use header_block::{HeaderCompressor, HeaderDecompressor, HeaderError, Headers};
pub use stream::{Stream, StreamReader, StreamWriter};
