//! Waits for a node that has joined, and tells why it is not ready.
use std::path::Path;
use std::time::Duration;

use k8s_openapi::api::core::v1::Node;
use kube::Api;
use provision::spec::{ClusterSpec, Host};

use crate::commands::up_hosts::admin;
use crate::output::Failure;

/// Whether a node is ready, as it says itself.
pub fn is_ready(node: Option<&Node>) -> bool {
    let conditions = node.and_then(|n| n.status.as_ref()).and_then(|s| s.conditions.as_ref());
    conditions.into_iter().flatten().any(|c| c.type_ == "Ready" && c.status == "True")
}

/// Waits until the kubelet has its certificate and the node is ready.
pub async fn ready(
    kubeconfig: &Path,
    spec: &ClusterSpec,
    host: &Host,
    patience: Duration,
) -> Result<(), Failure> {
    let deadline = tokio::time::Instant::now() + patience;
    while !kubeconfig.exists() {
        if tokio::time::Instant::now() > deadline {
            return Err(Failure::new(
                format!("the kubelet has got no certificate after {} s", patience.as_secs()),
                "`journalctl -u kubelet` tells why; has the token expired meanwhile? `kubectl get csr` shows what it asked",
            ));
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let client = admin(kubeconfig).await?;
    let nodes: Api<Node> = Api::all(client);
    let wait = kube::runtime::wait::await_condition(nodes.clone(), &host.name, is_ready);
    match tokio::time::timeout_at(deadline, wait).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(Failure::of(&error)),
        Err(_) => {
            Err(not_ready(nodes.get_opt(&host.name).await.ok().flatten().as_ref(), spec, host, patience))
        }
    }
}

/// Why a node is not ready, as far as it shows.
fn not_ready(node: Option<&Node>, spec: &ClusterSpec, host: &Host, patience: Duration) -> Failure {
    let what = format!("node {} is not Ready after {} s", host.name, patience.as_secs());
    let Some(node) = node else {
        return Failure::new(format!("{what}: there is no Node of that name"), "see `journalctl -u kubelet`");
    };
    if node.spec.as_ref().is_none_or(|s| s.pod_cidr.is_none()) {
        let (pods, mask) = (spec.network.pod_cidr, spec.network.node_mask);
        let room = 1_u64 << u32::from(mask.saturating_sub(pods.prefix_len())).min(32);
        return Failure::new(
            format!(
                "{what}: it has no part of the pod network {pods}, which has room for {room} nodes with a /{mask} each"
            ),
            "are there as many nodes (`kubectl get nodes`)? Delete those that are gone for good, their parts are free then; \
             a wider podCIDR needs a new cluster",
        );
    }
    let conditions = node.status.as_ref().and_then(|s| s.conditions.as_ref());
    let said = conditions.into_iter().flatten().find(|c| c.type_ == "Ready").and_then(|c| c.message.clone());
    let said = said.map(|m| format!(": {m}")).unwrap_or_default();
    Failure::new(format!("{what}{said}"), "see `journalctl -u kubelet -u containerd`")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_without_a_part_of_the_pod_network_is_told_so() {
        let text = "name: c\nnetwork: {podCIDR: 10.244.0.0/23}\nhosts: [{name: a, address: 192.0.2.1, roles: [control-plane, worker]}]\n";
        let spec = ClusterSpec::read(text, &|_| Ok(())).spec.unwrap();
        let host = spec.hosts[0].clone();
        let told = |node: Option<&Node>| not_ready(node, &spec, &host, Duration::from_secs(5)).to_string();
        assert!(told(None).contains("there is no Node"));
        assert!(
            told(Some(&Node::default())).contains("room for 2 nodes with a /24 each"),
            "{}",
            told(Some(&Node::default()))
        );
        let node: Node = serde_json::from_value(json!({
            "metadata": {}, "spec": { "podCIDR": "10.244.0.0/24" },
            "status": { "conditions": [{ "type": "Ready", "status": "False", "message": "no network" }] },
        }))
        .unwrap();
        assert!(told(Some(&node)).contains("no network"));
    }
}
