//! The words of the concrete Kubernetes 1.36 API: the table of kinds, the schema facts and the codecs.
//!
//! Types come from `k8s-openapi`. Read [`kinds::Kind`] first, then [`schema::TypeDef`].
//! No behaviour and no I/O: defaults and validation live in `apiserver-resources`.
pub mod decode;
pub mod describe;
// The build script runs it; here are its tests.
#[cfg(test)]
#[allow(dead_code)]
#[path = "../build/describe.rs"]
mod describe_sources;
pub mod fields;
// One short line for each field, thousands of them: a table, not code to read.
#[allow(clippy::too_many_arguments)]
mod generated;
pub mod kinds;
pub mod merge;
pub mod openapi;
mod openapi_message;
pub mod openapi_v2;
pub mod openapi_v3_message;
pub mod proto;
pub mod schema;
