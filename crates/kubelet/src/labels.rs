//! The labels, annotations and paths by which a restarted kubelet recognises what it made. Upstream's, so that either
//! can adopt the other's pods.

use std::path::{Path, PathBuf};

/// Label: the pod's name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Label: the pod's namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label: the pod's UID.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Label: the container's name.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Annotation: hash of the parts of the container's spec that force a restart.
pub const CONTAINER_HASH: &str = "io.kubernetes.container.hash";
/// Annotation: how often the container was restarted before this one.
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Annotation: where the container writes its termination message.
pub const TERMINATION_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Annotation: whether the log stands in for a missing termination message.
pub const TERMINATION_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Annotation: the container's preStop hook, for when the pod object is gone.
pub const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
/// Annotation: the container's ports, for hooks that name one.
pub const CONTAINER_PORTS: &str = "io.kubernetes.container.ports";
/// Annotation: the pod's deletion grace period, once it is being deleted.
pub const DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";
/// Annotation: the pod's termination grace period.
pub const TERMINATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// Annotation on pods: where they came from (`api`, `file`).
pub const CONFIG_SOURCE: &str = "kubernetes.io/config.source";
/// Annotation on pods: hash of a static pod's manifest.
pub const CONFIG_HASH: &str = "kubernetes.io/config.hash";
/// Annotation on pods: marks the API's picture of a static pod.
pub const CONFIG_MIRROR: &str = "kubernetes.io/config.mirror";
/// Annotation on pods: when the kubelet first saw a static pod.
pub const CONFIG_SEEN: &str = "kubernetes.io/config.seen";

/// Log directory of one pod.
pub fn pod_log_dir(root: &Path, namespace: &str, name: &str, uid: &str) -> PathBuf {
    root.join(format!("{namespace}_{name}_{uid}"))
}

/// FNV-1a over 32 bits, as upstream hashes container specs.
pub fn fnv32a(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// The hash that decides whether a running container still is what the spec asks for.
pub fn container_hash(name: &str, image: &str) -> String {
    let fields = serde_json::json!({"image": image, "name": name});
    format!("{:x}", fnv32a(fields.to_string().as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_change_with_the_image_only() {
        assert_eq!(fnv32a(b""), 0x811c9dc5);
        assert_eq!(fnv32a(b"a"), 0xe40c292c);
        assert_ne!(container_hash("a", "x:1"), container_hash("a", "x:2"));
        assert_eq!(container_hash("a", "x:1"), container_hash("a", "x:1"));
    }

    #[test]
    fn log_directories_carry_all_three_names() {
        assert_eq!(pod_log_dir(Path::new("/l"), "ns", "p", "u"), Path::new("/l/ns_p_u"));
    }
}
