//! What one Service with its endpoints has to say, as plain data.

use std::net::IpAddr;

use hickory_proto::rr::Name;
use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};

/// A named port of a Service or of an endpoint.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// The name; empty for the only port of a Service.
    pub name: String,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: &'static str,
    /// The port.
    pub port: u16,
}

/// An address behind a headless Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// The address.
    pub ip: IpAddr,
    /// The label that the address has below the Service's name.
    pub hostname: String,
    /// Its ports, by number (named by the Service's ports).
    pub ports: Vec<Port>,
}

/// What a Service's name leads to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// To the Service's own addresses.
    Cluster(Vec<IpAddr>),
    /// To its endpoints.
    Headless(Vec<Endpoint>),
    /// To another name.
    Alias(Name),
}

/// All that is known under a Service's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Where it leads.
    pub target: Target,
    /// The Service's ports.
    pub ports: Vec<Port>,
}

impl Entry {
    /// Reads a Service and its slices; `None` if it has nothing to say (yet).
    pub fn new(service: &Service, slices: &[impl AsRef<EndpointSlice>]) -> Option<Self> {
        let spec = service.spec.as_ref()?;
        let ports = spec
            .ports
            .iter()
            .flatten()
            .filter_map(|p| port(p.name.as_deref(), p.protocol.as_deref(), Some(p.port)));
        let ports: Vec<_> = ports.collect();
        if spec.type_.as_deref() == Some("ExternalName") {
            let mut name = Name::from_ascii(spec.external_name.as_deref()?).ok()?;
            name.set_fqdn(true);
            return Some(Self { target: Target::Alias(name), ports });
        }
        let first = spec.cluster_ip.as_deref().filter(|ip| !ip.is_empty())?;
        if first.eq_ignore_ascii_case("none") {
            let all = spec.publish_not_ready_addresses.unwrap_or(false);
            return Some(Self { target: Target::Headless(endpoints(slices, all)), ports });
        }
        let mut ips: Vec<IpAddr> =
            spec.cluster_ips.iter().flatten().filter_map(|ip| ip.parse().ok()).collect();
        if ips.is_empty() {
            ips.push(first.parse().ok()?);
        }
        Some(Self { target: Target::Cluster(ips), ports })
    }

    /// The endpoints, if it is headless.
    pub fn endpoints(&self) -> &[Endpoint] {
        match &self.target {
            Target::Headless(endpoints) => endpoints,
            _ => &[],
        }
    }
}

fn port(name: Option<&str>, protocol: Option<&str>, port: Option<i32>) -> Option<Port> {
    let protocol = match protocol.unwrap_or("TCP") {
        "TCP" => "tcp",
        "UDP" => "udp",
        "SCTP" => "sctp",
        _ => return None,
    };
    let port = u16::try_from(port?).ok()?;
    Some(Port { name: name.unwrap_or_default().to_owned(), protocol, port })
}

fn endpoints(slices: &[impl AsRef<EndpointSlice>], not_ready_too: bool) -> Vec<Endpoint> {
    let mut out: Vec<Endpoint> = Vec::new();
    for slice in slices.iter().map(AsRef::as_ref) {
        let ports: Vec<_> = slice
            .ports
            .iter()
            .flatten()
            .filter_map(|p| port(p.name.as_deref(), p.protocol.as_deref(), p.port))
            .collect();
        for endpoint in slice.endpoints.iter().flatten() {
            let ready = endpoint.conditions.as_ref().and_then(|c| c.ready).unwrap_or(true);
            if !ready && !not_ready_too {
                continue;
            }
            for ip in endpoint.addresses.iter().flat_map(|a| a.parse::<IpAddr>()) {
                let hostname = match endpoint.hostname.as_deref() {
                    Some(name) if !name.is_empty() => name.to_ascii_lowercase(),
                    _ => dashed(ip),
                };
                // One endpoint may be in several slices, with different ports in each.
                match out.iter_mut().find(|e| e.ip == ip && e.hostname == hostname) {
                    Some(known) => {
                        let more: Vec<_> =
                            ports.iter().filter(|p| !known.ports.contains(p)).cloned().collect();
                        known.ports.extend(more);
                    }
                    None => out.push(Endpoint { ip, hostname, ports: ports.clone() }),
                }
            }
        }
    }
    // The order of slices is nobody's promise; an order of our own keeps "nothing changed" visible.
    out.sort_by(|a, b| (a.ip, &a.hostname).cmp(&(b.ip, &b.hostname)));
    out
}

