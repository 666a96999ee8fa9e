//! Netlink, IPAM, CNI configuration: how pods get onto the network of this host, and how the host gets rid of them.
//!
//! Read [`cni`] first: the configuration that the container runtime follows for every pod, and what its plugins leave
//! behind. [`pod_network`] leads from node to node, [`nft`] writes firewall rules as transactions, [`conntrack`] forgets
//! flows. What it is not: it knows no Service and no Pod, only networks, addresses and links.

pub mod cni;
pub mod conntrack;
pub mod host;
pub mod nft;
pub mod pod_network;
mod tool;
