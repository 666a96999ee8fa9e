//! HTTP on top of the generic store: routes, negotiation, discovery, OpenAPI, streaming to clients.
//!
//! Read [`Server`] first, then [`Server::handle`]: the filters in upstream's order, then one handler for each verb.
//! What a subresource does beyond reading and writing objects is an [`Endpoint`]. Storage is never touched here.
mod audit;
mod body;
mod context;
mod cork;
mod deliver;
mod deprecation;
mod discovery;
pub mod endpoints;
mod field_manager;
mod filters;
mod gzip;
mod health;

mod inline;
mod kinds;
mod limits;
mod listener;
pub mod metrics;
mod negotiate;
mod openapi;
mod possession;
mod query;
mod read;
mod request_info;
mod respond;
mod server;
mod tls;
mod unread;
mod watch;
mod watch_socket;
mod write;

pub use body::{Body, BoxError, full};
pub use context::{Context, Endpoint};
pub use health::{Check, Health, Probe};
pub use kinds::Kinds;
pub use limits::{Limits, Serving};
pub use listener::{Listener, ListenerError, TlsFiles};
pub use openapi::OpenApi;
pub use query::Query;
pub use server::{Peer, Server};
pub use tls::{CipherSuiteName, MinVersion, SniCertificate, TlsOptions};
