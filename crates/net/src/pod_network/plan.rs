//! What is missing and what is too much, without a kernel.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

use super::{PodNetwork, Way, tunnel_mac};

/// A route to the pods of another node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PodRoute {
    /// The pods.
    pub to: Ipv4Net,
    /// Where packets go next.
    pub via: Ipv4Addr,
    /// The link of the tunnel; where nodes are neighbours, the kernel knows the link.
    pub link: Option<u32>,
}

/// Where the other end of the tunnel to some pods is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Neighbour {
    /// The address within the tunnel.
    pub inner: Ipv4Addr,
    /// Its hardware address.
    pub mac: [u8; 6],
}

/// Which node has a hardware address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Forward {
    /// The hardware address.
    pub mac: [u8; 6],
    /// The node.
    pub node: Ipv4Addr,
}

/// Everything of ours in the kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct State {
    /// Routes.
    pub routes: BTreeSet<PodRoute>,
    /// Ends of tunnels.
    pub neighbours: BTreeSet<Neighbour>,
    /// Nodes at those ends.
    pub forwards: BTreeSet<Forward>,
}

/// One thing to change in the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Adds a route, or replaces the one to the same pods.
    SetRoute(PodRoute),
    /// Removes a route.
    DropRoute(PodRoute),
    /// Says where an address of the tunnel is.
    SetNeighbour(Neighbour),
    /// Forgets it.
    DropNeighbour(Neighbour),
    /// Says which node has a hardware address.
    SetForward(Forward),
    /// Forgets it.
    DropForward(Forward),
}

/// What shall be in the kernel; `link` is that of the tunnel, if there is one.
pub fn wanted(network: &PodNetwork, link: Option<u32>) -> State {
    let mut state = State::default();
    for peer in &network.peers {
        // A node that claims our own pods would cut them off; one that is us has no way to itself.
        if peer.address == network.own.address
            || network.own.pods.contains(&peer.pods)
            || peer.pods.contains(&network.own.pods)
        {
            continue;
        }
        match network.way {
            Way::Routes => {
                state.routes.insert(PodRoute { to: peer.pods.trunc(), via: peer.address, link: None });
            }
            Way::Vxlan(_) => {
                let inner = peer.pods.network();
                let mac = tunnel_mac(peer.address);
                state.routes.insert(PodRoute { to: peer.pods.trunc(), via: inner, link });
                state.neighbours.insert(Neighbour { inner, mac });
                state.forwards.insert(Forward { mac, node: peer.address });
            }
        }
    }
    state
}

/// The steps from what is to what shall be. What leads the way is there before the route that needs it.
pub fn plan(found: &State, wanted: &State) -> Vec<Change> {
    let mut out = Vec::new();
    out.extend(wanted.forwards.difference(&found.forwards).copied().map(Change::SetForward));
    out.extend(wanted.neighbours.difference(&found.neighbours).copied().map(Change::SetNeighbour));
    // The route of a node that is gone may stand in the way of one that has its pods now.
    let replaced = |r: &&PodRoute| !wanted.routes.iter().any(|w| w.to == r.to);
    out.extend(found.routes.difference(&wanted.routes).filter(replaced).copied().map(Change::DropRoute));
    out.extend(wanted.routes.difference(&found.routes).copied().map(Change::SetRoute));
    let replaced = |n: &&Neighbour| !wanted.neighbours.iter().any(|w| w.inner == n.inner);
    out.extend(
        found.neighbours.difference(&wanted.neighbours).filter(replaced).copied().map(Change::DropNeighbour),
    );
    let replaced = |f: &&Forward| !wanted.forwards.iter().any(|w| w.mac == f.mac);
    out.extend(
        found.forwards.difference(&wanted.forwards).filter(replaced).copied().map(Change::DropForward),
    );
    out
}

#[cfg(test)]
mod tests {
    use super::super::{Peer, Vxlan};
    use super::*;

    fn peer(pods: &str, address: &str) -> Peer {
        Peer { pods: pods.parse().expect("a network"), address: address.parse().expect("an address") }
    }

    fn network(way: Way, peers: &[Peer]) -> PodNetwork {
        PodNetwork {
            way,
            cluster: "10.244.0.0/16".parse().expect("a network"),
            own: peer("10.244.0.0/24", "192.0.2.1"),
            peers: peers.to_vec(),
        }
    }

    #[test]
    fn a_route_leads_to_each_other_node() {
        let b = peer("10.244.1.0/24", "192.0.2.2");
        let state = wanted(&network(Way::Routes, &[b]), None);
        let route = PodRoute { to: b.pods, via: b.address, link: None };
        assert_eq!(state.routes.iter().copied().collect::<Vec<_>>(), [route]);
        assert_eq!(plan(&State::default(), &state), [Change::SetRoute(route)]);
        assert_eq!(plan(&state, &state), []);
        assert_eq!(plan(&state, &State::default()), [Change::DropRoute(route)]);
    }

    #[test]
    fn a_node_with_new_pods_or_address_is_followed_without_a_gap() {
        let old = wanted(&network(Way::Routes, &[peer("10.244.1.0/24", "192.0.2.2")]), None);
        let new = wanted(&network(Way::Routes, &[peer("10.244.1.0/24", "192.0.2.3")]), None);
        // Replaced in place, never dropped first.
        let via = "192.0.2.3".parse().expect("an address");
        let to = "10.244.1.0/24".parse().expect("a network");
        assert_eq!(plan(&old, &new), [Change::SetRoute(PodRoute { to, via, link: None })]);
    }

    #[test]
    fn what_leads_into_the_tunnel_comes_before_the_route() {
        let b = peer("10.244.1.0/24", "192.0.2.2");
        let state = wanted(&network(Way::Vxlan(Vxlan::default()), &[b]), Some(7));
        let inner = "10.244.1.0".parse().expect("an address");
        let mac = [0x0a, 0xc0, 192, 0, 2, 2];
        assert_eq!(
            plan(&State::default(), &state),
            [
                Change::SetForward(Forward { mac, node: b.address }),
                Change::SetNeighbour(Neighbour { inner, mac }),
                Change::SetRoute(PodRoute { to: b.pods, via: inner, link: Some(7) }),
            ]
        );
        assert!(matches!(
            plan(&state, &State::default())[..],
            [Change::DropRoute(_), Change::DropNeighbour(_), Change::DropForward(_)]
        ));
    }

    #[test]
    fn nobody_takes_over_our_own_pods() {
        let bad = [
            peer("10.244.0.0/24", "192.0.2.9"),
            peer("10.244.0.0/16", "192.0.2.9"),
            peer("10.244.0.128/25", "192.0.2.9"),
            peer("10.244.5.0/24", "192.0.2.1"),
        ];
        assert_eq!(wanted(&network(Way::Routes, &bad), None), State::default());
    }
}
