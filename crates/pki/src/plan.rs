//! What a cluster needs, and what to do with what is found. Pure: every decision of [`crate::ClusterPki::ensure`].

use std::{collections::BTreeMap, fmt, net::IpAddr, path::PathBuf, time::Duration};

use ipnet::IpNet;
use jiff::Timestamp;

use crate::{
    AlternativeName, CertificateFacts, CertificateSpec, Error, Expiry, KeyAlgorithm, Subject, Usage,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// A node that gets certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeIdentity {
    /// The name of its Node object.
    pub name: String,
    /// Addresses its kubelet serves on.
    pub addresses: Vec<IpAddr>,
}

/// What a cluster's trust is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PkiSpec {
    /// Names the API server is reached by, apart from those every cluster has.
    pub api_server_names: Vec<String>,
    /// Addresses the API server is reached by, apart from loopback and the service address.
    pub api_server_addresses: Vec<IpAddr>,
    /// Ranges that Services get addresses from.
    pub service_cidrs: Vec<IpNet>,
    /// DNS domain of the cluster (`cluster.local`).
    pub cluster_domain: String,
    /// Nodes whose certificates are made here, rather than asked for by the node itself.
    pub nodes: Vec<NodeIdentity>,
    /// Hosts of API servers, each with a serving key of its own; none: one pair serves.
    pub api_servers: Vec<String>,
    /// Members of an etcd that trusts an authority of its own; none: no etcd, or one that somebody else keeps.
    pub etcd_members: Vec<NodeIdentity>,
    /// Whether the cluster DNS gets a certificate, as it is a process of its own.
    pub dns: bool,
    /// Kind of the certificates' keys.
    pub algorithm: KeyAlgorithm,
    /// Kind of the key that signs service-account tokens.
    pub service_account_algorithm: KeyAlgorithm,
    /// How long the authorities last.
    pub authority_validity: Duration,
    /// How long everything else lasts.
    pub certificate_validity: Duration,
    /// Certificates with less than this left are issued again.
    pub renew_before: Duration,
}

impl Default for PkiSpec {
    /// kubeadm's lifetimes, no node, `10.96.0.0/12`.
    fn default() -> Self {
        Self {
            api_server_names: Vec::new(),
            api_server_addresses: Vec::new(),
            service_cidrs: vec![IpNet::from(ipnet::Ipv4Net::new_assert([10, 96, 0, 0].into(), 12))],
            cluster_domain: "cluster.local".into(),
            nodes: Vec::new(),
            api_servers: Vec::new(),
            etcd_members: Vec::new(),
            dns: false,
            algorithm: KeyAlgorithm::default(),
            service_account_algorithm: KeyAlgorithm::default(),
            authority_validity: 3650 * DAY,
            certificate_validity: 365 * DAY,
            renew_before: 30 * DAY,
        }
    }
}

/// The first address of a service range: that of the `kubernetes` Service.
pub fn first_service_address(cidr: &IpNet) -> IpAddr {
    match cidr.network() {
        IpAddr::V4(base) => IpAddr::from((u32::from(base).wrapping_add(1)).to_be_bytes()),
        IpAddr::V6(base) => IpAddr::from((u128::from(base).wrapping_add(1)).to_be_bytes()),
    }
}

/// What was done about one file or pair of files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// It was there and is good.
    Kept,
    /// It was not there.
    Created,
    /// It was there and would not have done.
    Renewed {
        /// Why not.
        because: Reason,
    },
}

/// Why a certificate was issued again.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// Its key file is gone.
    KeyMissing,
    /// Its key file belongs to another certificate.
    KeyMismatch,
    /// Its end is near or past.
    Expires(Timestamp),
    /// It is not from the present authority.
    ForeignAuthority,
    /// It speaks for someone else.
    Subject(Subject),
    /// These names are missing from it.
    MissingNames(Vec<AlternativeName>),
    /// It may not be used as client or server where it has to.
    Usages,
    /// A file made from other files no longer agreed with them.
    Outdated,
    /// Somebody asked for it.
    Asked,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::KeyMissing => f.write_str("its key is missing"),
            Self::KeyMismatch => f.write_str("its key belongs to another certificate"),
            Self::Expires(at) => write!(f, "it expires at {at}"),
            Self::ForeignAuthority => f.write_str("it was signed by another authority"),
            Self::Subject(found) => write!(f, "it is for user {:?}", found.common_name),
            Self::MissingNames(names) => {
                f.write_str("it lacks ")?;
                for (i, name) in names.iter().enumerate() {
                    write!(f, "{}{name}", if i == 0 { "" } else { ", " })?;
                }
                Ok(())
            }
            Self::Usages => f.write_str("it lacks a usage"),
            Self::Outdated => f.write_str("it is out of date"),
            Self::Asked => f.write_str("it was asked for"),
        }
    }
}

