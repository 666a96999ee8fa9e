//! What Services and EndpointSlices ask of one node: plain data, no rules yet.
//!
//! Objects that are not for us (headless, ExternalName, another proxy's) give nothing; what does not parse is left
//! out, so that one strange object costs only itself.

use std::{collections::BTreeSet, net::Ipv4Addr};

use ipnet::Ipv4Net;
use k8s_openapi::api::{
    core::v1::{Service, ServicePort},
    discovery::v1::EndpointSlice,
};

/// A transport protocol, spelled as nftables does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Reads Kubernetes' spelling; absent means TCP.
    pub fn parse(name: Option<&str>) -> Option<Self> {
        match name.unwrap_or("TCP") {
            "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// The name in rules.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// Where traffic for a Service port may go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// A pod's (or another server's) address.
    pub address: Ipv4Addr,
    /// Its port.
    pub port: u16,
}

/// One port of a Service with everything a rule needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The port's name; empty when the Service has only one.
    pub name: String,
    /// Its protocol.
    pub protocol: Protocol,
    /// Port at the cluster, external and load balancer addresses.
    pub port: u16,
    /// Addresses inside the cluster.
    pub cluster_ips: Vec<Ipv4Addr>,
    /// `spec.externalIPs`.
    pub external_ips: Vec<Ipv4Addr>,
    /// Load balancer addresses whose traffic arrives here unchanged.
    pub load_balancer_ips: Vec<Ipv4Addr>,
    /// Who may use the load balancer addresses; empty means everyone.
    pub source_ranges: Vec<Ipv4Net>,
    /// Port at the node's own addresses.
    pub node_port: Option<u16>,
    /// Seconds for which a client stays with an endpoint.
    pub affinity: Option<u32>,
    /// Traffic from within goes to endpoints of this node only.
    pub internal_local: bool,
    /// Traffic from outside goes to endpoints of this node only, keeping its source.
    pub external_local: bool,
    /// Endpoints anywhere.
    pub cluster: Vec<Target>,
    /// Endpoints on this node.
    pub local: Vec<Target>,
}

impl Port {
    /// Whether anything outside the cluster can get in.
    pub fn is_external(&self) -> bool {
        self.node_port.is_some() || !self.external_ips.is_empty() || !self.load_balancer_ips.is_empty()
    }

    /// Whether no endpoint is there at all.
    pub fn is_empty(&self) -> bool {
        self.cluster.is_empty() && self.local.is_empty()
    }
}

/// Label on a Service that another proxy serves.
pub const PROXY_NAME_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// Label on an EndpointSlice: the Service it belongs to.
pub const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

/// The ports of a Service as this node has to serve them.
pub fn ports(service: &Service, slices: &[impl AsRef<EndpointSlice>], node: &str) -> Vec<Port> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let foreign = service.metadata.labels.as_ref().is_some_and(|l| l.contains_key(PROXY_NAME_LABEL));
    let cluster_ip = spec.cluster_ip.as_deref().unwrap_or_default();
    if foreign
        || spec.type_.as_deref() == Some("ExternalName")
        || cluster_ip.is_empty()
        || cluster_ip.eq_ignore_ascii_case("none")
    {
        return Vec::new();
    }
    let mut cluster_ips = addresses(spec.cluster_ips.iter().flatten());
    if cluster_ips.is_empty() {
        cluster_ips = addresses([cluster_ip]);
    }
    let status = service.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    let ingress = status.and_then(|l| l.ingress.as_ref()).into_iter().flatten();
    let load_balancer_ips =
        addresses(ingress.filter(|i| i.ip_mode.as_deref() != Some("Proxy")).filter_map(|i| i.ip.as_ref()));
    let affinity = (spec.session_affinity.as_deref() == Some("ClientIP")).then(|| {
        let seconds =
            spec.session_affinity_config.as_ref().and_then(|c| c.client_ip.as_ref()?.timeout_seconds);
        seconds.and_then(|s| u32::try_from(s).ok()).filter(|s| *s > 0).unwrap_or(10_800)
    });
    let ranges = spec.load_balancer_source_ranges.iter().flatten();
    let base = Port {
        name: String::new(),
        protocol: Protocol::Tcp,
        port: 0,
        cluster_ips,
        external_ips: addresses(spec.external_ips.iter().flatten()),
        load_balancer_ips,
        source_ranges: ranges.filter_map(|r| r.trim().parse().ok()).map(|r: Ipv4Net| r.trunc()).collect(),
        node_port: None,
        affinity,
        internal_local: spec.internal_traffic_policy.as_deref() == Some("Local"),
        external_local: spec.external_traffic_policy.as_deref() == Some("Local"),
        cluster: Vec::new(),
        local: Vec::new(),
    };
    spec.ports.iter().flatten().filter_map(|p| port(&base, p, slices, node)).collect()
}

