//! How pods of one node reach pods of another: a route to each other node's pods, either straight to that node
//! (`routes`, for nodes on one network) or through a VXLAN between all nodes (`vxlan`, for everything else).
//!
//! Read [`PodNetwork`] first: what shall be so on this node. [`apply`] makes it so and says what it changed; called
//! again it changes nothing. Routes carry a protocol number of our own, so nobody else's are ever touched. Who the
//! nodes are is the caller's business.

mod kernel;
mod plan;

use std::net::Ipv4Addr;

use ipnet::Ipv4Net;

pub use kernel::{Error, apply, remove};
pub use plan::{Change, PodRoute};

/// A node, as far as packets to its pods are concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Peer {
    /// The addresses of its pods.
    pub pods: Ipv4Net,
    /// Where the node itself is reached.
    pub address: Ipv4Addr,
}

/// The tunnel between nodes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Vxlan {
    /// Number of the network, the same on all nodes; has to differ between clusters of one host.
    pub id: u32,
    /// UDP port of the tunnel, the same on all nodes.
    pub port: u16,
}

impl Default for Vxlan {
    /// Linux's own port rather than the assigned one: it is what firewalls are usually opened for.
    fn default() -> Self {
        Self { id: 1, port: 8472 }
    }
}

impl Vxlan {
    /// Bytes that the tunnel adds to each packet.
    pub const OVERHEAD: u32 = 50;

    /// Name of the link, the same on all nodes.
    pub fn link(&self) -> String {
        format!("cox-vx{}", self.id)
    }
}

/// How packets get from node to node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By a route to the other node, which has to be a neighbour.
    Routes,
    /// Through a tunnel.
    Vxlan(Vxlan),
}

/// What shall be so on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodNetwork {
    /// How packets get from node to node.
    pub way: Way,
    /// Addresses of all pods of the cluster: routes of ours outside of it belong to another cluster.
    pub cluster: Ipv4Net,
    /// This node.
    pub own: Peer,
    /// The other nodes.
    pub peers: Vec<Peer>,
}

/// What [`apply`] did.
#[derive(Debug, Default)]
pub struct Applied {
    /// How many things it changed.
    pub changes: usize,
    /// What the kernel refused, with its reason.
    pub refused: Vec<(Change, String)>,
}

/// The hardware address of a node's end of the tunnel: it follows from the node's address, so nodes need not tell
/// each other.
pub fn tunnel_mac(node: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = node.octets();
    [0x0a, 0xc0, a, b, c, d]
}
