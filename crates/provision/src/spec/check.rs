//! What is wrong with a cluster although each word of it can be read.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
};

use ipnet::Ipv4Net;
use machinery::names::{dns1123_subdomain, label_value, qualified_name};

use super::draft::{Draft, NetworkDraft};
use super::hosts::{HostDraft, SshDraft};
use super::reader::Found;
use super::{Cipher, LoadBalancer, Outside, PodNetwork, Provider, Role, Topology, nth_address};
use crate::Layout;

/// Ports that parts take on hosts, whatever the file says.
const PORTS: [(u16, &str); 5] =
    [(10250, "the kubelet"), (10053, "the cluster DNS"), (2379, "etcd"), (2380, "etcd"), (2381, "etcd")];

/// Notes everything that is wrong.
pub(super) fn check(draft: &Draft, found: &Found, outside: Outside<'_>) {
    if let Some(name) = &draft.name
        && let Err(error) = Layout::new(Layout::DEFAULT_DATA_DIR.as_ref(), name)
    {
        found.wrong("name", error.to_string());
    }
    networks(&draft.network, draft, found);
    hosts(draft, found, outside);
    roles(draft, found);
    etcd(draft, found);
    balancer(draft, found);
    ports(draft, found);
    for (i, name) in draft.api_server.extra_names.iter().enumerate() {
        // A certificate may be good for all names of a domain.
        let plain = name.strip_prefix("*.").unwrap_or(name);
        if name.parse::<IpAddr>().is_err() && !dns1123_subdomain(plain).is_empty() {
            let path = format!("apiServer.extraNames[{i}]");
            found.wrong(&path, format!("{name:?} is neither a DNS name nor an IP address"));
        }
    }
    if draft.encryption.resources.is_empty() {
        found.wrong("encryption.resources", "name what is sealed, for example secrets");
    }
    for (i, resource) in draft.encryption.resources.iter().enumerate() {
        if !dns1123_subdomain(resource).is_empty() && !resource.starts_with('*') {
            let path = format!("encryption.resources[{i}]");
            found.wrong(&path, format!("{resource:?} is no resource; one is secrets or configmaps"));
        }
    }
    if draft.encryption.provider == Cipher::Identity {
        found.warn("encryption.provider", "identity seals nothing: secrets are stored as they are");
    }
    for (part, args) in &draft.extra_args {
        for flag in args.keys() {
            let path = format!("extraArgs.{}.{flag}", part.name());
            let fine = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
            if flag.starts_with('-') {
                let bare = flag.trim_start_matches('-');
                found.wrong(&path, format!("flags are written without dashes in front: {bare:?}"));
            } else if flag.is_empty() || !flag.chars().all(fine) {
                found.wrong(&path, format!("{flag:?} is no flag"));
            } else if let Err(why) = (outside.flag)(*part, flag) {
                found.wrong(&path, why);
            }
        }
    }
}

fn overlap(a: Ipv4Net, b: Ipv4Net) -> bool {
    a.contains(&b) || b.contains(&a)
}

fn networks(network: &NetworkDraft, draft: &Draft, found: &Found) {
    let (service, pods) = (network.service_cidr, network.pod_cidr);
    if let (Some(service), Some(pods)) = (service, pods)
        && overlap(service, pods)
    {
        let text = format!("{pods} overlaps with network.serviceCIDR, {service}");
        found.wrong("network.podCIDR", text);
    }
    let ranges = [("network.serviceCIDR", service), ("network.podCIDR", pods)];
    if draft.provider == Some(Provider::Local)
        && let Some(hosts) = network.host_cidr
    {
        for (name, range) in ranges {
            if let Some(range) = range.filter(|range| overlap(*range, hosts)) {
                found.wrong("network.hostCIDR", format!("{hosts} overlaps with {name}, {range}"));
            }
        }
    }
    if let Some(service) = service {
        if !(12..=28).contains(&service.prefix_len()) {
            let text = format!("{service}: the prefix has to be from /12 to /28");
            found.wrong("network.serviceCIDR", text);
        }
        if let Some(dns) = network.cluster_dns {
            let path = "network.clusterDNS";
            if !service.contains(&dns) {
                found.wrong(path, format!("{dns} is not in network.serviceCIDR, {service}"));
            } else if dns == nth_address(service, 1) {
                found.wrong(path, format!("{dns} is the address of the kubernetes Service"));
            } else if dns == service.network() || dns == service.broadcast() {
                found.wrong(path, format!("{dns} is the first or last of {service}: no Service can have it"));
            }
        }
    }
    pod_range(network, draft, found);
    if let Some(domain) = &network.domain
        && let Some(why) = dns1123_subdomain(domain).into_iter().next()
    {
        found.wrong("network.domain", format!("{domain:?}: {why}"));
    }
    if network.mtu.is_some_and(|mtu| !(576..=65_535).contains(&mtu)) {
        found.wrong("network.mtu", "packets have 576 to 65535 bytes");
    }
}

