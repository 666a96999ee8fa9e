//! Who set which field: sets of fields, what a write changed, and server-side apply. The rules are those of
//! structured-merge-diff v6 and apimachinery/pkg/util/managedfields, 1.36.
//!
//! Read [`FieldSet`] first, then [`Schema`], which says how values merge, then [`update`] (what every write does to
//! `metadata.managedFields`) and [`apply`]. All of it is pure: trees in, trees out.
mod apply;
mod compare;
mod element;
mod extract;
mod lists;
mod managed;
mod merge;
mod remove;
mod schema;
mod scope;
mod set;
#[cfg(test)]
mod tests;
mod update;

pub use apply::{ApplyError, Conflict, LAST_APPLIED, apply, fits};
pub use compare::{Diff, compare};
pub use element::Element;
pub use extract::{extract, problems};
pub use managed::{Entry, Managed, Operation, same_but_times};
pub use merge::merge;
pub use remove::remove;
pub use schema::{Child, Deduced, Form, Place, Scalar, Schema, Typed};
pub use scope::{Reset, Scope, Versions};
pub use set::{Branch, FieldSet};
pub use update::update;
