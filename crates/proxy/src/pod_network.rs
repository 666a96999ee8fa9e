//! Keeps the way to other nodes' pods: reads Nodes, and has the kernel follow.
//! Watches: Node.  Writes: routes, and the tunnel where there is one; nothing in the API.
//! Invariants: what is wanted follows from the Nodes there are, never from what happened to them; it is left in place
//! when this ends, so that packets flow while nobody watches.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use base::Chain;
use client::{Cache, Informers};
use ipnet::{IpNet, Ipv4Net};
use k8s_openapi::api::core::v1::Node;
use net::pod_network::{Peer, PodNetwork, Vxlan, Way, apply};
use tokio_util::sync::CancellationToken;

/// What the pod network of a node needs to know.
#[derive(Clone, Debug)]
pub struct PodNetworkConfig {
    /// This node.
    pub node_name: String,
    /// How packets get from node to node.
    pub way: Way,
    /// Addresses of all pods of the cluster.
    pub cluster: Ipv4Net,
    /// How often to look whether somebody else changed something.
    pub verify_period: Duration,
}

/// A node as its object describes it; `None` until it has both an address and pods.
fn peer(node: &Node) -> Option<Peer> {
    let spec = node.spec.as_ref()?;
    let v4 = |text: &String| match text.parse() {
        Ok(IpNet::V4(net)) => Some(net.trunc()),
        _ => None,
    };
    let pods = spec.pod_cidrs.iter().flatten().chain(&spec.pod_cidr).find_map(v4)?;
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let address =
        addresses.iter().filter(|a| a.type_ == "InternalIP").find_map(|a| match a.address.parse() {
            Ok(IpAddr::V4(address)) => Some::<Ipv4Addr>(address),
            _ => None,
        })?;
    Some(Peer { pods, address })
}

/// What shall be so on this node; `None` as long as it has no pods of its own.
fn wanted<'a>(config: &PodNetworkConfig, nodes: impl Iterator<Item = &'a Node>) -> Option<PodNetwork> {
    let (mut own, mut peers) = (None, Vec::new());
    for node in nodes {
        let is_own = node.metadata.name.as_ref() == Some(&config.node_name);
        match peer(node) {
            Some(found) if is_own => own = Some(found),
            Some(found) => peers.push(found),
            None => {}
        }
    }
    peers.sort_unstable();
    Some(PodNetwork { way: config.way, cluster: config.cluster.trunc(), own: own?, peers })
}

/// Keeps the way to all other nodes' pods until `stop`.
///
/// Has to run on the network namespace of the node.
pub async fn keep_pod_network(config: PodNetworkConfig, client: kube::Client, stop: CancellationToken) {
    let informers = Informers::new(client);
    let nodes: Cache<Node> = informers.cache();
    let mut changes = nodes.changes();
    tokio::select! {
        () = stop.cancelled() => return,
        () = nodes.synced() => {}
    }
    if config.way == Way::Routes {
        // Of a former life with a tunnel.
        match net::host::delete_link(&Vxlan::default().link()).await {
            Ok(true) => tracing::info!("removed the tunnel between nodes"),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "cannot remove the tunnel between nodes"),
        }
    }
    let mut backoff = client::Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
    let mut done: Option<PodNetwork> = None;
    loop {
        while changes.try_next().is_some() {}
        let list = nodes.list();
        let want = wanted(&config, list.iter().map(AsRef::as_ref));
        let mut again = config.verify_period;
        if let Some(want) = want.filter(|w| done.as_ref() != Some(w)) {
            if sync(&want).await {
                backoff.reset();
                done = Some(want);
            } else {
                again = backoff.fail();
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            _ = changes.next() => {}
            () = tokio::time::sleep(again) => done = None,
        }
    }
}

/// Says whether all of it is so now.
async fn sync(want: &PodNetwork) -> bool {
    match apply(want).await {
        Ok(applied) => {
            if applied.changes > 0 {
                tracing::info!(
                    nodes = want.peers.len(),
                    changes = applied.changes,
                    "the way to other nodes' pods is set"
                );
            }
            for (change, why) in &applied.refused {
                let hint = match want.way {
                    Way::Routes => "is the node on a network of this host? if not, use --pod-network=vxlan",
                    Way::Vxlan(_) => "",
                };
                tracing::warn!(?change, why, hint, "the kernel refused a way to another node's pods");
            }
            applied.refused.is_empty()
        }
        Err(error) => {
            tracing::warn!(error = %Chain(&error), "cannot set the way to other nodes' pods");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, cidr: &str, address: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": {"name": name},
            "spec": {"podCIDR": cidr, "podCIDRs": [cidr]},
            "status": {"addresses": [
                {"type": "Hostname", "address": name},
                {"type": "InternalIP", "address": "fd00::1"},
                {"type": "InternalIP", "address": address},
            ]},
        }))
        .expect("a node")
    }

    fn config() -> PodNetworkConfig {
        PodNetworkConfig {
            node_name: "a".into(),
            way: Way::Routes,
            cluster: "10.244.0.0/16".parse().expect("a network"),
            verify_period: Duration::from_secs(60),
        }
    }

    #[test]
    fn nodes_are_peers_once_they_have_pods_and_an_address() {
        let nodes = [
            node("b", "10.244.1.0/24", "192.0.2.2"),
            node("a", "10.244.0.0/24", "192.0.2.1"),
            node("c", "", "192.0.2.3"),
            Node::default(),
        ];
        let found = wanted(&config(), nodes.iter()).expect("a network");
        assert_eq!(found.own.address, Ipv4Addr::new(192, 0, 2, 1));
        assert_eq!(found.peers, [peer(&nodes[0]).expect("a peer")]);
        assert_eq!(wanted(&config(), nodes[..1].iter()), None);
    }
}
