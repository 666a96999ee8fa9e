//! Gives each Node its part of the pod networks.
//! Watches: Node (by key).  Writes: Node.spec.podCIDR and podCIDRs, once.
//! Invariants: parts never overlap, those that Nodes have already are theirs; a part is free again when its Node is gone.
use std::collections::{BTreeMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};

use client::{Cache, ObjectKey, Recorder};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node;
use kube::api::{Patch, PatchParams};
use kube::{Api, Client};
use serde_json::json;

use crate::context::Context;
use crate::framework::{Controller, Error, Next, Wakes, unless_gone};

/// See the module.
pub struct NodeIpam {
    client: Client,
    recorder: Recorder,
    nodes: Cache<Node>,
    pools: Vec<Pool>,
    /// Not to be given to nodes.
    services: Vec<IpNet>,
    /// Given out, and maybe not in the cache yet.
    given: Mutex<BTreeMap<String, Vec<IpNet>>>,
}

impl NodeIpam {
    /// Built from the shared parts.
    pub fn new(context: &Context) -> Self {
        let pool = |net: &IpNet| Pool {
            net: net.trunc(),
            mask: match net {
                IpNet::V4(_) => context.config.node_cidr_mask_v4,
                IpNet::V6(_) => context.config.node_cidr_mask_v6,
            },
        };
        Self {
            client: context.client.clone(),
            recorder: context.recorder.named("cidrAllocator"),
            nodes: context.informers.cache(),
            pools: context.config.cluster_cidrs.iter().map(pool).collect(),
            services: context.config.service_cidrs.clone(),
            given: Mutex::default(),
        }
    }

    /// Reserves parts for a Node; the same ones when asked again.
    fn reserve(&self, name: &str) -> Option<Vec<IpNet>> {
        let mut given = self.given.lock().unwrap_or_else(PoisonError::into_inner);
        let nodes = self.nodes.list();
        let exists = |name: &String| nodes.iter().any(|n| n.metadata.name.as_ref() == Some(name));
        given.retain(|name, _| exists(name));
        if let Some(parts) = given.get(name) {
            return Some(parts.clone());
        }
        let mut used: HashSet<IpNet> = given.values().flatten().copied().collect();
        used.extend(nodes.iter().flat_map(|n| parts_of(n)));
        used.extend(&self.services);
        let parts: Option<Vec<IpNet>> = self.pools.iter().map(|pool| pool.first_free(&used)).collect();
        given.extend(parts.clone().map(|parts| (name.to_owned(), parts)));
        parts
    }
}

/// The networks a Node has.
fn parts_of(node: &Node) -> Vec<IpNet> {
    let Some(spec) = &node.spec else { return Vec::new() };
    let many = spec.pod_cidrs.iter().flatten();
    many.chain(&spec.pod_cidr).filter_map(|text| text.parse().ok()).collect()
}

impl Controller for NodeIpam {
    const NAME: &'static str = "node-ipam-controller";
    const WORKERS: usize = 4;

    fn wake_on(&self, wakes: &mut Wakes) {
        wakes.on(&self.nodes, |change| match &change.new {
            Some(node) if parts_of(node).is_empty() => vec![change.key.clone()],
            _ => Vec::new(),
        });
    }

    async fn reconcile(&self, key: ObjectKey) -> Result<Next, Error> {
        let Some(node) = self.nodes.get(&key) else { return Ok(Next::Rest) };
        if !parts_of(&node).is_empty() {
            return Ok(Next::Rest);
        }
        let Some(parts) = self.reserve(&key.name) else {
            let text = format!("Node {} status is now: CIDRNotAvailable", key.name);
            self.recorder.normal(&*node, "CIDRNotAvailable", text);
            return Err(Error::Unfinished("no part of the pod network is free".into()));
        };
        let texts: Vec<String> = parts.iter().map(ToString::to_string).collect();
        let patch = json!({"metadata": {"uid": node.metadata.uid}, "spec": {"podCIDR": texts.first(), "podCIDRs": texts}});
        let api: Api<Node> = Api::all(self.client.clone());
        let patched = api.patch(&key.name, &PatchParams::default(), &Patch::Strategic(patch)).await;
        if unless_gone(patched).map_err(Error::at("set the node's pod network"))?.is_some() {
            tracing::info!(node = key.name, pod_cidrs = ?texts, "node got its pod network");
        }
        Ok(Next::Rest)
    }
}

/// A network and how it is cut.
#[derive(Debug, Clone, Copy)]
struct Pool {
    net: IpNet,
    mask: u8,
}

impl Pool {
    fn first_free(&self, used: &HashSet<IpNet>) -> Option<IpNet> {
        let bits = self.mask.checked_sub(self.net.prefix_len()).filter(|b| *b < 32)?;
        (0..1u128 << bits).map_while(|i| self.part(i)).find(|part| {
            // A Node may bring one of another size.
            !used.contains(part) && !used.iter().any(|u| u.contains(part) || part.contains(u))
        })
    }

    fn part(&self, number: u128) -> Option<IpNet> {
        let address: IpAddr = match self.net.network() {
            IpAddr::V4(base) => {
                let offset = u32::try_from(number).ok()?.checked_shl(32u32.checked_sub(self.mask.into())?)?;
                Ipv4Addr::from_bits(base.to_bits().checked_add(offset)?).into()
            }
            IpAddr::V6(base) => {
                let offset = number.checked_shl(128u32.checked_sub(self.mask.into())?)?;
                Ipv6Addr::from_bits(base.to_bits().checked_add(offset)?).into()
            }
        };
        IpNet::new(address, self.mask).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_free_part_is_given() {
        // network, mask, used, given
        for (net, mask, used, given) in [
            ("10.244.0.0/16", 24, &[][..], Some("10.244.0.0/24")),
            ("10.244.0.0/16", 24, &["10.244.0.0/24", "10.244.2.0/24"], Some("10.244.1.0/24")),
            ("10.244.0.0/16", 24, &["10.244.0.0/23"], Some("10.244.2.0/24")),
            ("10.244.0.0/16", 24, &["10.244.0.128/25"], Some("10.244.1.0/24")),
            // Those of the Services.
            ("10.96.0.0/11", 24, &["10.96.0.0/12"], Some("10.112.0.0/24")),
            ("10.244.0.0/24", 24, &[], Some("10.244.0.0/24")),
            ("10.244.0.0/24", 24, &["10.244.0.0/24"], None),
            ("10.244.0.0/24", 16, &[], None),
            ("fd00::/48", 64, &["fd00::/64"], Some("fd00:0:0:1::/64")),
        ] {
            let pool = Pool { net: net.parse().unwrap(), mask };
            let used = used.iter().map(|u| u.parse().unwrap()).collect();
            assert_eq!(pool.first_free(&used), given.map(|g| g.parse().unwrap()), "{net} {used:?}");
        }
    }
}
