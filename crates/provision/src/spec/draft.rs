//! A `cluster.yaml` as far as it can be read: what cannot is noted and absent, so that the rest is checked all the same.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use ipnet::Ipv4Net;

use super::hosts::{HostDraft, SshDraft, texts};
use super::local::local_address;
use super::reader::{Fields, Given};
use super::{
    ApiServer, Cipher, ClusterSpec, Encryption, Endpoint, LoadBalancer, Network, Part, PodNetwork, Provider,
    Role, Topology, nth_address,
};

/// Everything that was read; `None` is what could not be, or what has no default.
#[derive(Debug)]
pub(super) struct Draft {
    pub name: Option<String>,
    pub provider: Option<Provider>,
    pub network: NetworkDraft,
    pub ssh: SshDraft,
    pub hosts: Vec<HostDraft>,
    pub api_server: ApiServerDraft,
    pub etcd: Option<Topology>,
    /// Whether the file says it, rather than leaving it to us.
    pub etcd_given: bool,
    pub encryption: Encryption,
    pub packages: Option<PathBuf>,
    pub extra_args: BTreeMap<Part, BTreeMap<String, String>>,
}

#[derive(Debug)]
pub(super) struct NetworkDraft {
    pub service_cidr: Option<Ipv4Net>,
    pub pod_cidr: Option<Ipv4Net>,
    pub node_mask: Option<u8>,
    pub cluster_dns: Option<Ipv4Addr>,
    pub domain: Option<String>,
    pub pod_network: Option<PodNetwork>,
    pub mtu: Option<u32>,
    pub node_ports: Option<(u16, u16)>,
    pub host_cidr: Option<Ipv4Net>,
}

#[derive(Debug)]
pub(super) struct ApiServerDraft {
    pub endpoint: Option<Endpoint>,
    pub endpoint_given: bool,
    pub load_balancer: Option<LoadBalancer>,
    pub port: Option<u16>,
    pub balancer_port: Option<u16>,
    pub local_port: Option<u16>,
    pub extra_names: Vec<String>,
}

/// A field's value, or the default where it is absent; `None` where it cannot be read.
fn or<T>(given: Option<Given<'_>>, default: T, read: impl FnOnce(&Given<'_>) -> Option<T>) -> Option<T> {
    given.map_or(Some(default), |given| read(&given))
}

/// Reads the whole document.
pub(super) fn read(root: &Given<'_>) -> Option<Draft> {
    let mut top = root.fields()?;
    let name = top.need("name").and_then(|g| g.text());
    let provider = or(top.take("provider"), Provider::Ssh, provider);
    let network = network(top.take("network").and_then(|g| g.fields()));
    let ssh = top.take("ssh").map(|g| SshDraft::read(&g, false)).unwrap_or_default();
    let mut hosts: Vec<HostDraft> =
        top.need("hosts").map(|g| g.items().iter().filter_map(HostDraft::read).collect()).unwrap_or_default();
    if provider == Some(Provider::Local)
        && let Some(range) = network.host_cidr
    {
        for (i, host) in hosts.iter_mut().enumerate().filter(|(_, h)| !h.address_given) {
            host.address = Some(local_address(range, i));
            host.address_given = true;
        }
    }
    let count = |role| hosts.iter().filter(|h| h.is(role)).count();
    let several = count(Role::ControlPlane) > 1;
    let api_server = api_server(top.take("apiServer").and_then(|g| g.fields()), several);
    let etcd = top.take("etcd").and_then(|g| g.fields()).and_then(|mut fields| {
        let topology = fields.take("topology").map(|g| g.choice(&Topology::ALL));
        fields.end();
        topology
    });
    let etcd_default = match (count(Role::Etcd), several) {
        (1.., _) => Topology::Hosts,
        (0, true) => Topology::Stacked,
        (0, false) => Topology::Embedded,
    };
    let encryption = encryption(top.take("encryption").and_then(|g| g.fields()));
    let packages = top.take("packages").and_then(|g| g.text()).map(PathBuf::from);
    let extra_args = top.take("extraArgs").map(|g| extra_args(&g)).unwrap_or_default();
    top.end();
    Some(Draft {
        name,
        provider,
        network,
        ssh,
        hosts,
        api_server,
        etcd_given: etcd.is_some(),
        etcd: etcd.unwrap_or(Some(etcd_default)),
        encryption,
        packages,
        extra_args,
    })
}

