//! The API server: the resource table and the filter chain, put together.
//!
//! Read [`Config`], then [`ApiServer::start`]. Only wiring: what is decided here is which implementation goes where.
mod authentication;
mod authorization;
mod bootstrap;
mod component_probe;
mod config;
mod endpoints;
mod feed;
mod flow_control;
mod guards;
mod masters;
mod metered;
mod outbound;
mod plugin_needs;
mod sealed;
mod server;
mod service_allocator;
mod service_repair;
mod view;
mod webhook_config;

pub use apiserver_admission::{DefaultTolerationSeconds, PluginFlags, Selection, Settings};
pub use apiserver_audit as audit;
pub use apiserver_authn::oidc::{AuthenticationConfiguration, JwtAuthenticator, OidcFlags};
pub use apiserver_authn::{Anonymous, HttpClient, RequestHeaderNames};
pub use apiserver_authz::config::AuthorizationFlags;
pub use apiserver_http::endpoints::Component;
pub use apiserver_http::{Body, CipherSuiteName, MinVersion, Serving, SniCertificate, TlsFiles, TlsOptions};
pub use authentication::{Authentication, FrontProxy, TokenWebhookConfig};
pub use component_probe::HttpProbe;
pub use config::{Admission, AuthorizationMode, Config, EncryptionFile, KubeletClient, ServiceAccounts};
pub use outbound::{Outbound, OutboundTrust};
pub use server::{ApiServer, Route, StartError};
pub use webhook_config::WebhookConfig;