/// One line of a [`Report`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReportItem {
    /// The file: a certificate (its key lies beside it), a public key, a kubeconfig.
    pub path: PathBuf,
    /// What was done.
    pub action: Action,
}

/// What [`crate::ClusterPki::ensure`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// One for each thing, in a fixed order.
    pub items: Vec<ReportItem>,
    /// What someone should look at, in words.
    pub warnings: Vec<String>,
}

impl Report {
    /// Whether anything was written.
    pub fn changed(&self) -> bool {
        self.items.iter().any(|i| i.action != Action::Kept)
    }
}

/// Which authority signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Signer {
    Cluster,
    FrontProxy,
    Etcd,
}

impl Signer {
    /// The authorities that a cluster has.
    pub(crate) fn of(spec: &PkiSpec) -> &'static [Self] {
        let all = &[Self::Cluster, Self::FrontProxy, Self::Etcd];
        if spec.etcd_members.is_empty() { &all[..2] } else { all }
    }

    pub(crate) fn file_stem(self) -> &'static str {
        match self {
            Self::Cluster => "ca",
            Self::FrontProxy => "front-proxy-ca",
            Self::Etcd => "etcd-ca",
        }
    }

    pub(crate) fn subject(self) -> Subject {
        Subject::new(match self {
            Self::Cluster => "kubernetes-ca",
            Self::FrontProxy => "front-proxy-ca",
            Self::Etcd => "etcd-ca",
        })
    }
}

/// A certificate that has to exist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub file_stem: String,
    pub signer: Signer,
    pub spec: CertificateSpec,
}

impl Wanted {
    /// Whether an API server serves it.
    pub(crate) fn is_api_server(&self) -> bool {
        self.spec.subject.common_name == API_SERVER && self.spec.usages.contains(&Usage::Server)
    }
}

pub(crate) const API_SERVER: &str = "kube-apiserver";
pub(crate) const API_SERVER_KUBELET_CLIENT: &str = "kube-apiserver-kubelet-client";
pub(crate) const FRONT_PROXY_CLIENT: &str = "front-proxy-client";
pub(crate) const ADMIN: &str = "admin";
pub(crate) const CONTROLLER_MANAGER: &str = "kube-controller-manager";
pub(crate) const SCHEDULER: &str = "kube-scheduler";
pub(crate) const PROXY: &str = "kube-proxy";
pub(crate) const DNS: &str = "coredns";
pub(crate) const ETCD_CLIENT: &str = "kube-apiserver-etcd-client";

pub(crate) fn api_server(host: &str) -> String {
    format!("{API_SERVER}-{host}")
}

pub(crate) fn etcd_member(host: &str) -> String {
    format!("etcd-{host}")
}

pub(crate) fn etcd_peer(host: &str) -> String {
    format!("etcd-{host}-peer")
}

pub(crate) fn kubelet_client(node: &str) -> String {
    format!("kubelet-{node}")
}

pub(crate) fn kubelet_serving(node: &str) -> String {
    format!("kubelet-{node}-serving")
}

