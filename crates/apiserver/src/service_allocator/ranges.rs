//! The networks that Services get addresses of: what the `ServiceCIDR` objects say. Upstream:
//! pkg/registry/core/service/ipallocator, 1.36.
use std::net::Ipv4Addr;

use ipnet::{IpNet, Ipv4Net};
use machinery::Object;
use serde_json::Value;

/// One network that addresses are given of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Range(pub(super) Ipv4Net);

impl Range {
    fn size(self) -> u64 {
        1 << (32 - u32::from(self.0.prefix_len()))
    }

    /// Whether an address may be given to a Service: neither the network's own nor the broadcast address.
    pub(super) fn gives(self, ip: Ipv4Addr) -> bool {
        self.0.contains(&ip) && (self.size() <= 2 || (ip != self.0.network() && ip != self.0.broadcast()))
    }

    /// Where the addresses that are given out of themselves begin, and how many there are; then the lower ones, which
    /// are left to those who ask for one as long as there are others (KEP-3070).
    pub(super) fn bands(self) -> [(u32, u32); 2] {
        let network = u32::from(self.0.network());
        let usable = u32::try_from(self.size().saturating_sub(2)).unwrap_or(u32::MAX);
        let offset = match self.size() {
            0..=16 => 0,
            size => (size / 16).clamp(16, 256).min(u64::from(usable)) as u32,
        };
        [(network + 1 + offset, usable - offset), (network + 1, offset)]
    }
}

/// The networks of a `ServiceCIDR`; none while it is not ready or goes away.
fn networks(cidr: &Object) -> Vec<Ipv4Net> {
    let conditions = cidr.list_at(&["status", "conditions"]);
    let ready = conditions.iter().find(|c| c["type"] == "Ready").is_none_or(|c| c["status"] == "True");
    if cidr.is_deleting() || !ready {
        return Vec::new();
    }
    let texts = cidr.list_at(&["spec", "cidrs"]).iter().filter_map(Value::as_str);
    let parsed = texts.filter_map(|text| text.parse::<IpNet>().ok());
    parsed
        .filter_map(|net| match net {
            IpNet::V4(net) => Some(net.trunc()),
            IpNet::V6(_) => None,
        })
        .collect()
}

/// All networks, the one that the server was configured with first. Before the first object of its kind is written
/// there is only that one.
pub(super) fn ranges(configured: Ipv4Net, cidrs: &[Object]) -> Vec<Range> {
    if cidrs.is_empty() {
        return vec![Range(configured)];
    }
    let mut all: Vec<Ipv4Net> = cidrs.iter().flat_map(networks).collect();
    all.sort_by_key(|net| *net != configured);
    all.dedup();
    all.into_iter().map(Range).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cidr(cidrs: &[&str], status: Option<&str>, deleted: bool) -> Object {
        let mut value = json!({"metadata": {}, "spec": {"cidrs": cidrs}});
        if let Some(status) = status {
            value["status"] = json!({"conditions": [{"type": "Ready", "status": status}]});
        }
        if deleted {
            value["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z".into();
        }
        Object::from_value(value).unwrap()
    }

    #[test]
    fn only_networks_that_are_ready_give_addresses() {
        let configured: Ipv4Net = "10.96.0.0/12".parse().unwrap();
        let shown = |cidrs: &[Object]| -> Vec<String> {
            ranges(configured, cidrs).iter().map(|r| r.0.to_string()).collect()
        };
        assert_eq!(shown(&[]), ["10.96.0.0/12"]);
        let others = [
            cidr(&["10.10.0.0/24"], Some("True"), false),
            cidr(&["10.96.0.0/12", "fd00::/108"], None, false),
            cidr(&["10.11.0.0/24"], Some("False"), false),
            cidr(&["10.12.0.0/24"], Some("True"), true),
        ];
        assert_eq!(shown(&others), ["10.96.0.0/12", "10.10.0.0/24"]);
        assert_eq!(shown(&[cidr(&["10.96.0.0/12"], Some("True"), true)]), [""; 0]);
    }

    #[test]
    fn the_lower_band_is_left_to_those_who_ask() {
        for (net, first, count, lower) in
            [("10.0.0.0/28", 1, 14, 0), ("10.0.0.0/24", 17, 238, 16), ("10.0.0.0/16", 257, 65278, 256)]
        {
            let range = Range(net.parse().unwrap());
            let network = u32::from(range.0.network());
            assert_eq!(range.bands(), [(network + first, count), (network + 1, lower)], "{net}");
        }
        let range = Range("10.0.0.0/28".parse().unwrap());
        let gives = |ip: &str| range.gives(ip.parse().unwrap());
        assert!(gives("10.0.0.1") && gives("10.0.0.14"));
        assert!(!gives("10.0.0.0") && !gives("10.0.0.15") && !gives("10.0.0.16"));
    }
}
