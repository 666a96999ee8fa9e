//! `cluster.yaml`: what a cluster shall be, and everything that is wrong with what was written.
//!
//! Read [`ClusterSpec`] first: a cluster with nothing left out. [`ClusterSpec::read`] makes it from text, or names every
//! mistake at once. What it is not: it knows no host but by what the file says.

mod check;
mod draft;
mod hosts;
mod local;
mod reader;
mod suggest;
mod template;
mod tree;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
};

use ipnet::Ipv4Net;
use serde::Serialize;

pub use reader::{Gravity, Mistake};
pub use suggest::suggestion;
pub use template::template;

/// A cluster as `cluster.yaml` describes it, with every default filled in. What it is written as is a `cluster.yaml` too.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterSpec {
    /// Its name.
    pub name: String,
    /// Who carries it out.
    pub provider: Provider,
    /// Networks, names, DNS.
    pub network: Network,
    /// The hosts, as they stand in the file.
    pub hosts: Vec<Host>,
    /// What is in front of the API servers, and how they are reached.
    pub api_server: ApiServer,
    /// Where objects are kept.
    #[serde(serialize_with = "as_field")]
    pub etcd: Topology,
    /// How secrets are sealed in the store.
    pub encryption: Encryption,
    /// A directory of this machine with the packages that hosts may lack, for hosts without a network to get them from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packages: Option<PathBuf>,
    /// Flags beyond ours, by part: they win.
    pub extra_args: BTreeMap<Part, BTreeMap<String, String>>,
}

/// Who carries a cluster out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Provider {
    /// Hosts are namespaces of this machine.
    Local,
    /// Hosts are machines with systemd that are reached over ssh.
    Ssh,
}

impl Provider {
    /// As it is written.
    pub const ALL: [(&'static str, Self); 2] = [("local", Self::Local), ("ssh", Self::Ssh)];
}

/// The networks of a cluster.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// Range of Services.
    #[serde(rename = "serviceCIDR")]
    pub service_cidr: Ipv4Net,
    /// Range of pods.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Ipv4Net,
    /// Size of a node's part of it.
    #[serde(rename = "nodeCIDRMaskSize")]
    pub node_mask: u8,
    /// Address of the cluster DNS.
    #[serde(rename = "clusterDNS")]
    pub cluster_dns: Ipv4Addr,
    /// DNS domain of the cluster.
    pub domain: String,
    /// How pods of other nodes are reached.
    pub pod_network: PodNetwork,
    /// Largest packet on the hosts' links, where it is not 1500.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u32>,
    /// First and last port of NodePort Services.
    #[serde(rename = "nodePortRange", serialize_with = "as_range")]
    pub node_ports: (u16, u16),
    /// Range of the hosts' own addresses, of a local cluster.
    #[serde(rename = "hostCIDR")]
    pub host_cidr: Ipv4Net,
}

/// How pods of other nodes are reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum PodNetwork {
    /// By routes: all hosts are on one link.
    Routes,
    /// Through a tunnel between the hosts.
    Vxlan,
    /// Some other agent sees to it.
    None,
}

/// What a host is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// API server, controllers, scheduler.
    ControlPlane,
    /// A member of etcd.
    Etcd,
    /// Runs pods.
    Worker,
    /// Leads clients to the API servers.
    LoadBalancer,
}

impl Role {
    /// As they are written.
    pub const ALL: [(&'static str, Self); 4] = [
        ("control-plane", Self::ControlPlane),
        ("etcd", Self::Etcd),
        ("worker", Self::Worker),
        ("load-balancer", Self::LoadBalancer),
    ];
}

/// A host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Host {
    /// Its name, that of its Node object too.
    pub name: String,
    /// Where the other hosts reach it.
    pub address: IpAddr,
    /// What it is for.
    pub roles: Vec<Role>,
    /// How to get there.
    pub ssh: Ssh,
    /// Labels of its new Node object.
    pub labels: BTreeMap<String, String>,
    /// Taints of its new Node object, as `key=value:Effect`.
    pub taints: Vec<String>,
}

impl Host {
    /// Whether it has a role.
    pub fn is(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }
}