/// Every certificate of the cluster, in a fixed order.
pub(crate) fn wanted(spec: &PkiSpec) -> Result<Vec<Wanted>, Error> {
    let validity = spec.certificate_validity;
    let make = |file_stem: &str, signer, subject, usage, names| Wanted {
        file_stem: file_stem.to_owned(),
        signer,
        spec: CertificateSpec { subject, names, usages: vec![usage], validity },
    };
    let client = |stem: &str, subject| make(stem, Signer::Cluster, subject, Usage::Client, Vec::new());
    let masters = |name: &str| Subject::new(name).in_group("system:masters");

    let serving = api_server_names(spec)?;
    let serve = |stem: &str| {
        make(stem, Signer::Cluster, Subject::new("kube-apiserver"), Usage::Server, serving.clone())
    };
    let mut out = Vec::new();
    if spec.api_servers.is_empty() {
        out.push(serve(API_SERVER));
    }
    for host in &spec.api_servers {
        // The name becomes part of a file name; what a DNS name may hold is safe there.
        AlternativeName::parse(host)?;
        out.push(serve(&api_server(host)));
    }
    out.extend([
        client(API_SERVER_KUBELET_CLIENT, masters("kube-apiserver-kubelet-client")),
        make(
            FRONT_PROXY_CLIENT,
            Signer::FrontProxy,
            Subject::new("front-proxy-client"),
            Usage::Client,
            Vec::new(),
        ),
        client(ADMIN, masters("kubernetes-admin")),
        client(CONTROLLER_MANAGER, Subject::new("system:kube-controller-manager")),
        client(SCHEDULER, Subject::new("system:kube-scheduler")),
        client(PROXY, Subject::new("system:kube-proxy").in_group("system:node-proxier")),
    ]);
    if spec.dns {
        out.push(client(DNS, Subject::new("system:coredns")));
    }
    if !spec.etcd_members.is_empty() {
        let subject = Subject::new("kube-apiserver-etcd-client");
        out.push(make(ETCD_CLIENT, Signer::Etcd, subject, Usage::Client, Vec::new()));
    }
    for member in &spec.etcd_members {
        let peer = identity_names(member)?;
        let mut server = peer.clone();
        server.push(AlternativeName::parse("localhost")?);
        server.push(AlternativeName::Ip([127, 0, 0, 1].into()));
        server.push(AlternativeName::Ip(std::net::Ipv6Addr::LOCALHOST.into()));
        dedup(&mut server);
        for (stem, names) in [(etcd_member(&member.name), server), (etcd_peer(&member.name), peer)] {
            let mut one = make(&stem, Signer::Etcd, Subject::new(&member.name), Usage::Server, names);
            // Members are clients of each other, and of themselves.
            one.spec.usages.push(Usage::Client);
            out.push(one);
        }
    }
    for node in &spec.nodes {
        let names = identity_names(node)?;
        let subject = || Subject::new(format!("system:node:{}", node.name)).in_group("system:nodes");
        out.push(client(&kubelet_client(&node.name), subject()));
        out.push(make(&kubelet_serving(&node.name), Signer::Cluster, subject(), Usage::Server, names));
    }
    Ok(out)
}

/// The names of a host. The first becomes part of a file name; what a DNS name may hold is safe there.
fn identity_names(host: &NodeIdentity) -> Result<Vec<AlternativeName>, Error> {
    let mut names = vec![AlternativeName::parse(&host.name)?];
    names.extend(host.addresses.iter().copied().map(AlternativeName::Ip));
    dedup(&mut names);
    Ok(names)
}

fn api_server_names(spec: &PkiSpec) -> Result<Vec<AlternativeName>, Error> {
    let domain = &spec.cluster_domain;
    let mut names = Vec::new();
    for name in ["kubernetes", "kubernetes.default", "kubernetes.default.svc"] {
        names.push(AlternativeName::parse(name)?);
    }
    names.push(AlternativeName::parse(&format!("kubernetes.default.svc.{domain}"))?);
    names.push(AlternativeName::parse("localhost")?);
    for name in &spec.api_server_names {
        names.push(AlternativeName::parse(name)?);
    }
    names.push(AlternativeName::Ip([127, 0, 0, 1].into()));
    names.push(AlternativeName::Ip(std::net::Ipv6Addr::LOCALHOST.into()));
    names.extend(spec.service_cidrs.iter().map(|c| AlternativeName::Ip(first_service_address(c))));
    names.extend(spec.api_server_addresses.iter().copied().map(AlternativeName::Ip));
    dedup(&mut names);
    Ok(names)
}

fn dedup(names: &mut Vec<AlternativeName>) {
    let mut seen = BTreeMap::new();
    names.retain(|n| seen.insert(n.clone(), ()).is_none());
}

/// What is known of a certificate that was found.
pub(crate) struct Found {
    pub facts: CertificateFacts,
    pub signed_by_authority: bool,
    /// `None`: there is no key file.
    pub key_matches: Option<bool>,
}

