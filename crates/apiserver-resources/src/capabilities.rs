//! What a whole process allows pods to be. Upstream: pkg/capabilities, 1.36.
use std::sync::atomic::{AtomicBool, Ordering};

static PRIVILEGED: AtomicBool = AtomicBool::new(true);

/// Says whether containers may be privileged (`--allow-privileged`). The rules of pods stand in many kinds and take no
/// settings, so this one holds for all servers of a process, as upstream's does.
pub fn allow_privileged(allow: bool) {
    PRIVILEGED.store(allow, Ordering::Relaxed);
}

pub(crate) fn privileged_is_allowed() -> bool {
    PRIVILEGED.load(Ordering::Relaxed)
}
