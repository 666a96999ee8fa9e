//! The node agent: pods made real through a CRI runtime.
