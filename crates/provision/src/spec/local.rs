//! Clusters of namespaces on this machine, which need no file.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
};

use ipnet::Ipv4Net;

use super::{ApiServer, ClusterSpec, Encryption, Host, LoadBalancer, Network, Provider, Role, Ssh, Topology};

impl ClusterSpec {
    /// A cluster of namespaces on this machine: `control_planes` of the `nodes` hosts are control planes too. Hosts
    /// get the addresses of `hosts` from the second one on; the first is this machine's.
    pub fn local(name: &str, nodes: usize, control_planes: usize, hosts: Ipv4Net) -> Self {
        let count = nodes.max(control_planes).max(1);
        let host = |i: usize| {
            let mut roles = Vec::new();
            if i < control_planes.max(1) {
                roles.push(Role::ControlPlane);
            }
            if i < nodes.max(1) {
                roles.push(Role::Worker);
            }
            Host {
                name: format!("{name}-{}", i + 1),
                address: local_address(hosts, i),
                roles,
                ssh: Ssh::default(),
                labels: BTreeMap::new(),
                taints: Vec::new(),
            }
        };
        let several = control_planes > 1;
        Self {
            name: name.to_owned(),
            provider: Provider::Local,
            network: Network { host_cidr: hosts, ..Network::default() },
            hosts: (0..count).map(host).collect(),
            api_server: ApiServer {
                load_balancer: if several { LoadBalancer::Ours } else { LoadBalancer::None },
                ..ApiServer::default()
            },
            etcd: if several { Topology::Stacked } else { Topology::Embedded },
            encryption: Encryption::default(),
            packages: None,
            extra_args: BTreeMap::new(),
        }
    }
}

/// Address of the host of this number in a local cluster: the first address is this machine's.
pub(super) fn local_address(hosts: Ipv4Net, index: usize) -> IpAddr {
    let offset = u32::try_from(index).unwrap_or(u32::MAX).saturating_add(2);
    Ipv4Addr::from(u32::from(hosts.network()).saturating_add(offset)).into()
}
