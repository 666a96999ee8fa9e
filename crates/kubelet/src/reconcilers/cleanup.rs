//! Removes what pods leave on the node: containers, sandboxes, volumes, cgroups, logs; also of pods nobody remembers.

use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;

use super::volume;
use crate::shared::Shared;

/// What is left of one pod.
pub struct Left {
    /// Its UID.
    pub uid: String,
    /// Its namespace, if known.
    pub namespace: String,
    /// Its name, if known.
    pub name: String,
    /// The runtime's ids of its sandboxes.
    pub sandboxes: Vec<String>,
    /// The runtime's ids of its containers.
    pub containers: Vec<String>,
}

/// Removes all of it; may be repeated.
pub async fn remove_pod(shared: Arc<Shared>, left: Left) -> Result<(), String> {
    for id in &left.containers {
        shared.cri.remove_container(id).await.map_err(|error| error.to_string())?;
    }
    for id in &left.sandboxes {
        // Stopping again releases the network even where an earlier stop was interrupted.
        shared.cri.stop_pod_sandbox(id).await.map_err(|error| error.to_string())?;
        shared.cri.remove_pod_sandbox(id).await.map_err(|error| error.to_string())?;
    }
    let work = move || -> io::Result<()> {
        volume::tear_down(&shared.pod_dir(&left.uid))?;
        for class in ["Guaranteed", "Burstable", "BestEffort"] {
            shared.cgroups.remove(&shared.cgroups.pod(&left.uid, class))?;
        }
        if left.name.is_empty() {
            return Ok(());
        }
        absent_is_fine(std::fs::remove_dir_all(shared.log_dir(&left.namespace, &left.name, &left.uid)))
    };
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| error.to_string())?
        .map_err(|error| error.to_string())
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Removes pod directories, cgroups and logs that belong to none of the pods in `known`.
pub fn remove_orphans(shared: &Shared, known: &BTreeSet<String>) {
    let mut removed = BTreeSet::new();
    for entry in std::fs::read_dir(shared.config.root_dir.join("pods")).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let Some(uid) = name.to_str().filter(|uid| !known.contains(*uid)) else { continue };
        match volume::tear_down(&entry.path()) {
            Ok(()) => drop(removed.insert(uid.to_owned())),
            Err(error) => tracing::warn!(uid, error = %error, "orphaned pod directory not removed"),
        }
    }
    for (uid, cgroup) in shared.cgroups.pods() {
        if known.contains(&uid) {
            continue;
        }
        match shared.cgroups.remove(&cgroup) {
            Ok(()) => drop(removed.insert(uid)),
            Err(error) => tracing::debug!(cgroup, error = %error, "orphaned cgroup not removed"),
        }
    }
    for entry in std::fs::read_dir(&shared.config.pod_logs_dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        // Only what is named as ours: others may keep files there too.
        let Some(uid) = name
            .to_str()
            .filter(|name| name.split('_').count() == 3)
            .and_then(|name| name.rsplit('_').next())
        else {
            continue;
        };
        if !known.contains(uid) && std::fs::remove_dir_all(entry.path()).is_ok() {
            removed.insert(uid.to_owned());
        }
    }
    if !removed.is_empty() {
        tracing::info!(pods = removed.len(), "removed what orphaned pods had left");
    }
}
