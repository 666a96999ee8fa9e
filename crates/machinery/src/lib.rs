//! The words of the Kubernetes API that no concrete kind owns: objects as trees, metadata, `Status`,
//! selectors, quantities, field paths and errors, names, patches, owners of fields.
//!
//! Read [`Object`] first, then [`StatusError`]. Nothing here knows a concrete kind, storage or HTTP.
mod duration;
pub mod field;
pub mod field_selector;
pub mod fields;
pub mod gvk;
pub mod label_selector;
pub mod names;
mod object;
pub mod patch;
pub mod quantity;
pub mod request;
mod status;

pub use duration::go_duration;
pub use field::{FieldError, FieldErrors, FieldPath};
pub use object::Object;
pub use quantity::Quantity;
pub use status::{StatusError, StatusResult};