/// Whether every node gets its part.
fn pod_range(network: &NetworkDraft, draft: &Draft, found: &Found) {
    let (Some(pods), Some(mask)) = (network.pod_cidr, network.node_mask) else { return };
    let path = "network.nodeCIDRMaskSize";
    if mask < pods.prefix_len() || mask > 30 {
        let text =
            format!("/{mask} is no part of {pods} that pods could be in; want /{} to /30", pods.prefix_len());
        found.wrong(path, text);
        return;
    }
    let parts = 1_u64 << (mask - pods.prefix_len()).min(32);
    let workers = draft.hosts.iter().filter(|h| h.is(Role::Worker)).count();
    if parts < workers as u64 {
        let text =
            format!("{pods} has room for {parts} nodes with a /{mask} each, and there are {workers} workers");
        found.wrong("network.podCIDR", text);
    }
    if mask > 25 {
        let room = (1_u32 << (32 - mask)) - 2;
        found.warn(path, format!("a node has addresses for {room} pods; it may get 110"));
    }
}

/// Notes what stands there twice, with the first place.
#[derive(Default)]
struct Once<'a>(BTreeMap<String, &'a str>);

impl<'a> Once<'a> {
    fn see(&mut self, value: &str, place: &'a str, path: &str, found: &Found) {
        match self.0.get(value) {
            Some(first) => found.wrong(path, format!("{value} is that of {first} too")),
            None => {
                self.0.insert(value.to_owned(), place);
            }
        }
    }
}

fn hosts(draft: &Draft, found: &Found, outside: Outside<'_>) {
    let mut looked: BTreeMap<PathBuf, Option<String>> = BTreeMap::new();
    let mut look = |ssh: &SshDraft| {
        if let Some(path) = &ssh.key {
            let why = looked.entry(path.clone()).or_insert_with(|| (outside.key)(path).err());
            if let Some(why) = why {
                found.wrong(&format!("{}.key", ssh.path), why.clone());
            }
        }
        words(ssh, found);
    };
    look(&draft.ssh);
    let (mut names, mut addresses) = (Once::default(), Once::default());
    for host in &draft.hosts {
        look(&host.ssh);
        if let Some(name) = &host.name {
            let path = format!("{}.name", host.path);
            if let Some(why) = dns1123_subdomain(name).into_iter().next() {
                found.wrong(&path, format!("{name:?} cannot be the name of a node: {why}"));
            }
            names.see(name, &host.path, &path, found);
        }
        if let Some(address) = host.address {
            let path = format!("{}.address", host.path);
            address_of(address, &path, draft, found);
            addresses.see(&address.to_string(), &host.path, &path, found);
        } else if !host.address_given && draft.provider != Some(Provider::Local) {
            found.wrong(&format!("{}.address", host.path), "it is missing");
        }
        labels(host, found);
    }
}

