//! Audit: which requests are recorded, what is recorded of them, and where it goes.
//!
//! Read [`Audit`] first: it takes the facts of a request and gives a [`Record`], or nothing, as the [`Policy`] says; the
//! record is told what becomes of the request, and sends an event for each stage to the log and the webhook. Events are
//! upstream's, field by field and in their order.
//!
//! What it is not: it knows no HTTP server and no handler. It is told; it asks nobody.
mod audit;
mod event;
mod file;
mod policy;
mod sink;
mod webhook;

pub use audit::{Audit, AuditError, Begin, Config, Record};
pub use event::{Level, Stage};
pub use policy::{Policy, PolicyError, Verdict};
pub use sink::{Batch, LogConfig, Mode, Truncate, WebhookConfig};
