//! Leads the DNS Service to the DNS server of each node that says that it has one: nodes that joined by themselves, which
//! may not write this.
//! Watches: Node (label `coxswain/dns-port`).  Writes: EndpointSlice kube-system/kube-dns-NODE, once and when it differs.
//! Invariants: a node's slice names that node and its own address; it goes with its Node, which owns it.
use client::{Cache, ObjectKey};
use k8s_openapi::api::core::v1::Node;
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::api::PostParams;
use kube::{Api, Client, ResourceExt as _};
use serde_json::json;

use crate::context::Context;
use crate::framework::{Controller, Error, Next, Wakes};

const LABEL: &str = "coxswain/dns-port";
const NAMESPACE: &str = "kube-system";
const SERVICE: &str = "kube-dns";

/// See the module.
pub struct NodeDns {
    client: Client,
    nodes: Cache<Node>,
    slices: Cache<EndpointSlice>,
}

impl NodeDns {
    /// Built from the shared parts.
    pub fn new(context: &Context) -> Self {
        Self {
            client: context.client.clone(),
            nodes: context.informers.cache(),
            slices: context.informers.cache(),
        }
    }
}

impl Controller for NodeDns {
    const NAME: &'static str = "node-dns-controller";
    const WORKERS: usize = 1;

    fn wake_on(&self, wakes: &mut Wakes) {
        wakes.on(&self.nodes, |change| match &change.new {
            Some(node) if node.labels().contains_key(LABEL) => vec![change.key.clone()],
            _ => Vec::new(),
        });
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(node) = self.nodes.get(&key) else { return Ok(Next::Rest) };
        let Some(wanted) = slice(&node) else { return Ok(Next::Rest) };
        let name = wanted.name_any();
        let api: Api<EndpointSlice> = Api::namespaced(self.client.clone(), NAMESPACE);
        let written = match self.slices.get(&ObjectKey::new(NAMESPACE, &name)) {
            Some(found) if fits(&found, &wanted) => return Ok(Next::Rest),
            Some(found) => {
                let mut changed = wanted;
                changed.metadata.resource_version = found.resource_version();
                api.replace(&name, &PostParams::default(), &changed).await
            }
            None => api.create(&PostParams::default(), &wanted).await,
        };
        written.map_err(Error::at("lead the DNS Service to the node"))?;
        tracing::info!(node = key.name, "the node's DNS server is led to");
        Ok(Next::Rest)
    }
}

/// The slice of a node; `None` where it says no port or has no address yet.
fn slice(node: &Node) -> Option<EndpointSlice> {
    let port: u16 = node.labels().get(LABEL)?.parse().ok().filter(|port| *port > 0)?;
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    let address = addresses.iter().find(|a| a.type_ == "InternalIP")?;
    let address: std::net::IpAddr = address.address.parse().ok()?;
    let (node_name, uid) = (node.name_any(), node.uid()?);
    let mut name = format!("{SERVICE}-{node_name}");
    name.truncate(253);
    let slice = json!({
        "metadata": {
            "name": name.trim_end_matches(['-', '.']),
            "namespace": NAMESPACE,
            "labels": {
                "kubernetes.io/service-name": SERVICE,
                "endpointslice.kubernetes.io/managed-by": "coxswain",
            },
            "ownerReferences": [{ "apiVersion": "v1", "kind": "Node", "name": node_name, "uid": uid }],
        },
        "addressType": if address.is_ipv4() { "IPv4" } else { "IPv6" },
        "endpoints": [{ "addresses": [address], "nodeName": node_name, "conditions": { "ready": true } }],
        "ports": [
            { "name": "dns", "port": port, "protocol": "UDP" },
            { "name": "dns-tcp", "port": port, "protocol": "TCP" },
        ],
    });
    serde_json::from_value(slice).ok()
}

/// Whether what is there leads to the same place.
fn fits(found: &EndpointSlice, wanted: &EndpointSlice) -> bool {
    let places = |slice: &EndpointSlice| -> Vec<(Vec<String>, Option<String>)> {
        slice.endpoints.iter().flatten().map(|e| (e.addresses.clone(), e.node_name.clone())).collect()
    };
    let ports = |slice: &EndpointSlice| -> Vec<(Option<i32>, Option<String>)> {
        slice.ports.iter().flatten().map(|p| (p.port, p.protocol.clone())).collect()
    };
    places(found) == places(wanted) && ports(found) == ports(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(port: &str, address: &str) -> Node {
        serde_json::from_value(json!({
            "metadata": { "name": "n1", "uid": "u", "labels": { LABEL: port } },
            "status": { "addresses": [{ "type": "InternalIP", "address": address }] },
        }))
        .unwrap()
    }

    #[test]
    fn a_node_with_a_server_gets_its_slice() {
        let wanted = slice(&node("10053", "192.0.2.1")).unwrap();
        assert_eq!(wanted.name_any(), "kube-dns-n1");
        assert_eq!(wanted.endpoints.as_ref().unwrap()[0].node_name.as_deref(), Some("n1"));
        let found = wanted.clone();
        assert!(fits(&found, &wanted));
        assert!(!fits(&found, &slice(&node("10054", "192.0.2.1")).unwrap()));
        assert!(!fits(&found, &slice(&node("10053", "192.0.2.2")).unwrap()));
        for (port, address) in [("0", "192.0.2.1"), ("x", "192.0.2.1"), ("53", "nowhere")] {
            assert_eq!(slice(&node(port, address)), None, "{port} {address}");
        }
    }
}