fn provider(given: &Given<'_>) -> Option<Provider> {
    match given.text()?.as_str() {
        planned @ ("aws" | "openstack") => {
            given.wrong(format!(
                "there is no provider {planned:?} yet; there are local and ssh, and ssh takes machines of any cloud"
            ));
            None
        }
        _ => given.choice(&Provider::ALL),
    }
}

/// A network; the error says what its first address is where another one was written.
fn cidr(given: &Given<'_>) -> Option<Ipv4Net> {
    let net: Ipv4Net = given.parse("an IPv4 network such as 10.96.0.0/12")?;
    if net.addr() != net.network() {
        given.wrong(format!("{net} has bits set behind its prefix; the network is {}", net.trunc()));
    }
    Some(net.trunc())
}

fn network(fields: Option<Fields<'_>>) -> NetworkDraft {
    let default = Network::default();
    let Some(mut fields) = fields else {
        return NetworkDraft {
            service_cidr: Some(default.service_cidr),
            pod_cidr: Some(default.pod_cidr),
            node_mask: Some(default.node_mask),
            cluster_dns: Some(default.cluster_dns),
            domain: Some(default.domain),
            pod_network: Some(default.pod_network),
            mtu: None,
            node_ports: Some(default.node_ports),
            host_cidr: Some(default.host_cidr),
        };
    };
    let service_cidr = or(fields.take("serviceCIDR"), default.service_cidr, cidr);
    let pod_cidr = or(fields.take("podCIDR"), default.pod_cidr, cidr);
    let node_mask = or(fields.take("nodeCIDRMaskSize"), default.node_mask, |g| g.parse("a prefix length"));
    let cluster_dns = match fields.take("clusterDNS") {
        Some(given) => given.parse("an IPv4 address"),
        None => service_cidr.map(|cidr| nth_address(cidr, 10)),
    };
    let draft = NetworkDraft {
        service_cidr,
        pod_cidr,
        node_mask,
        cluster_dns,
        domain: or(fields.take("domain"), default.domain, |g| g.text()),
        pod_network: or(fields.take("podNetwork"), default.pod_network, |g| {
            g.choice(&[
                ("routes", PodNetwork::Routes),
                ("vxlan", PodNetwork::Vxlan),
                ("none", PodNetwork::None),
            ])
        }),
        mtu: fields.take("mtu").and_then(|g| g.parse("a number of bytes")),
        node_ports: or(fields.take("nodePortRange"), default.node_ports, port_range),
        host_cidr: or(fields.take("hostCIDR"), default.host_cidr, cidr),
    };
    fields.end();
    draft
}

fn port_range(given: &Given<'_>) -> Option<(u16, u16)> {
    let text = given.text()?;
    let parsed = text.split_once('-').and_then(|(first, last)| {
        let range = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        (range.0 > 0 && range.0 <= range.1).then_some(range)
    });
    if parsed.is_none() {
        given.wrong(format!("{text:?} is not a range of ports such as 30000-32767"));
    }
    parsed
}

