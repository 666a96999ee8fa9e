//! Empties a node: nothing new comes, and what runs there leaves through the eviction API, which respects disruption
//! budgets.
use std::time::Duration;

use clap::Args;
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, DeleteParams, EvictParams, ListParams, Patch, PatchParams};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use tokio::time::Instant;

use crate::output::Failure;

/// Between two looks at pods that have to go.
const PAUSE: Duration = Duration::from_millis(500);

/// How nodes are emptied.
#[derive(Args, Clone, Debug)]
pub struct DrainFlags {
    /// How long pods of a host that goes may take to leave it, in seconds.
    #[arg(long, default_value_t = 300, value_name = "SECONDS")]
    pub drain_timeout: u64,
    /// Pods that do not leave in time are deleted, disruption budgets or not; hosts that go and do not answer are given
    /// up.
    #[arg(long)]
    pub force: bool,
}

/// What becomes of a pod of a node that is emptied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    /// It has to go.
    Leaves,
    /// It belongs to the node, or is over.
    Stays,
}

fn fate(pod: &Pod) -> Fate {
    let is_mirror = pod.annotations().contains_key("kubernetes.io/config.mirror");
    let of_every_node =
        pod.owner_references().iter().any(|o| o.kind == "DaemonSet" && o.controller == Some(true));
    let phase = pod.status.as_ref().and_then(|s| s.phase.as_deref());
    let over = matches!(phase, Some("Succeeded" | "Failed"));
    if is_mirror || of_every_node || over { Fate::Stays } else { Fate::Leaves }
}

/// Whether pods may be put on a node; says whether it was otherwise before. A node that is not there is no error.
pub async fn cordon(client: &Client, node: &str, cordoned: bool) -> Result<bool, Failure> {
    let nodes: Api<Node> = Api::all(client.clone());
    let failed = |e: kube::Error| Failure::of(&e);
    let Some(found) = nodes.get_opt(node).await.map_err(failed)? else { return Ok(false) };
    if found.spec.and_then(|s| s.unschedulable).unwrap_or(false) == cordoned {
        return Ok(false);
    }
    let patch = json!({ "spec": { "unschedulable": cordoned.then_some(true) } });
    nodes.patch(node, &PatchParams::default(), &Patch::Merge(patch)).await.map_err(failed)?;
    Ok(true)
}

/// Empties a node; `tell` is told how many pods are left. Returns when all are gone.
pub async fn drain(
    client: &Client,
    node: &str,
    flags: &DrainFlags,
    tell: &(dyn Fn(usize) + Sync),
) -> Result<(), Failure> {
    cordon(client, node, true).await?;
    let pods: Api<Pod> = Api::all(client.clone());
    let on_node = ListParams::default().fields(&format!("spec.nodeName={node}"));
    let deadline = Instant::now() + Duration::from_secs(flags.drain_timeout);
    let mut told = None;
    loop {
        // What a server says that is just being started anew is asked again.
        let left: Vec<Pod> = match pods.list(&on_node).await {
            Ok(list) => list.items.into_iter().filter(|p| fate(p) == Fate::Leaves).collect(),
            Err(e) if Instant::now() > deadline => return Err(Failure::of(&e)),
            Err(_) => {
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        if left.is_empty() {
            return Ok(());
        }
        if told.replace(left.len()) != Some(left.len()) {
            tell(left.len());
        }
        let late = Instant::now() > deadline;
        let mut held = Vec::new();
        for pod in left.iter().filter(|p| p.metadata.deletion_timestamp.is_none() || late) {
            let (namespace, name) = (pod.namespace().unwrap_or_default(), pod.name_any());
            let of: Api<Pod> = Api::namespaced(client.clone(), &namespace);
            if late && flags.force {
                let _ = of.delete(&name, &DeleteParams::default().grace_period(0)).await;
                continue;
            }
            match of.evict(&name, &EvictParams::default()).await {
                Err(kube::Error::Api(status)) if status.code == 429 => {
                    held.push(format!("{namespace}/{name}: {}", status.message));
                }
                // Gone, or asked again.
                _ => {}
            }
        }
        if late && !flags.force {
            let names: Vec<String> = left
                .iter()
                .map(|p| format!("{}/{}", p.namespace().unwrap_or_default(), p.name_any()))
                .collect();
            let why = if held.is_empty() { String::new() } else { format!(" ({})", held.join("; ")) };
            return Err(Failure::new(
                format!(
                    "pods are still on {node} after {} s: {}{why}",
                    flags.drain_timeout,
                    names.join(", ")
                ),
                "the node takes no new pods. Make room for them elsewhere or loosen their disruption budget, then run \
                 the same command again; --force deletes them",
            ));
        }
        tokio::time::sleep(PAUSE).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pods_of_the_node_itself_stay() {
        let pod = |metadata: serde_json::Value, phase: &str| -> Pod {
            serde_json::from_value(json!({ "metadata": metadata, "status": { "phase": phase } })).unwrap()
        };
        let owned = |kind: &str| {
            let owner =
                json!({ "apiVersion": "apps/v1", "kind": kind, "name": "x", "uid": "u", "controller": true });
            json!({ "name": "p", "ownerReferences": [owner] })
        };
        let mirror = json!({ "name": "p", "annotations": { "kubernetes.io/config.mirror": "h" } });
        assert_eq!(fate(&pod(owned("ReplicaSet"), "Running")), Fate::Leaves);
        assert_eq!(fate(&pod(json!({ "name": "p" }), "Pending")), Fate::Leaves);
        assert_eq!(fate(&pod(owned("DaemonSet"), "Running")), Fate::Stays);
        assert_eq!(fate(&pod(mirror, "Running")), Fate::Stays);
        assert_eq!(fate(&pod(owned("Job"), "Succeeded")), Fate::Stays);
    }
}
