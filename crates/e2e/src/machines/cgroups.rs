//! A cgroup of its own for each machine, in every hierarchy there is: else all of them would share one.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::eventually;

fn hierarchies() -> Vec<PathBuf> {
    let root = PathBuf::from("/sys/fs/cgroup");
    if root.join("cgroup.controllers").exists() {
        return vec![root];
    }
    fs::read_dir(root).into_iter().flatten().flatten().map(|e| e.path()).filter(|p| p.is_dir()).collect()
}

/// Makes them; gives the shell commands that join them.
pub(super) fn make(name: &str) -> Result<String> {
    let mut joins = String::new();
    for hierarchy in hierarchies() {
        let _ = fs::write(hierarchy.join("cgroup.subtree_control"), "+cpu +memory +pids +cpuset +io");
        let own = hierarchy.join(name);
        fs::create_dir_all(&own).with_context(|| own.display().to_string())?;
        for setting in ["cpuset.cpus", "cpuset.mems"] {
            if let Ok(value) = fs::read_to_string(hierarchy.join(setting)) {
                fs::write(own.join(setting), value.trim())?;
            }
        }
        joins.push_str(&format!("echo $$ >{}/cgroup.procs; ", own.display()));
    }
    Ok(joins)
}

fn remove_below(dir: &Path) {
    for inner in fs::read_dir(dir).into_iter().flatten().flatten().filter(|e| e.path().is_dir()) {
        remove_below(&inner.path());
    }
    let _ = fs::remove_dir(dir);
}

/// Removes them with all that is in them, once their processes are gone.
pub(super) fn remove(name: &str) -> Result<()> {
    eventually("the cgroups are gone", Duration::from_secs(20), || {
        hierarchies().iter().for_each(|h| remove_below(&h.join(name)));
        ensure!(!hierarchies().iter().any(|h| h.join(name).exists()), "{name} is still there");
        Ok(())
    })
}
