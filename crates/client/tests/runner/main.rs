//! The client's parts against an API server of a few lines, in process.
mod informers;
mod leader;
mod server;