/// How to reach a host over ssh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Ssh {
    /// Name or address, where it is not the host's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// As whom.
    pub user: String,
    /// On which port.
    pub port: u16,
    /// File of the private key; the agent's keys and ssh's own defaults if absent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<PathBuf>,
    /// Host to go through, as `user@host:port`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jump: Option<String>,
    /// Whether the user becomes root with `sudo`.
    pub sudo: bool,
}

impl Default for Ssh {
    /// As root, on port 22.
    fn default() -> Self {
        Self { host: None, user: "root".into(), port: 22, key: None, jump: None, sudo: false }
    }
}

/// What is in front of the API servers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LoadBalancer {
    /// Nothing: there is one.
    None,
    /// A balancer of ours on every host that needs one.
    Ours,
    /// One that somebody else keeps, at the endpoint.
    External,
    /// nginx on the hosts with the role.
    Nginx,
    /// haproxy on the hosts with the role.
    Haproxy,
}

impl LoadBalancer {
    /// As they are written.
    pub const ALL: [(&'static str, Self); 5] = [
        ("none", Self::None),
        ("ours", Self::Ours),
        ("external", Self::External),
        ("nginx", Self::Nginx),
        ("haproxy", Self::Haproxy),
    ];
}

/// How the API servers are reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ApiServer {
    /// Where clients reach them, where that is not the first control plane's address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Endpoint>,
    /// What is in front of them.
    pub load_balancer: LoadBalancer,
    /// Their port.
    pub port: u16,
    /// Port of our balancer on each node.
    pub balancer_port: u16,
    /// Port of this machine's loopback address that leads to them, of a local cluster.
    pub local_port: u16,
    /// Further names and addresses in their certificates.
    pub extra_names: Vec<String>,
}

/// A host and a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
}

impl std::fmt::Display for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.host.parse::<IpAddr>() {
            Ok(address) => SocketAddr::new(address, self.port).fmt(f),
            Err(_) => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

impl Serialize for Endpoint {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// Where objects are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Topology {
    /// In the one API server's own store.
    Embedded,
    /// In an etcd with a member on every control plane.
    Stacked,
    /// In an etcd with a member on every host of that role.
    Hosts,
}

impl Topology {
    /// As they are written.
    pub const ALL: [(&'static str, Self); 3] =
        [("embedded", Self::Embedded), ("stacked", Self::Stacked), ("hosts", Self::Hosts)];
}

/// How what is stored is sealed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Encryption {
    /// With which cipher.
    pub provider: Cipher,
    /// What.
    pub resources: Vec<String>,
}

impl Default for Encryption {
    fn default() -> Self {
        Self { provider: Cipher::Secretbox, resources: vec!["secrets".into()] }
    }
}

/// A cipher for what is stored, as upstream names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Cipher {
    /// XSalsa20 and Poly1305.
    Secretbox,
    /// AES-GCM with random nonces.
    Aesgcm,
    /// AES-CBC.
    Aescbc,
    /// None: plain.
    Identity,
}

impl Cipher {
    /// As they are written.
    pub const ALL: [(&'static str, Self); 4] = [
        ("secretbox", Self::Secretbox),
        ("aesgcm", Self::Aesgcm),
        ("aescbc", Self::Aescbc),
        ("identity", Self::Identity),
    ];
}

/// A part that takes flags.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// etcd.
    Etcd,
    /// The API server.
    KubeApiserver,
    /// The controllers.
    KubeControllerManager,
    /// The scheduler.
    KubeScheduler,
    /// The node agent.
    Kubelet,
    /// The service proxy.
    KubeProxy,
}

impl Part {
    /// As they are written.
    pub const ALL: [(&'static str, Self); 6] = [
        ("etcd", Self::Etcd),
        ("kube-apiserver", Self::KubeApiserver),
        ("kube-controller-manager", Self::KubeControllerManager),
        ("kube-scheduler", Self::KubeScheduler),
        ("kubelet", Self::Kubelet),
        ("kube-proxy", Self::KubeProxy),
    ];

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, part)| *part == self).map_or("", |(name, _)| name)
    }
}

fn as_field<S: serde::Serializer>(topology: &Topology, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map([("topology", topology)])
}

fn as_range<S: serde::Serializer>(ports: &(u16, u16), serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{}-{}", ports.0, ports.1))
}