fn port(base: &Port, port: &ServicePort, slices: &[impl AsRef<EndpointSlice>], node: &str) -> Option<Port> {
    let protocol = Protocol::parse(port.protocol.as_deref())?;
    let mut out = Port {
        name: port.name.clone().unwrap_or_default(),
        protocol,
        port: number(port.port)?,
        node_port: port.node_port.and_then(number),
        ..base.clone()
    };
    let found = endpoints(&out.name, protocol, slices, node);
    // Pods and the node itself reach every endpoint even through an external address of a Local service.
    if !out.internal_local || out.is_external() {
        out.cluster = usable(&found, |_| true);
    }
    if out.internal_local || (out.external_local && out.is_external()) {
        out.local = usable(&found, |e| e.local);
    }
    Some(out)
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Found {
    target: Target,
    ready: bool,
    /// Still answers, though it is going away.
    leaving: bool,
    local: bool,
}

/// The ready endpoints; if there are none, those that still serve while they terminate.
fn usable(found: &BTreeSet<Found>, within: impl Fn(&Found) -> bool) -> Vec<Target> {
    let pick = |choose: fn(&Found) -> bool| -> Vec<Target> {
        let mut targets: Vec<_> = found.iter().filter(|e| within(e) && choose(e)).map(|e| e.target).collect();
        targets.dedup();
        targets
    };
    let ready = pick(|e| e.ready);
    if ready.is_empty() { pick(|e| e.leaving) } else { ready }
}

fn endpoints(
    name: &str,
    protocol: Protocol,
    slices: &[impl AsRef<EndpointSlice>],
    node: &str,
) -> BTreeSet<Found> {
    let mut found = BTreeSet::new();
    for slice in slices.iter().map(AsRef::as_ref).filter(|s| s.address_type == "IPv4") {
        let port = slice.ports.iter().flatten().find(|p| {
            p.name.as_deref().unwrap_or_default() == name
                && Protocol::parse(p.protocol.as_deref()) == Some(protocol)
        });
        let Some(port) = port.and_then(|p| p.port).and_then(number) else { continue };
        for endpoint in slice.endpoints.iter().flatten() {
            // All addresses of an endpoint are interchangeable; the API asks to use the first.
            let Some(address) = endpoint.addresses.first().and_then(|a| a.parse().ok()) else { continue };
            let conditions = endpoint.conditions.clone().unwrap_or_default();
            let ready = conditions.ready.unwrap_or(true);
            let leaving = conditions.terminating.unwrap_or(false) && conditions.serving.unwrap_or(ready);
            let local = endpoint.node_name.as_deref() == Some(node);
            found.insert(Found { target: Target { address, port }, ready, leaving, local });
        }
    }
    found
}

fn number(port: i32) -> Option<u16> {
    u16::try_from(port).ok().filter(|p| *p != 0)
}

fn addresses<T: AsRef<str>>(texts: impl IntoIterator<Item = T>) -> Vec<Ipv4Addr> {
    let mut out = Vec::new();
    for address in texts.into_iter().filter_map(|t| t.as_ref().parse::<Ipv4Addr>().ok()) {
        if !address.is_unspecified() && !out.contains(&address) {
            out.push(address);
        }
    }
    out
}

#[cfg(test)]
mod tests;
