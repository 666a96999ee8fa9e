//! Netlink, IPAM, CNI configuration, nftables transactions.
