//! A pod's volumes on the node: where they are, what is in them, how they go away.

pub mod atomic;
pub mod payload;
pub mod sub_path;
pub mod tokens;

use std::collections::HashMap;
use std::path::PathBuf;

/// One volume on the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountedVolume {
    /// Its directory or file.
    pub path: PathBuf,
    /// Whether containers may only read it.
    pub read_only: bool,
}

/// The volumes of a pod by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mounted {
    /// The volumes.
    pub paths: HashMap<String, MountedVolume>,
}
