//! The server as a whole, without a socket.
mod matrix;
