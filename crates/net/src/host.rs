//! The host's own addresses, routes and links.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use futures::TryStreamExt as _;
use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// A route of the main table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Where it leads.
    pub destination: IpNet,
    /// The link it goes out on.
    pub link: String,
}

impl Route {
    /// Whether it is the way to everywhere.
    pub fn is_default(&self) -> bool {
        self.destination.prefix_len() == 0
    }
}

/// Reads `/proc/net/route`.
pub fn parse_routes_v4(text: &str) -> Vec<Route> {
    let hex = |field: Option<&str>| u32::from_str_radix(field?, 16).ok().map(u32::swap_bytes);
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let link = fields.next()?.to_owned();
            let destination = Ipv4Addr::from(hex(fields.next())?);
            let mask = Ipv4Addr::from(hex(fields.nth(5))?);
            let destination = IpNet::V4(Ipv4Net::with_netmask(destination, mask).ok()?);
            Some(Route { destination, link })
        })
        .collect()
}

/// Reads `/proc/net/ipv6_route`, leaving out host and multicast entries of the local table.
pub fn parse_routes_v6(text: &str) -> Vec<Route> {
    text.lines()
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let address = Ipv6Addr::from(u128::from_str_radix(fields.first()?, 16).ok()?);
            let prefix = u8::from_str_radix(fields.get(1)?, 16).ok()?;
            let link = (*fields.get(9)?).to_owned();
            let skip = link == "lo" || address.is_multicast();
            let destination = IpNet::V6(Ipv6Net::new(address, prefix).ok()?);
            (!skip).then_some(Route { destination, link })
        })
        .collect()
}

/// The host's routes of both families; a family that the kernel lacks has none.
pub fn routes() -> Vec<Route> {
    let mut all = parse_routes_v4(&fs::read_to_string("/proc/net/route").unwrap_or_default());
    all.extend(parse_routes_v6(&fs::read_to_string("/proc/net/ipv6_route").unwrap_or_default()));
    all
}

/// An address of the host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostAddress {
    /// The address.
    pub address: IpAddr,
    /// The link that has it.
    pub link: String,
}

/// The addresses of the host that others can reach: no loopback, no link-local ones, none of links that containers
/// hang on.
pub async fn addresses() -> io::Result<Vec<HostAddress>> {
    use rtnetlink::packet_route::{address::AddressAttribute, link::LinkAttribute};

    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let answer = async {
        let mut names = std::collections::HashMap::new();
        let mut links = handle.link().get().execute();
        while let Some(link) = links.try_next().await.map_err(io::Error::other)? {
            let name = link.attributes.iter().find_map(|a| match a {
                LinkAttribute::IfName(name) => Some(name.clone()),
                _ => None,
            });
            names.insert(link.header.index, name.unwrap_or_default());
        }
        let mut out = Vec::new();
        let mut found = handle.address().get().execute();
        while let Some(message) = found.try_next().await.map_err(io::Error::other)? {
            let link = names.get(&message.header.index).cloned().unwrap_or_default();
            // A point-to-point link has its own address in Local and the other end's in Address.
            let pick = |local: bool| {
                message.attributes.iter().find_map(move |a| match a {
                    AddressAttribute::Local(ip) if local => Some(*ip),
                    AddressAttribute::Address(ip) if !local => Some(*ip),
                    _ => None,
                })
            };
            if let Some(address) = pick(true).or_else(|| pick(false))
                && is_reachable(&address, &link)
            {
                out.push(HostAddress { address, link });
            }
        }
        Ok(out)
    }
    .await;
    connection.abort();
    answer
}

fn is_reachable(address: &IpAddr, link: &str) -> bool {
    const CONTAINERS: [&str; 6] = ["veth", "docker", "br-", "cni", "virbr", "cox"];
    let local = match address {
        IpAddr::V4(a) => a.is_loopback() || a.is_link_local() || a.is_unspecified(),
        IpAddr::V6(a) => a.is_loopback() || a.is_unicast_link_local() || a.is_unspecified(),
    };
    !local && !CONTAINERS.iter().any(|p| link.starts_with(p))
}

