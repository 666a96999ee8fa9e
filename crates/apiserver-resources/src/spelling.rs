//! Addresses that are understood but not written as they should be (apimachinery/pkg/util/validation/ip.go).
use std::net::{IpAddr, Ipv4Addr};

use ipnet::IpNet;

use crate::tree::At;

/// An address as old clients may write it: numbers of IPv4 with zeros before them.
fn lax(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse() {
        return Some(ip);
    }
    let parts: Option<Vec<u8>> = text.split('.').map(|part| part.parse().ok()).collect();
    <[u8; 4]>::try_from(parts?).ok().map(|octets| Ipv4Addr::from(octets).into())
}

/// As IPv4, where it is that in the clothes of IPv6.
fn plain(ip: IpAddr) -> IpAddr {
    match ip {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
        v4 => v4,
    }
}

/// What is odd about an address.
pub(crate) fn ip(at: &At, found: &mut Vec<String>) {
    let (value, path) = (at.text(), at.path());
    let Some(ip) = lax(value) else { return };
    let preferred = plain(ip);
    if preferred != ip || value.parse::<IpAddr>().is_err() {
        found.push(format!(
            "{path}: non-standard IP address {value:?} is invalid: use {:?}",
            preferred.to_string()
        ));
    } else if ip.is_ipv6() && ip.to_string() != value {
        let canonical = ip.to_string();
        found.push(format!(
            "{path}: IPv6 address {value:?} should be in RFC 5952 canonical format ({canonical:?})"
        ));
    }
}

/// What is odd about a network.
pub(crate) fn cidr(at: &At, found: &mut Vec<String>) {
    let (value, path) = (at.text(), at.path());
    let Some((address, length)) = value.split_once('/') else { return };
    let (Some(ip), Ok(length)) = (lax(address), length.parse::<u8>()) else { return };
    let preferred = plain(ip);
    // The prefix of a mapped address counts the bits before it too.
    let length = if preferred == ip { length } else { length.saturating_sub(96) };
    let Ok(net) = IpNet::new(preferred, length) else { return };
    let before = found.len();
    if net.trunc() != net {
        let (masked, single) = (net.trunc().to_string(), IpNet::from(preferred).to_string());
        found.push(format!(
            "{path}: CIDR value {value:?} is ambiguous in this context (should be {masked:?} or {single:?}?)"
        ));
    }
    if preferred != ip || address.parse::<IpAddr>().is_err() {
        let masked = net.trunc().to_string();
        found.push(format!("{path}: non-standard CIDR value {value:?} is invalid: use {masked:?}"));
    }
    if found.len() == before && ip.is_ipv6() && net.to_string() != value {
        let canonical = net.to_string();
        found.push(format!(
            "{path}: IPv6 CIDR value {value:?} should be in RFC 5952 canonical format ({canonical:?})"
        ));
    }
}

#[cfg(test)]
mod tests {
    use machinery::Object;
    use serde_json::json;

    use super::*;

    fn told(check: fn(&At, &mut Vec<String>), value: &str) -> String {
        let object = Object::from_value(json!({ "a": value })).unwrap();
        let mut found = Vec::new();
        check(&At::object(&object).field("a"), &mut found);
        found.join("; ").replace("a: ", "")
    }

    #[test]
    fn addresses() {
        assert_eq!(told(ip, "10.0.0.1"), "");
        assert_eq!(told(ip, "fd00::1"), "");
        assert_eq!(
            told(ip, "010.0.0.1"),
            "non-standard IP address \"010.0.0.1\" is invalid: use \"10.0.0.1\""
        );
        assert_eq!(
            told(ip, "::ffff:10.0.0.1"),
            "non-standard IP address \"::ffff:10.0.0.1\" is invalid: use \"10.0.0.1\""
        );
        assert_eq!(
            told(ip, "FD00:0::1"),
            "IPv6 address \"FD00:0::1\" should be in RFC 5952 canonical format (\"fd00::1\")"
        );
    }

    #[test]
    fn networks() {
        assert_eq!(told(cidr, "10.0.0.0/8"), "");
        assert_eq!(
            told(cidr, "10.1.2.3/8"),
            "CIDR value \"10.1.2.3/8\" is ambiguous in this context (should be \"10.0.0.0/8\" or \"10.1.2.3/32\"?)"
        );
        assert_eq!(
            told(cidr, "010.0.0.0/8"),
            "non-standard CIDR value \"010.0.0.0/8\" is invalid: use \"10.0.0.0/8\""
        );
        assert_eq!(
            told(cidr, "FD00::/8"),
            "IPv6 CIDR value \"FD00::/8\" should be in RFC 5952 canonical format (\"fd00::/8\")"
        );
    }
}
