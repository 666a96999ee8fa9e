//! Kubernetes' streaming protocols: SPDY/3.1 and WebSocket channels for exec, attach and port-forward.
//!
//! A server takes an upgrade request, calls [`accept::remote_command`] or [`accept::port_forward`], answers with
//! the response it gets and awaits the session: plain readers and writers, whichever protocol the client chose.
//! [`client`] is the other end (towards a CRI runtime's streaming server), [`bridge`] joins the two, and [`proxy`]
//! forwards requests and upgraded connections without looking inside them.
//!
//! Every connection runs in one task, which ends with the connection, with its session's drop, or with
//! [`Limits::idle`]. Read [`remote_command::Session`] first.
//!
//! It knows nothing of pods, users or the CRI's calls, and it does not translate between WebSocket and SPDY on the
//! wire: it ends one protocol and starts the other.

pub mod accept;
pub mod body;
pub mod bridge;
pub mod client;
pub mod dial;
mod io;
mod limits;
mod messages;
mod port_forward;
mod proxied_headers;
pub mod proxy;
mod remote_command;
pub mod spdy;
pub mod ws;

pub use accept::{Accepted, SessionError};
pub use body::{Body, BoxError};
pub use io::{BoxRead, BoxWrite, Duplex, splice};
pub use limits::Limits;
pub use messages::MessageSocket;
pub use port_forward::{ErrorSink, Forward, PortForwardSession};
pub use remote_command::{
    ExecStatus, InvalidStreams, ResizeStream, Session, SessionEnd, Streams, TerminalSize,
};
