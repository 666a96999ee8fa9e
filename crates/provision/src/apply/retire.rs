//! A host that goes: everything that was planned for it is stopped, and its data removed.

use std::path::Path;

use super::{Host, HostError};
use crate::plan::{HostPaths, Stage};

/// Stops services of some stages, those that others count on last.
pub async fn stop_services(
    host: &dyn Host,
    stages: &[Stage],
    plan: &crate::plan::HostPlan,
) -> Result<(), HostError> {
    let found = host.services().await?;
    for stage in Stage::ALL.into_iter().rev().filter(|stage| stages.contains(stage)) {
        for service in plan.services.iter().rev().filter(|s| s.stage == stage) {
            if found.contains_key(&service.name) {
                host.remove_service(&service.name).await?;
            }
        }
    }
    Ok(())
}

/// Ends what still runs in containers, through the runtime while it still answers.
const CONTAINERS: &str = r#"command -v ctr >/dev/null || exit 0
c="ctr --address $1 -n k8s.io"
for t in $($c tasks ls -q 2>/dev/null); do $c tasks kill -s KILL "$t" >/dev/null 2>&1; done
for i in 1 2 3 4 5 6 7 8 9 10; do
for t in $($c tasks ls -q 2>/dev/null); do $c tasks rm "$t" >/dev/null 2>&1; done
[ -z "$($c tasks ls -q 2>/dev/null)" ] && break; sleep 0.5; done
for t in $($c containers ls -q 2>/dev/null); do $c containers rm "$t" >/dev/null 2>&1; done; true"#;

/// Unmounts what is below the first argument, then removes all of them.
const DATA: &str = r#"grep -F " $1/" /proc/self/mounts | cut -d' ' -f2 | sort -r | while read -r m; do umount -l "$m"; done
for p; do rm -rf --one-file-system "$p"; done"#;

/// Stops everything of ours on a host and removes its data: it is as if it had never been of a cluster. Programs that came in
/// packages stay.
pub async fn clean(host: &dyn Host, paths: &HostPaths) -> Result<(), HostError> {
    let runtime = "containerd";
    let found = host.services().await?;
    // What would start containers again goes before them.
    for name in ["kubelet", "kube-proxy"].into_iter().filter(|name| found.contains_key(*name)) {
        host.remove_service(name).await?;
    }
    let socket = paths.containerd_socket().display().to_string();
    host.run(&["sh", "-c", CONTAINERS, "sh", &socket], b"").await?;
    for name in found.keys().filter(|n| !matches!(n.as_str(), "kubelet" | "kube-proxy" | "containerd")) {
        host.remove_service(name).await?;
    }
    if found.contains_key(runtime) {
        host.remove_service(runtime).await?;
    }
    let mut gone: Vec<&Path> = vec![&paths.kubelet, &paths.config, &paths.etcd, &paths.db, &paths.pod_logs];
    gone.extend([paths.cni_conf.as_path(), paths.containerd_root.as_path(), Path::new("/var/lib/cni")]);
    gone.push(Path::new("/var/lib/cox"));
    let gone: Vec<String> = gone.iter().map(|p| p.display().to_string()).collect();
    let mut command = vec!["sh", "-c", DATA, "sh"];
    command.extend(gone.iter().map(String::as_str));
    let output = host.run(&command, b"").await?;
    if output.code != 0 {
        let said = output.err.lines().last().unwrap_or("it said nothing").to_owned();
        return Err(HostError::Refused { step: "remove its data".into(), said });
    }
    Ok(())
}
