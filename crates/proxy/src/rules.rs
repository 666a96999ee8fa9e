//! From the model to rules, without a kernel: [`base`] makes what every table has, [`service`] what one Service adds.
//!
//! A packet to a Service address is looked up once, by address, protocol and port, in a verdict map; the chain it leads
//! to picks an endpoint's chain, which rewrites the destination. What no chain took is judged after that: addresses
//! without endpoints are rejected, and so are other ports of cluster addresses.

use std::net::Ipv4Addr;

use client::ObjectKey;
use ipnet::Ipv4Net;

use crate::desired::{Port, Target};
use crate::objects::Objects;

/// What the rules of a node depend on beside Services.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Base {
    /// Addresses of pods, of the whole cluster.
    pub cluster_cidr: Option<Ipv4Net>,
    /// Addresses of Services.
    pub service_cidr: Option<Ipv4Net>,
    /// Addresses of this node that serve node ports.
    pub node_port_addresses: Vec<Ipv4Addr>,
}

/// Set for packets whose source is to become the node's; upstream's bit, so that firewalls know it.
const MARK: &str = "0x4000";
const UNMARK: &str = "0xffffbfff";

/// Everything the table has before the first Service.
pub fn base(base: &Base) -> Objects {
    let mut out = Objects::default();
    let lines = |rules: &[&str]| rules.iter().map(|r| (*r).to_owned()).collect::<Vec<_>>();
    out.sets.insert("cluster-ips".into(), "type ipv4_addr;");
    out.sets.insert("nodeport-ips".into(), "type ipv4_addr;");
    for address in base.node_port_addresses.iter().filter(|a| !a.is_loopback()) {
        out.element("nodeport-ips", address.to_string(), "");
    }
    out.chain(
        "services",
        lines(&[
            "ip daddr . meta l4proto . th dport vmap @service-ips",
            "ip daddr @nodeport-ips meta l4proto . th dport vmap @service-nodeports",
        ]),
    );
    out.chain("mark-for-masquerade", vec![format!("meta mark set meta mark | {MARK}")]);
    let mut masquerading =
        vec![format!("meta mark & {MARK} != 0 meta mark set meta mark & {UNMARK} masquerade fully-random")];
    if let Some(pods) = base.cluster_cidr {
        // The world does not know pod addresses.
        masquerading.push(format!(
            "oifname != \"lo\" ip saddr {pods} ip daddr != {pods} ip daddr != 224.0.0.0/4 masquerade fully-random"
        ));
    }
    out.chain("masquerading", masquerading);
    out.chain("reject-chain", lines(&["meta l4proto tcp reject with tcp reset", "reject"]));
    out.chain(
        "service-endpoints-check",
        lines(&["ip daddr . meta l4proto . th dport vmap @no-endpoint-services"]),
    );
    out.chain(
        "nodeport-endpoints-check",
        lines(&["ip daddr @nodeport-ips meta l4proto . th dport vmap @no-endpoint-nodeports"]),
    );
    let mut unknown = lines(&["ip daddr @cluster-ips jump reject-chain"]);
    if let Some(services) = base.service_cidr {
        unknown.push(format!("ip daddr {services} drop"));
    }
    out.chain("cluster-ips-check", unknown);
    out.chain("firewall-check", lines(&["ip daddr . meta l4proto . th dport vmap @firewall-ips"]));
    for hook in HOOKS {
        out.chain(hook.chain, hook.rules.iter().map(|r| (*r).to_owned()).collect());
    }
    out
}

/// A chain that the kernel calls.
pub struct Hook {
    /// Its name.
    pub chain: &'static str,
    /// When it is called.
    pub at: &'static str,
    rules: &'static [&'static str],
}

/// The chains that the kernel calls. All verdicts about endpoints come after the rewriting of destinations, so that
/// an address that was rewritten is not judged.
pub const HOOKS: [Hook; 8] = [
    Hook { chain: "nat-prerouting", at: "type nat hook prerouting priority -100", rules: &["jump services"] },
    Hook { chain: "nat-output", at: "type nat hook output priority -100", rules: &["jump services"] },
    Hook {
        chain: "nat-postrouting",
        at: "type nat hook postrouting priority 100",
        rules: &["jump masquerading"],
    },
    Hook {
        chain: "filter-prerouting",
        at: "type filter hook prerouting priority -110",
        rules: &["ct state new jump firewall-check"],
    },
    Hook {
        chain: "filter-output",
        at: "type filter hook output priority -110",
        rules: &["ct state new jump firewall-check"],
    },
    Hook {
        chain: "filter-output-post-dnat",
        at: "type filter hook output priority -90",
        rules: &[
            "ct state new jump service-endpoints-check",
            "ct state new jump nodeport-endpoints-check",
            "ct state new jump cluster-ips-check",
        ],
    },
    Hook {
        chain: "filter-input",
        at: "type filter hook input priority 0",
        rules: &["ct state new jump service-endpoints-check", "ct state new jump nodeport-endpoints-check"],
    },
    Hook {
        chain: "filter-forward",
        at: "type filter hook forward priority 0",
        rules: &["ct state new jump service-endpoints-check", "ct state new jump cluster-ips-check"],
    },
];

