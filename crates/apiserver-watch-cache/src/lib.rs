//! The current objects of one resource as encoded bytes, and the ring of recent events, shared by all readers.
//!
//! Read [`Cache`] first: one for each resource prefix, fed by one watch of the storage in one task. Gets, lists and
//! watches are answered from it; a [`Snapshot`] is a consistent view that costs nothing to take; a [`Watch`] gets each
//! event as it comes, encoded once for everybody ([`CacheEvent::frame`]).
//!
//! A cache knows keys, bytes and the [`Facts`] its [`Decode`] finds in them. It never knows HTTP, rules or selectors;
//! [`CacheEvent::previous`] is there for those who have to tell that an object no longer matches one.

mod cache;
mod diff;
mod event;
mod fan_out;
mod feed;
mod map;
mod object;
mod ring;
mod splice;

#[cfg(test)]
mod tests;

pub use cache::{Cache, Error, Limits, Snapshot};
pub use event::{CacheEvent, EventKind, json_frame};
pub use fan_out::{Scope, Watch};
pub use map::OrderedMap;
pub use object::{CachedObject, Decode, DecodeError, Decoded, Facts, Owner};
pub use splice::find_splice;