/// `10.1.2.3` as a label: `10-1-2-3`.
pub fn dashed(ip: IpAddr) -> String {
    ip.to_string().replace(['.', ':'], "-")
}

/// The address that a label stands for.
pub fn undashed(label: &[u8]) -> Option<IpAddr> {
    let label = std::str::from_utf8(label).ok().filter(|l| l.len() <= 45)?;
    if let Ok(v4) = label.replace('-', ".").parse() {
        return Some(IpAddr::V4(v4));
    }
    label.replace('-', ":").parse().ok().map(IpAddr::V6)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use std::sync::Arc;

    use super::*;

    fn entry(spec: Value, slices: &[Value]) -> Option<Entry> {
        let service = serde_json::from_value(json!({"spec": spec})).expect("a Service");
        let slices: Vec<Arc<EndpointSlice>> = slices
            .iter()
            .map(|s| Arc::new(serde_json::from_value(s.clone()).expect("an EndpointSlice")))
            .collect();
        Entry::new(&service, &slices)
    }

    #[test]
    fn reads_each_kind_of_service() {
        let ports = json!([{"name": "http", "port": 80}, {"port": 7, "protocol": "odd"}]);
        let e = entry(json!({"clusterIP": "10.96.0.7", "ports": ports}), &[]).expect("an entry");
        assert_eq!(e.target, Target::Cluster(vec![[10, 96, 0, 7].into()]));
        assert_eq!(e.ports, [Port { name: "http".into(), protocol: "tcp", port: 80 }]);
        let both = json!({"clusterIP": "10.96.0.7", "clusterIPs": ["10.96.0.7", "fd00::7"]});
        let Target::Cluster(ips) = entry(both, &[]).expect("an entry").target else {
            panic!("not of the cluster")
        };
        assert_eq!(ips.len(), 2);
        let e = entry(json!({"type": "ExternalName", "externalName": "Example.org"}), &[]).expect("an entry");
        assert_eq!(e.target, Target::Alias(Name::from_ascii("Example.org.").expect("a name")));
        assert_eq!(entry(json!({"clusterIP": ""}), &[]), None);
        assert_eq!(entry(json!({"clusterIP": "rubbish"}), &[]), None);
        assert_eq!(entry(json!({"type": "ExternalName", "externalName": "a..b"}), &[]), None);
    }

    #[test]
    fn only_ready_endpoints_are_told_unless_all_are_wanted() {
        let slice = json!({"addressType": "IPv4", "ports": [{"name": "p", "port": 8080}], "metadata": {}, "endpoints": [
            {"addresses": ["10.0.0.2"], "conditions": {"ready": false}, "hostname": "b"},
            {"addresses": ["10.0.0.1"], "hostname": "A"}, {"addresses": ["rubbish"]},
            {"addresses": ["10.0.0.3"], "conditions": {"ready": true}}]});
        let again = json!({"addressType": "IPv4", "ports": [{"name": "q", "port": 8081}], "metadata": {}, "endpoints": [
            {"addresses": ["10.0.0.1"], "hostname": "a"}]});
        let names = |spec: Value| {
            let e = entry(spec, &[slice.clone(), again.clone()]).expect("an entry");
            e.endpoints()
                .iter()
                .map(|e| format!("{} {} {}", e.ip, e.hostname, e.ports.len()))
                .collect::<Vec<_>>()
        };
        assert_eq!(names(json!({"clusterIP": "None"})), ["10.0.0.1 a 2", "10.0.0.3 10-0-0-3 1"]);
        let all = names(json!({"clusterIP": "None", "publishNotReadyAddresses": true}));
        assert_eq!(all, ["10.0.0.1 a 2", "10.0.0.2 b 1", "10.0.0.3 10-0-0-3 1"]);
    }

    #[test]
    fn addresses_and_labels_go_both_ways() {
        for ip in ["10.1.2.3", "fd00::7", "::1"] {
            let ip: IpAddr = ip.parse().expect("an address");
            assert_eq!(undashed(dashed(ip).as_bytes()), Some(ip));
        }
        for label in ["", "1-2-3", "1-2-3-4-5", "1-2-3-400", "web", "01-2-3-4", "\u{fe}"] {
            assert_eq!(undashed(label.as_bytes()), None, "{label}");
        }
    }
}
