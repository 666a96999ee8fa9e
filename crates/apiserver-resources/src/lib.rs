//! Pure rules of each resource on its way in, and its printed columns. One file for each resource.
//!
//! Read [`Strategy`] first: the generic store calls it in the order that the trait documents; [`strategy_for`] finds the
//! rules of a resource. No async, no storage, no HTTP.
mod apps;
mod convert;
mod core;
mod lookup;
mod meta;
mod rules;
mod strategy;
mod tree;

pub use convert::convert;
pub use lookup::strategy_for;
pub use strategy::{Generic, Grace, Propagation, Strategy, Typed, TypedStrategy};