fn address_of(address: IpAddr, path: &str, draft: &Draft, found: &Found) {
    if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
        found.wrong(path, format!("{address} is no address that other hosts could reach"));
        return;
    }
    let IpAddr::V4(address) = address else {
        found.wrong(path, format!("{address}: hosts need an IPv4 address, as Services and pods have them"));
        return;
    };
    let inside = |range: Option<Ipv4Net>| range.filter(|range| range.contains(&address));
    if let Some(range) = inside(draft.network.service_cidr) {
        found.wrong(path, format!("{address} is in network.serviceCIDR, {range}"));
    }
    if let Some(range) = inside(draft.network.pod_cidr) {
        found.wrong(path, format!("{address} is in network.podCIDR, {range}"));
    }
    if draft.provider == Some(Provider::Local)
        && let Some(range) = draft.network.host_cidr
    {
        let own: Ipv4Addr = nth_address(range, 1);
        if !range.contains(&address) || address == range.broadcast() || address == range.network() {
            found.wrong(path, format!("{address} is not in network.hostCIDR, {range}"));
        } else if address == own {
            found.wrong(path, format!("{address} is this machine's own address in network.hostCIDR"));
        }
    }
}

/// Words that ssh would take for something else.
fn words(ssh: &SshDraft, found: &Found) {
    let fields = [("user", &ssh.user), ("jump", &ssh.jump), ("host", &ssh.host)];
    for (field, value) in fields {
        let Some(value) = value else { continue };
        let fine =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_' | '@' | ':' | '[' | ']');
        if value.is_empty() || value.starts_with('-') || !value.chars().all(fine) {
            found.wrong(&format!("{}.{field}", ssh.path), format!("{value:?} is nothing that ssh could use"));
        }
    }
    if let Some(jump) = &ssh.jump
        && let Some((_, port)) = jump.rsplit_once(':').filter(|_| !jump.ends_with(']'))
        && !port.parse::<u16>().is_ok_and(|p| p > 0)
    {
        found.wrong(&format!("{}.jump", ssh.path), format!("{port:?} is not a port; want user@host:port"));
    }
}

fn labels(host: &HostDraft, found: &Found) {
    for (name, value) in &host.labels {
        let path = format!("{}.labels.{name}", host.path);
        if let Some(why) = qualified_name(name).into_iter().next() {
            found.wrong(&path, format!("{name:?} is no label: {why}"));
        }
        if let Some(why) = label_value(value).into_iter().next() {
            found.wrong(&path, format!("{value:?} is no value of a label: {why}"));
        }
    }
    for (i, taint) in host.taints.iter().enumerate() {
        let path = format!("{}.taints[{i}]", host.path);
        let Some((pair, effect)) = taint.rsplit_once(':') else {
            found.wrong(&path, format!("{taint:?}: want key=value:effect or key:effect"));
            continue;
        };
        if !matches!(effect, "NoSchedule" | "PreferNoSchedule" | "NoExecute") {
            let text = format!("{effect:?} is no effect; there are NoSchedule, PreferNoSchedule, NoExecute");
            found.wrong(&path, text);
        }
        let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
        if let Some(why) = qualified_name(key).into_iter().chain(label_value(value)).next() {
            found.wrong(&path, format!("{taint:?}: {why}"));
        }
    }
}

fn count(draft: &Draft, role: Role) -> usize {
    draft.hosts.iter().filter(|h| h.is(role)).count()
}

fn roles(draft: &Draft, found: &Found) {
    if count(draft, Role::ControlPlane) == 0 {
        found.wrong("hosts", "no host has the role control-plane");
    }
    if count(draft, Role::Worker) == 0 {
        found.warn("hosts", "no host has the role worker: there will be nowhere for pods to run");
    }
    let routed = matches!(draft.network.pod_network, Some(PodNetwork::Routes));
    if routed && draft.provider == Some(Provider::Ssh) && count(draft, Role::Worker) > 1 {
        let nets: Vec<Ipv4Net> = draft
            .hosts
            .iter()
            .filter(|h| h.is(Role::Worker))
            .filter_map(|h| match h.address {
                Some(IpAddr::V4(address)) => Ipv4Net::new(address, 16).ok().map(|net| net.trunc()),
                _ => None,
            })
            .collect();
        if nets.windows(2).any(|pair| pair[0] != pair[1]) {
            let text = "the workers' addresses are far apart, and routes lead only to hosts on the same link; \
                        vxlan leads everywhere";
            found.warn("network.podNetwork", text);
        }
    }
}

