//! The API server: the resource table and the filter chain, put together.
//!
//! Read [`Config`], then [`ApiServer::start`]. Only wiring: what is decided here is which implementation goes where.
mod bootstrap;
mod config;
mod endpoints;
mod feed;
mod flow_control;
mod guards;
mod masters;
mod metered;
mod server;
mod service_allocator;
mod service_repair;
mod view;

pub use apiserver_http::endpoints::Component;
pub use apiserver_http::{Body, Serving, TlsFiles, go_duration};
pub use config::{AuthorizationMode, Config, KubeletClient, ServiceAccounts};
pub use server::{ApiServer, StartError};