/// The address that the host would use to reach others: that of its default route's link, else any that is reachable.
///
/// `None` on a host without a network.
pub fn primary_address(addresses: &[HostAddress], routes: &[Route]) -> Option<IpAddr> {
    let by_default = |v4: bool| {
        routes.iter().filter(|r| r.is_default() && r.destination.addr().is_ipv4() == v4).find_map(|r| {
            addresses.iter().find(|a| a.link == r.link && a.address.is_ipv4() == v4).map(|a| a.address)
        })
    };
    by_default(true)
        .or_else(|| addresses.iter().map(|a| a.address).find(IpAddr::is_ipv4))
        .or_else(|| by_default(false))
        .or_else(|| addresses.first().map(|a| a.address))
}

/// Deletes a link by name; `false` if there is none.
pub async fn delete_link(name: &str) -> io::Result<bool> {
    // The kernel's limit; asking for a longer name is an error there rather than an empty answer.
    if name.is_empty() || name.len() > 15 {
        return Ok(false);
    }
    let (connection, handle, _) = rtnetlink::new_connection()?;
    let connection = tokio::spawn(connection);
    let answer = async {
        let mut links = handle.link().get().match_name(name.to_owned()).execute();
        let link = match links.try_next().await {
            Ok(Some(link)) => link,
            Ok(None) => return Ok(false),
            Err(error) if is_no_device(&error) => return Ok(false),
            Err(error) => return Err(io::Error::other(error)),
        };
        match handle.link().del(link.header.index).execute().await {
            Ok(()) => Ok(true),
            Err(error) if is_no_device(&error) => Ok(false),
            Err(error) => Err(io::Error::other(error)),
        }
    }
    .await;
    connection.abort();
    answer
}

pub(crate) fn is_no_device(error: &rtnetlink::Error) -> bool {
    const ENODEV: i32 = 19;
    matches!(error, rtnetlink::Error::NetlinkError(e) if e.raw_code() == -ENODEV)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUTES: &str = "\
Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0
eth0\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
";

    #[test]
    fn reads_the_kernel_tables() {
        let route = |d: &str, l: &str| Route { destination: d.parse().expect("a cidr"), link: l.into() };
        assert_eq!(parse_routes_v4(ROUTES), [route("0.0.0.0/0", "eth0"), route("192.0.2.0/24", "eth0")]);
        let v6 = "fd000000000000000000000000000000 40 00000000000000000000000000000000 00 \
                  00000000000000000000000000000000 00000100 00000001 00000000 00000001     eth0\n\
                  00000000000000000000000000000001 80 00000000000000000000000000000000 00 \
                  00000000000000000000000000000000 00000000 00000004 00000000 80200001       lo\n";
        assert_eq!(parse_routes_v6(v6), [route("fd00::/64", "eth0")]);
        assert_eq!(parse_routes_v4("rubbish\nrubbish\n"), []);
    }

    #[test]
    fn the_primary_address_follows_the_default_route() {
        let at = |a: &str, l: &str| HostAddress { address: a.parse().expect("an address"), link: l.into() };
        let addresses = [at("fd00::2", "eth0"), at("10.0.0.4", "wg0"), at("192.0.2.2", "eth0")];
        let routes = parse_routes_v4(ROUTES);
        assert_eq!(primary_address(&addresses, &routes), Some([192, 0, 2, 2].into()));
        assert_eq!(primary_address(&addresses, &[]), Some([10, 0, 0, 4].into()));
        assert_eq!(primary_address(&addresses[..1], &[]), "fd00::2".parse().ok());
        assert_eq!(primary_address(&[], &routes), None);
    }

    #[test]
    fn addresses_of_containers_are_not_the_hosts() {
        let check = |a: &str, link: &str| is_reachable(&a.parse().expect("an address"), link);
        assert!(check("192.0.2.2", "eth0"));
        assert!(!check("127.0.0.1", "lo"));
        assert!(!check("fe80::1", "eth0"));
        assert!(!check("172.17.0.1", "docker0"));
        assert!(!check("10.244.0.1", "veth1234"));
    }

    #[tokio::test]
    async fn a_link_that_is_not_there_is_no_error() {
        assert!(!delete_link("no-such-link").await.expect("an answer"));
    }

    #[tokio::test]
    async fn the_hosts_addresses_exclude_loopback() {
        let all = addresses().await.expect("an answer");
        assert!(all.iter().all(|a| !a.address.is_loopback()), "{all:?}");
    }
}