/// A `cluster.yaml` that was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reading {
    /// The cluster, if no error stands in its way.
    pub spec: Option<ClusterSpec>,
    /// Everything that is wrong, in the order of the file.
    pub mistakes: Vec<Mistake>,
}

/// What a `cluster.yaml` speaks of and does not hold. Each answers what is wrong, if anything is.
#[derive(Clone, Copy)]
pub struct Outside<'a> {
    /// Looks at a private key.
    pub key: &'a dyn Fn(&Path) -> Result<(), String>,
    /// Whether a part has a flag.
    pub flag: &'a dyn Fn(Part, &str) -> Result<(), String>,
}

impl ClusterSpec {
    /// Reads a `cluster.yaml`. `key` looks at each private key that it names; any flag will do.
    pub fn read(text: &str, key: &dyn Fn(&Path) -> Result<(), String>) -> Reading {
        Self::read_with(text, Outside { key, flag: &|_, _| Ok(()) })
    }

    /// Reads a `cluster.yaml`, with someone who knows what is outside of it.
    pub fn read_with(text: &str, outside: Outside<'_>) -> Reading {
        let found = reader::Found::default();
        let draft = match tree::parse(text) {
            Ok(node) => draft::read(&reader::Given::root(&found, &node)),
            Err((line, message)) => {
                let mistake = Mistake { line, path: String::new(), message, gravity: Gravity::Error };
                return Reading { spec: None, mistakes: vec![mistake] };
            }
        };
        let spec = draft.and_then(|draft| {
            check::check(&draft, &found, outside);
            draft.finish()
        });
        let mistakes = found.finish();
        let good = mistakes.iter().all(|m| m.gravity == Gravity::Warning);
        Reading { spec: spec.filter(|_| good), mistakes }
    }

    /// The hosts with a role, as they stand in the file.
    pub fn hosts_with(&self, role: Role) -> impl Iterator<Item = &Host> {
        self.hosts.iter().filter(move |h| h.is(role))
    }

    /// The hosts that have a member of etcd.
    pub fn etcd_hosts(&self) -> Vec<&Host> {
        match self.etcd {
            Topology::Embedded => Vec::new(),
            Topology::Stacked => self.hosts_with(Role::ControlPlane).collect(),
            Topology::Hosts => self.hosts_with(Role::Etcd).collect(),
        }
    }

    /// The host of a name.
    pub fn host(&self, name: &str) -> Option<&Host> {
        self.hosts.iter().find(|h| h.name == name)
    }

    /// Where those outside of the cluster reach its API: the endpoint, or a host with a balancer, or the first control
    /// plane.
    pub fn endpoint(&self) -> Endpoint {
        if let Some(endpoint) = &self.api_server.endpoint {
            return endpoint.clone();
        }
        let balancer = match self.api_server.load_balancer {
            LoadBalancer::None | LoadBalancer::External => None,
            _ => self.hosts_with(Role::LoadBalancer).next(),
        };
        let host = balancer.or_else(|| self.hosts_with(Role::ControlPlane).next());
        let host = host.map_or_else(String::new, |h| h.address.to_string());
        Endpoint { host, port: self.api_server.port }
    }
}

impl Default for Network {
    /// Upstream's ranges, kubeadm's names.
    fn default() -> Self {
        Self {
            service_cidr: Ipv4Net::new_assert([10, 96, 0, 0].into(), 12),
            pod_cidr: Ipv4Net::new_assert([10, 244, 0, 0].into(), 16),
            node_mask: 24,
            cluster_dns: [10, 96, 0, 10].into(),
            domain: "cluster.local".into(),
            pod_network: PodNetwork::Routes,
            mtu: None,
            node_ports: (30000, 32767),
            host_cidr: Ipv4Net::new_assert([10, 89, 0, 0].into(), 24),
        }
    }
}

impl Default for ApiServer {
    /// One server at the usual port.
    fn default() -> Self {
        Self {
            endpoint: None,
            load_balancer: LoadBalancer::None,
            port: 6443,
            balancer_port: 6444,
            local_port: 6443,
            extra_names: Vec::new(),
        }
    }
}

/// The address of this number in a range: 1 is that of the `kubernetes` Service, 10 by custom that of the DNS.
pub(crate) fn nth_address(cidr: Ipv4Net, n: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(cidr.network()).saturating_add(n))
}

#[cfg(test)]
mod tests;
