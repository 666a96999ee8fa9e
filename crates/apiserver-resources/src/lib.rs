//! Pure rules of each resource on its way in, and its printed columns. One file for each resource.
//!
//! Read [`Strategy`] first: the generic store calls it in the order that the trait documents; [`strategy_for`] finds the
//! rules of a resource, [`meta`] has those that all kinds share. No async, no storage, no HTTP.
mod admissionregistration;
mod apiextensions;
mod apps;
mod autoscaling;
mod batch;
mod capabilities;
#[cfg(test)]
mod cases;
mod certificates;
mod checks;
mod convert;
mod coordination;
mod core;
mod discovery;
mod flowcontrol;
mod lookup;
pub mod meta;
mod networking;
mod node;
mod policy;
mod rbac;
mod resource;
mod rules;
mod scheduling;
mod spelling;
mod storage;
mod strategy;
pub mod table;
mod tree;

pub use capabilities::allow_privileged;
pub use convert::convert;
pub use lookup::{stored_field, strategy_for, supported_field};
pub use meta::{NameRule, name_rule, validate_object_meta, validate_object_meta_update};
pub use strategy::{Generic, Grace, Propagation, Strategy};