/// The verdict maps and what they are looked up by.
pub const MAPS: [(&str, &str); 5] = [
    ("service-ips", "ipv4_addr . inet_proto . inet_service"),
    ("service-nodeports", "inet_proto . inet_service"),
    ("no-endpoint-services", "ipv4_addr . inet_proto . inet_service"),
    ("no-endpoint-nodeports", "inet_proto . inet_service"),
    ("firewall-ips", "ipv4_addr . inet_proto . inet_service"),
];

const REJECT: &str = "goto reject-chain";
const DROP: &str = "drop";

/// What the ports of one Service add to the table.
pub fn service(key: &ObjectKey, ports: &[Port], base: &Base) -> Objects {
    let mut out = Objects::default();
    for port in ports {
        for ip in &port.cluster_ips {
            out.element("cluster-ips", ip.to_string(), "");
        }
        add_port(&mut out, &Named::new(key, port), base);
    }
    out
}

struct Named<'a> {
    port: &'a Port,
    /// `ns/name/tcp/port-name`, told apart by a hash even where it has to be cut.
    id: String,
}

impl<'a> Named<'a> {
    fn new(key: &ObjectKey, port: &'a Port) -> Self {
        let full = format!("{}/{}/{}/{}", key.namespace, key.name, port.protocol.as_str(), port.name);
        Self { port, id: format!("{}-{}", hash(&full), clean(&full)) }
    }

    fn chain(&self, kind: &str) -> String {
        cut(format!("{kind}-{}", self.id))
    }

    fn endpoint(&self, target: &Target) -> String {
        let full = format!("{}__{}/{}", self.id, target.address, target.port);
        cut(format!("endpoint-{}-{}", hash(&full), full.split_once('-').map_or(&*full, |(_, name)| name)))
    }

    fn affinity_set(&self, target: &Target, timeout: u32) -> String {
        let full = format!("{}__{}/{}", self.id, target.address, target.port);
        let id = hash(&format!("{full} {timeout}"));
        cut(format!("affinity-{id}-{}", full.split_once('-').map_or(&*full, |(_, name)| name)))
    }

    fn at(&self, ip: Ipv4Addr) -> String {
        format!("{ip} . {} . {}", self.port.protocol.as_str(), self.port.port)
    }
}

fn add_port(out: &mut Objects, named: &Named<'_>, base: &Base) {
    let port = named.port;
    for target in port.cluster.iter().chain(&port.local) {
        add_endpoint(out, named, target);
    }
    let cluster = named.chain("service");
    let local = named.chain("local");
    let (internal, inside) =
        if port.internal_local { (&local, &port.local) } else { (&cluster, &port.cluster) };
    // Without any endpoint: say so at once. With some elsewhere: silence, so that load balancers look further.
    let verdict = if port.is_empty() { REJECT } else { DROP };

    let mut entry = Vec::new();
    for ip in &port.cluster_ips {
        if inside.is_empty() {
            out.element("no-endpoint-services", named.at(*ip), verdict);
            continue;
        }
        out.element("service-ips", named.at(*ip), format!("goto {internal}"));
        if let Some(pods) = base.cluster_cidr {
            // Only pods' addresses are sure to find back without our help.
            entry.push(format!(
                "ip daddr {ip} {} dport {} ip saddr != {pods} jump mark-for-masquerade",
                port.protocol.as_str(),
                port.port
            ));
        }
    }
    for (chain, targets) in [(&cluster, &port.cluster), (&local, &port.local)] {
        if !targets.is_empty() {
            let mut rules = if chain == internal { std::mem::take(&mut entry) } else { Vec::new() };
            rules.extend(choose(named, targets));
            out.chain(chain.clone(), rules);
        }
    }
    if port.is_external() {
        add_external(out, named, base, &cluster, &local, verdict);
    }
}