/// Whether a certificate that was found has to be issued again.
pub(crate) fn judge(
    wanted: &CertificateSpec,
    found: &Found,
    authority_end: Timestamp,
    renew_before: Duration,
    now: Timestamp,
) -> Option<Reason> {
    let facts = &found.facts;
    match found.key_matches {
        None => return Some(Reason::KeyMissing),
        Some(false) => return Some(Reason::KeyMismatch),
        Some(true) => {}
    }
    if !found.signed_by_authority {
        return Some(Reason::ForeignAuthority);
    }
    // One that lasts as long as its authority cannot be bettered: issuing it again would never end.
    if facts.expiry(now, renew_before) != Expiry::Fine && facts.not_after < authority_end {
        return Some(Reason::Expires(facts.not_after));
    }
    let groups = |s: &Subject| {
        let mut groups = s.organizations.clone();
        groups.sort();
        groups
    };
    if facts.subject.common_name != wanted.subject.common_name
        || groups(&facts.subject) != groups(&wanted.subject)
    {
        return Some(Reason::Subject(facts.subject.clone()));
    }
    if wanted.usages.iter().any(|u| !facts.usages.contains(u)) {
        return Some(Reason::Usages);
    }
    let missing: Vec<_> = wanted.names.iter().filter(|n| !facts.names.contains(n)).cloned().collect();
    if !missing.is_empty() {
        return Some(Reason::MissingNames(missing));
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_service_address_follows_the_network() {
        let check = |cidr: &str, want: &str| {
            assert_eq!(first_service_address(&cidr.parse().expect("a cidr")).to_string(), want);
        };
        check("10.96.0.0/12", "10.96.0.1");
        check("10.32.5.7/24", "10.32.5.1");
        check("fd00:1::/108", "fd00:1::1");
    }

    #[test]
    fn every_part_has_its_user_and_groups() {
        let spec = PkiSpec {
            nodes: vec![NodeIdentity { name: "n1".into(), addresses: vec![[192, 0, 2, 7].into()] }],
            ..PkiSpec::default()
        };
        let all: Vec<String> = wanted(&spec)
            .expect("a plan")
            .iter()
            .map(|w| {
                format!("{} {} {:?}", w.file_stem, w.spec.subject.common_name, w.spec.subject.organizations)
            })
            .collect();
        assert_eq!(
            all,
            [
                "kube-apiserver kube-apiserver []",
                r#"kube-apiserver-kubelet-client kube-apiserver-kubelet-client ["system:masters"]"#,
                "front-proxy-client front-proxy-client []",
                r#"admin kubernetes-admin ["system:masters"]"#,
                "kube-controller-manager system:kube-controller-manager []",
                "kube-scheduler system:kube-scheduler []",
                r#"kube-proxy system:kube-proxy ["system:node-proxier"]"#,
                r#"kubelet-n1 system:node:n1 ["system:nodes"]"#,
                r#"kubelet-n1-serving system:node:n1 ["system:nodes"]"#,
            ]
        );
    }

    #[test]
    fn several_hosts_have_keys_of_their_own() {
        let member = |name: &str, last: u8| NodeIdentity {
            name: name.into(),
            addresses: vec![[192, 0, 2, last].into()],
        };
        let spec = PkiSpec {
            api_servers: vec!["m1".into(), "m2".into()],
            etcd_members: vec![member("m1", 1), member("m2", 2)],
            dns: true,
            ..PkiSpec::default()
        };
        let all = wanted(&spec).expect("a plan");
        let stems: Vec<&str> = all.iter().map(|w| w.file_stem.as_str()).collect();
        assert_eq!(
            stems,
            [
                "kube-apiserver-m1",
                "kube-apiserver-m2",
                "kube-apiserver-kubelet-client",
                "front-proxy-client",
                "admin",
                "kube-controller-manager",
                "kube-scheduler",
                "kube-proxy",
                "coredns",
                "kube-apiserver-etcd-client",
                "etcd-m1",
                "etcd-m1-peer",
                "etcd-m2",
                "etcd-m2-peer",
            ]
        );
        let of = |stem: &str| all.iter().find(|w| w.file_stem == stem).expect("planned");
        assert_eq!(of("etcd-m2").signer, Signer::Etcd);
        assert_eq!(of("etcd-m2").spec.usages, [Usage::Server, Usage::Client]);
        assert!(of("etcd-m2").spec.names.contains(&AlternativeName::Ip([127, 0, 0, 1].into())));
        let peer: Vec<String> = of("etcd-m2-peer").spec.names.iter().map(ToString::to_string).collect();
        assert_eq!(peer, ["m2", "192.0.2.2"]);
        let bad = PkiSpec { api_servers: vec!["../x".into()], ..PkiSpec::default() };
        assert!(matches!(wanted(&bad), Err(Error::BadName { .. })));
    }

    #[test]
    fn a_node_name_cannot_leave_the_directory() {
        let spec = PkiSpec {
            nodes: vec![NodeIdentity { name: "../../etc".into(), addresses: Vec::new() }],
            ..PkiSpec::default()
        };
        assert!(matches!(wanted(&spec), Err(Error::BadName { .. })));
    }
}
