//! A server on loopback, and clients that speak to it as strangers do.
mod bad_bytes;
mod deletion;
mod discovery;
mod every_kind;
mod harness;
mod kube_rs;
mod kubectl;
mod limits;
mod metrics;
mod python;
mod reads;
mod shutdown;
mod warnings;
mod watch;
