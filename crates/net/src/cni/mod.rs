//! The pod network as the standard CNI plugins make it: `ptp` (a routed pair of links for each pod), `host-local`
//! (addresses out of the node's range), `portmap` (host ports).
//!
//! `ptp` rather than `bridge`, because a bridged reply can bypass the translation of a service address when client and
//! backend are on one node.

mod conflist;
mod leftovers;

pub use conflist::{Network, conflist, install, uninstall};
pub use leftovers::{Attachment, Leftovers, find, parse_result, remove};