fn api_server(fields: Option<Fields<'_>>, several: bool) -> ApiServerDraft {
    let mut fields = fields;
    let mut take = |key| fields.as_mut().and_then(|f| f.take(key));
    let port = or(take("port"), 6443, |g| g.port());
    let endpoint = take("endpoint");
    let endpoint_given = endpoint.is_some();
    let endpoint = endpoint.and_then(|g| self::endpoint(&g, port.unwrap_or(6443)));
    let fallback = match (several, endpoint_given) {
        (true, true) => LoadBalancer::External,
        (true, false) => LoadBalancer::Ours,
        (false, _) => LoadBalancer::None,
    };
    let draft = ApiServerDraft {
        endpoint,
        endpoint_given,
        load_balancer: or(take("loadBalancer"), fallback, |g| g.choice(&LoadBalancer::ALL)),
        port,
        balancer_port: or(take("balancerPort"), 6444, |g| g.port()),
        local_port: or(take("localPort"), 6443, |g| g.port()),
        extra_names: take("extraNames")
            .map(|g| g.items().iter().filter_map(Given::text).collect())
            .unwrap_or_default(),
    };
    if let Some(fields) = fields {
        fields.end();
    }
    draft
}

/// `host`, `host:port`, `1.2.3.4:port` or `[::1]:port`.
fn endpoint(given: &Given<'_>, port: u16) -> Option<Endpoint> {
    let text = given.text()?;
    let text = text.strip_prefix("https://").unwrap_or(&text).trim_end_matches('/');
    if let Ok(address) = text.parse::<IpAddr>() {
        return Some(Endpoint { host: address.to_string(), port });
    }
    let (host, port) = match text.rsplit_once(':') {
        None => (text, port),
        Some((host, number)) => match number.parse::<u16>() {
            Ok(port) if port > 0 => (host, port),
            _ => {
                given.wrong(format!("{number:?} is not a port; ports are 1 to 65535"));
                return None;
            }
        },
    };
    let host = host.trim_start_matches('[').trim_end_matches(']');
    if host.parse::<IpAddr>().is_err() && !machinery::names::dns1123_subdomain(host).is_empty() {
        given.wrong(format!("{host:?} is neither a DNS name nor an IP address"));
        return None;
    }
    Some(Endpoint { host: host.to_owned(), port })
}

fn encryption(fields: Option<Fields<'_>>) -> Encryption {
    let default = Encryption::default();
    let Some(mut fields) = fields else { return default };
    let provider = fields.take("provider").and_then(|g| g.choice(&Cipher::ALL));
    let resources: Option<Vec<String>> =
        fields.take("resources").map(|g| g.items().iter().filter_map(Given::text).collect());
    fields.end();
    Encryption {
        provider: provider.unwrap_or(default.provider),
        resources: resources.unwrap_or(default.resources),
    }
}

fn extra_args(given: &Given<'_>) -> BTreeMap<Part, BTreeMap<String, String>> {
    let Some(mut fields) = given.fields() else { return BTreeMap::new() };
    let mut all = BTreeMap::new();
    for (name, part) in Part::ALL {
        if let Some(given) = fields.take(name) {
            all.insert(part, texts(&given));
        }
    }
    fields.end();
    all
}

impl Draft {
    /// The cluster, if everything could be read.
    pub fn finish(self) -> Option<ClusterSpec> {
        let network = self.network;
        let ssh = self.ssh;
        let count = self.hosts.len();
        let hosts: Vec<_> = self.hosts.into_iter().filter_map(|h| h.finish(&ssh)).collect();
        if hosts.len() != count {
            return None;
        }
        Some(ClusterSpec {
            name: self.name?,
            provider: self.provider?,
            network: Network {
                service_cidr: network.service_cidr?,
                pod_cidr: network.pod_cidr?,
                node_mask: network.node_mask?,
                cluster_dns: network.cluster_dns?,
                domain: network.domain?,
                pod_network: network.pod_network?,
                mtu: network.mtu,
                node_ports: network.node_ports?,
                host_cidr: network.host_cidr?,
            },
            hosts,
            api_server: ApiServer {
                endpoint: self.api_server.endpoint,
                load_balancer: self.api_server.load_balancer?,
                port: self.api_server.port?,
                balancer_port: self.api_server.balancer_port?,
                local_port: self.api_server.local_port?,
                extra_names: self.api_server.extra_names,
            },
            etcd: self.etcd?,
            encryption: self.encryption,
            packages: self.packages,
            extra_args: self.extra_args,
        })
    }
}
