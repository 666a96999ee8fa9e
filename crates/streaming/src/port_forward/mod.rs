//! Port-forward: connections to a pod's ports, each with a way to say what went wrong.

mod pairs;
mod ports;
mod session;

pub(crate) use ports::{forwarded_ports, parse_port};
pub use session::{ErrorSink, Forward, PortForwardSession};

/// The protocol's name in SPDY's negotiation.
pub(crate) const PROTOCOL: &str = "portforward.k8s.io";
/// The WebSocket subprotocol in which SPDY travels as a byte stream.
pub(crate) const TUNNEL_PROTOCOL: &str = "SPDY/3.1+portforward.k8s.io";
/// The header with a stream's port.
pub(crate) const PORT: &str = "port";
/// The header that says which data and error streams belong together.
pub(crate) const REQUEST_ID: &str = "requestID";