fn etcd(draft: &Draft, found: &Found) {
    let (planes, members) = (count(draft, Role::ControlPlane), count(draft, Role::Etcd));
    let path = "etcd.topology";
    let size = match draft.etcd {
        None => return,
        Some(Topology::Embedded) => {
            if planes > 1 {
                let text = format!(
                    "embedded is a store inside of one API server, and there are {planes} control planes; \
                     want stacked or hosts"
                );
                found.wrong(path, text);
            }
            if members > 0 {
                found.wrong(
                    path,
                    "embedded has no members, and there are hosts with the role etcd; want hosts",
                );
            }
            return;
        }
        Some(Topology::Stacked) => {
            for host in draft.hosts.iter().filter(|h| h.is(Role::Etcd) && !h.is(Role::ControlPlane)) {
                let text =
                    "stacked puts the members on control planes, and this host is none; want topology hosts";
                found.wrong(&format!("{}.roles", host.path), text);
            }
            planes
        }
        Some(Topology::Hosts) => {
            if members == 0 {
                found.wrong(path, "no host has the role etcd");
            }
            members
        }
    };
    let place = if draft.etcd_given { path } else { "hosts" };
    if size > 0 && size % 2 == 0 {
        let text = format!(
            "an etcd of {size} members survives the loss of no more hosts than one of {}; want an odd number",
            size - 1
        );
        found.warn(place, text);
    }
    if size > 7 {
        found.warn(place, format!("an etcd of {size} members is slow: each write waits for most of them"));
    }
}

fn balancer(draft: &Draft, found: &Found) {
    let (planes, balancers) = (count(draft, Role::ControlPlane), count(draft, Role::LoadBalancer));
    let path = "apiServer.loadBalancer";
    let Some(kind) = draft.api_server.load_balancer else { return };
    match kind {
        LoadBalancer::None if planes > 1 => {
            found.wrong(
                path,
                format!("{planes} control planes need one; want ours, external, nginx or haproxy"),
            );
        }
        LoadBalancer::External if !draft.api_server.endpoint_given => {
            found.wrong("apiServer.endpoint", "it is missing: where is the external load balancer?");
        }
        LoadBalancer::Nginx | LoadBalancer::Haproxy if balancers == 0 => {
            found.wrong(path, "no host has the role load-balancer");
        }
        _ => {}
    }
    if balancers > 0 && matches!(kind, LoadBalancer::None | LoadBalancer::External) {
        found.wrong(path, "there are hosts with the role load-balancer; want ours, nginx or haproxy");
    }
    for host in draft.hosts.iter().filter(|h| h.is(Role::LoadBalancer) && h.is(Role::ControlPlane)) {
        let text =
            "control-plane and load-balancer would listen on the same port; ours is on every node anyway";
        found.wrong(&format!("{}.roles", host.path), text);
    }
}

fn ports(draft: &Draft, found: &Found) {
    let api = &draft.api_server;
    let own = [("apiServer.port", api.port), ("apiServer.balancerPort", api.balancer_port)];
    for (path, port) in own {
        let Some(port) = port else { continue };
        if let Some((_, who)) = PORTS.iter().find(|(taken, _)| *taken == port) {
            found.wrong(path, format!("{port} is the port of {who}"));
        }
        if draft.network.node_ports.is_some_and(|(first, last)| (first..=last).contains(&port)) {
            found.wrong(path, format!("{port} is in network.nodePortRange"));
        }
    }
    if api.port.is_some() && api.port == api.balancer_port {
        found.wrong("apiServer.balancerPort", "it is apiServer.port too, and both are on one host");
    }
    if let Some((first, last)) = draft.network.node_ports {
        for (port, who) in PORTS.iter().filter(|(port, _)| (first..=last).contains(port)) {
            found.wrong("network.nodePortRange", format!("{port}, the port of {who}, is in it"));
        }
    }
}
