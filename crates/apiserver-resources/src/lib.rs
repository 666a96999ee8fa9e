//! Pure rules of each resource on its way in, and its printed columns. One file for each resource.
//!
//! Read [`Strategy`] first: the generic store calls it in the order that the trait documents. [`TypedStrategy`] is how
//! most resources write it. No async, no storage, no HTTP.
mod strategy;

pub use strategy::{Generic, Grace, Propagation, Strategy, Typed, TypedStrategy};