fn add_external(
    out: &mut Objects,
    named: &Named<'_>,
    base: &Base,
    cluster: &str,
    local: &str,
    verdict: &'static str,
) {
    let port = named.port;
    let protocol = port.protocol.as_str();
    let chain = named.chain("external");
    let outside = if port.external_local { &port.local } else { &port.cluster };
    let addresses = || port.external_ips.iter().chain(&port.load_balancer_ips);
    if !port.is_empty() {
        let mut rules = Vec::new();
        if port.external_local {
            // Pods and this node may use every endpoint; the rest of the world, with its source kept, those here.
            if let Some(pods) = base.cluster_cidr {
                rules.push(format!("ip saddr {pods} goto {cluster}"));
            }
            rules.push("fib saddr type local jump mark-for-masquerade".into());
            rules.push(format!("fib saddr type local goto {cluster}"));
            if !port.local.is_empty() {
                rules.push(format!("goto {local}"));
            }
        } else {
            rules.push("jump mark-for-masquerade".into());
            rules.push(format!("goto {cluster}"));
        }
        out.chain(chain.clone(), rules);
        for ip in addresses() {
            out.element("service-ips", named.at(*ip), format!("goto {chain}"));
        }
        if let Some(node_port) = port.node_port {
            out.element("service-nodeports", format!("{protocol} . {node_port}"), format!("goto {chain}"));
        }
    }
    if outside.is_empty() {
        for ip in addresses() {
            out.element("no-endpoint-services", named.at(*ip), verdict);
        }
        if let Some(node_port) = port.node_port {
            out.element("no-endpoint-nodeports", format!("{protocol} . {node_port}"), verdict);
        }
    }
    if !port.source_ranges.is_empty() && !port.load_balancer_ips.is_empty() {
        let ranges: Vec<_> = port.source_ranges.iter().map(ToString::to_string).collect();
        let firewall = named.chain("firewall");
        // One rule for each range: overlapping ranges make no set.
        let mut rules: Vec<_> = ranges.iter().map(|r| format!("ip saddr {r} return")).collect();
        rules.push(DROP.into());
        out.chain(firewall.clone(), rules);
        for ip in &port.load_balancer_ips {
            out.element("firewall-ips", named.at(*ip), format!("goto {firewall}"));
        }
    }
}

fn choose(named: &Named<'_>, targets: &[Target]) -> Vec<String> {
    let mut rules = Vec::new();
    if let Some(timeout) = named.port.affinity {
        rules.extend(
            targets
                .iter()
                .map(|t| format!("ip saddr @{} goto {}", named.affinity_set(t, timeout), named.endpoint(t))),
        );
    }
    let choices: Vec<_> =
        targets.iter().enumerate().map(|(i, t)| format!("{i} : goto {}", named.endpoint(t))).collect();
    rules.push(format!("numgen random mod {} vmap {{ {} }}", targets.len(), choices.join(", ")));
    rules
}

fn add_endpoint(out: &mut Objects, named: &Named<'_>, target: &Target) {
    let Target { address, port } = target;
    // A pod that reaches itself has to see the node, or it would answer itself directly.
    let mut rules = vec![format!("ip saddr {address} jump mark-for-masquerade")];
    if let Some(timeout) = named.port.affinity {
        let set = named.affinity_set(target, timeout);
        rules.push(format!("update @{set} {{ ip saddr }}"));
        out.sets.insert(set.clone(), "type ipv4_addr; flags dynamic,timeout;");
        out.timeouts.insert(set, timeout);
    }
    rules.push(format!("meta l4proto {} dnat to {address}:{port}", named.port.protocol.as_str()));
    out.chain(named.endpoint(target), rules);
}

/// Names in the kernel have at most 255 bytes; nft of some versions takes less.
fn cut(mut name: String) -> String {
    name.truncate(200);
    name
}

/// Names come checked from the API; whatever else comes must not become syntax.
fn clean(name: &str) -> String {
    name.chars().map(|c| if c.is_ascii_alphanumeric() || "-./".contains(c) { c } else { '_' }).collect()
}

/// Eight letters and digits that tell names apart (FNV-1a; names are not secret, and a clash costs one Service).
fn hash(name: &str) -> String {
    let hash = name
        .bytes()
        .fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0000_0100_0000_01b3));
    const LETTERS: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    (0..8).map(|i| char::from(LETTERS[(hash >> (i * 5)) as usize & 31])).collect()
}

#[cfg(test)]
mod tests;
