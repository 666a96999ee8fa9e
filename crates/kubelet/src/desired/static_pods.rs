//! Reads static pods from a directory of manifests and follows its changes.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use inotify::WatchMask;
use k8s_openapi::api::core::v1::{Pod, Toleration};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::file_watch::FileWatch;
use crate::labels;

/// The largest manifest that is read.
const MANIFEST_LIMIT: u64 = 10 << 20;
/// A directory that does not exist yet, or whose watch broke, is looked at this often.
const RETRY: Duration = Duration::from_secs(5);
/// Editors write in several steps: changes are read once they have settled.
const SETTLE: Duration = Duration::from_millis(100);

/// A manifest made a static pod of this node: upstream's identity and annotations.
pub fn from_manifest(bytes: &[u8], path: &Path, node: &str) -> Result<Pod, String> {
    let text = std::str::from_utf8(bytes).map_err(|error| error.to_string())?;
    let value: serde_json::Value = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
    let kind = value.get("kind").and_then(|kind| kind.as_str()).unwrap_or_default();
    let version = value.get("apiVersion").and_then(|version| version.as_str()).unwrap_or_default();
    if (kind, version) != ("Pod", "v1") {
        return Err(format!("expected a v1 Pod, found {version} {kind}"));
    }
    let mut pod: Pod = serde_json::from_value(value).map_err(|error| error.to_string())?;
    let name =
        pod.metadata.name.clone().filter(|name| !name.is_empty()).ok_or("metadata.name: Required value")?;
    let hash = match pod.metadata.uid.clone().filter(|uid| !uid.is_empty()) {
        Some(uid) => uid,
        None => {
            let mut digest = Sha256::new();
            digest.update(bytes);
            digest.update(format!("host:{node}file:{}", path.display()));
            digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
        }
    };
    pod.metadata.name = Some(format!("{name}-{}", node.to_lowercase()));
    pod.metadata.namespace.get_or_insert_with(|| "default".into());
    pod.metadata.uid = Some(hash.clone());
    let notes = pod.metadata.annotations.get_or_insert_default();
    notes.insert(labels::CONFIG_HASH.to_owned(), hash);
    notes.insert(labels::CONFIG_SOURCE.to_owned(), "file".to_owned());
    notes.entry(labels::CONFIG_SEEN.to_owned()).or_insert_with(|| jiff::Timestamp::now().to_string());
    let spec = pod.spec.get_or_insert_default();
    if spec.containers.is_empty() {
        return Err("spec.containers: Required value".into());
    }
    spec.node_name = Some(node.to_owned());
    spec.restart_policy.get_or_insert_with(|| "Always".into());
    spec.dns_policy.get_or_insert_with(|| "ClusterFirst".into());
    spec.enable_service_links.get_or_insert(true);
    spec.termination_grace_period_seconds.get_or_insert(30);
    // Static pods do not leave their node.
    let everything = Toleration {
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        ..Default::default()
    };
    let tolerations = spec.tolerations.get_or_insert_default();
    if !tolerations.contains(&everything) {
        tolerations.push(everything);
    }
    pod.status = None;
    Ok(pod)
}

fn read(
    directory: &Path,
    node: &str,
    seen: &HashMap<String, Arc<Pod>>,
) -> std::io::Result<HashMap<String, Arc<Pod>>> {
    let mut files: Vec<PathBuf> = match std::fs::read_dir(directory) {
        Ok(entries) => entries.flatten().map(|entry| entry.path()).collect(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    files.sort();
    let mut out = HashMap::new();
    for path in files {
        let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
        let readable = std::fs::metadata(&path)
            .is_ok_and(|metadata| metadata.is_file() && metadata.len() <= MANIFEST_LIMIT);
        if hidden || !readable {
            continue;
        }
        let pod = std::fs::read(&path)
            .map_err(|error| error.to_string())
            .and_then(|bytes| from_manifest(&bytes, &path, node));
        match pod {
            Ok(pod) => {
                let uid = pod.metadata.uid.clone().unwrap_or_default();
                let pod = seen.get(&uid).cloned().unwrap_or_else(|| Arc::new(pod));
                out.insert(uid, pod);
            }
            Err(error) => tracing::warn!(path = %path.display(), error, "manifest is no static pod"),
        }
    }
    Ok(out)
}

/// Sends the set of static pods at first and after every change, until stopped.
pub async fn follow(
    directory: PathBuf,
    node: String,
    sets: mpsc::Sender<HashMap<String, Arc<Pod>>>,
    stop: CancellationToken,
) {
    let mut seen: Option<HashMap<String, Arc<Pod>>> = None;
    loop {
        // The watch is set before reading, so that nothing between is missed.
        let mut events = watch(&directory);
        match read(&directory, &node, seen.as_ref().unwrap_or(&HashMap::new())) {
            Ok(set) => {
                if seen.as_ref().is_none_or(|seen| {
                    seen.len() != set.len() || !set.keys().all(|uid| seen.contains_key(uid))
                }) {
                    seen = Some(set.clone());
                    if sets.send(set).await.is_err() {
                        return;
                    }
                }
            }
            Err(error) => {
                tracing::warn!(path = %directory.display(), error = %error, "static pods not readable")
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = changed(&mut events) => tokio::time::sleep(SETTLE).await,
        }
    }
}

fn watch(directory: &Path) -> Option<FileWatch> {
    let mask = WatchMask::CLOSE_WRITE
        | WatchMask::MOVE
        | WatchMask::DELETE
        | WatchMask::CREATE
        | WatchMask::DELETE_SELF;
    FileWatch::new(directory, mask).ok()
}

async fn changed(events: &mut Option<FileWatch>) {
    match events {
        Some(watch) => {
            if watch.changed().await.is_err() {
                tokio::time::sleep(RETRY).await;
            }
        }
        None => tokio::time::sleep(RETRY).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::PodExt;

    #[test]
    fn manifests_become_pods_of_this_node() {
        let yaml =
            b"apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: i}]}\n";
        let pod = from_manifest(yaml, Path::new("/m/web.yaml"), "Node1").expect("pod");
        assert_eq!((pod.name(), pod.namespace()), ("web-node1", "default"));
        assert!(pod.is_static());
        assert_eq!(pod.uid().len(), 32);
        let again = from_manifest(yaml, Path::new("/m/web.yaml"), "Node1").expect("pod");
        assert_eq!(pod.uid(), again.uid());
        let other = from_manifest(&[&yaml[..], b"# changed\n"].concat(), Path::new("/m/web.yaml"), "Node1")
            .expect("pod");
        assert_ne!(pod.uid(), other.uid());
    }

    #[test]
    fn other_files_are_refused_with_a_reason() {
        let error = |text: &str| from_manifest(text.as_bytes(), Path::new("/m/x"), "n").expect_err("refused");
        assert_eq!(
            error("apiVersion: v1\nkind: Service\nmetadata: {name: a}\n"),
            "expected a v1 Pod, found v1 Service"
        );
        assert!(error("kind: [").len() > 3);
        assert_eq!(
            error("apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: []}\n"),
            "spec.containers: Required value"
        );
    }
}
