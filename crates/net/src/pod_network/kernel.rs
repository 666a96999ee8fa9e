//! The pod network in the kernel, by netlink: read, change, read again.

use std::{
    io,
    net::{IpAddr, Ipv4Addr},
};

use futures::TryStreamExt as _;
use ipnet::Ipv4Net;
use rtnetlink::packet_route::{
    AddressFamily,
    address::AddressAttribute,
    link::{InfoData, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage},
    neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol},
};
use rtnetlink::{Handle, LinkUnspec, LinkVxlan, RouteMessageBuilder};

use super::plan::{Forward, Neighbour, PodRoute, State, plan, wanted};
use super::{Applied, Change, PodNetwork, Vxlan, Way, tunnel_mac};

/// Marks our routes; not one of the numbers that Linux lists.
const PROTOCOL: u8 = 0x63;

/// Why the pod network could not be looked at or made.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The kernel was not reached.
    #[error("cannot talk to the kernel's routing")]
    Socket(#[source] io::Error),
    /// It refused.
    #[error("cannot {step}")]
    Refused {
        /// What was tried.
        step: &'static str,
        /// Why not.
        #[source]
        source: rtnetlink::Error,
    },
    /// No link has the node's address.
    #[error("no link of this host has the node's address {0}; is --node-ip right?")]
    NoAddress(Ipv4Addr),
}

fn refused(step: &'static str) -> impl FnOnce(rtnetlink::Error) -> Error {
    move |source| Error::Refused { step, source }
}

/// Makes the pod network of this node what it shall be, in the network namespace of the calling thread.
///
/// What the kernel refuses is told and does not keep the rest from being done.
pub async fn apply(network: &PodNetwork) -> Result<Applied, Error> {
    with_handle(async |handle| {
        let mut applied = Applied::default();
        let link = match network.way {
            Way::Routes => None,
            Way::Vxlan(vxlan) => {
                let (link, made) = tunnel(&handle, network, vxlan).await?;
                applied.changes += usize::from(made);
                Some(link)
            }
        };
        let found = read(&handle, network.cluster, link).await?;
        for change in plan(&found, &wanted(network, link)) {
            match make(&handle, network, link.unwrap_or(0), change).await {
                Ok(()) => applied.changes += 1,
                Err(error) => applied.refused.push((change, base::Chain(&error).to_string())),
            }
        }
        Ok(applied)
    })
    .await
}

/// Takes away all routes of ours to pods of a cluster, and its tunnel.
pub async fn remove(cluster: Ipv4Net, vxlan: Option<Vxlan>) -> Result<(), Error> {
    with_handle(async |handle| {
        for route in read(&handle, cluster, None).await?.routes {
            handle.route().del(message(&route)).execute().await.map_err(refused("remove a route"))?;
        }
        Ok(())
    })
    .await?;
    if let Some(vxlan) = vxlan {
        crate::host::delete_link(&vxlan.link()).await.map_err(Error::Socket)?;
    }
    Ok(())
}

async fn with_handle<T>(work: impl AsyncFnOnce(Handle) -> Result<T, Error>) -> Result<T, Error> {
    let (connection, handle, _) = rtnetlink::new_connection().map_err(Error::Socket)?;
    let connection = tokio::spawn(connection);
    let answer = work(handle).await;
    connection.abort();
    answer
}

fn v4(address: &RouteAddress) -> Option<Ipv4Addr> {
    match address {
        RouteAddress::Inet(address) => Some(*address),
        _ => None,
    }
}

/// One of our routes, read; the link only where it says something.
fn route(message: &RouteMessage, tunnel: Option<u32>) -> Option<PodRoute> {
    if message.header.protocol != RouteProtocol::Other(PROTOCOL) {
        return None;
    }
    let (mut to, mut via, mut link) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => to = v4(address),
            RouteAttribute::Gateway(address) => via = v4(address),
            RouteAttribute::Oif(index) => link = Some(*index),
            _ => {}
        }
    }
    let to = Ipv4Net::new(to?, message.header.destination_prefix_length).ok()?;
    Some(PodRoute { to, via: via?, link: link.filter(|l| Some(*l) == tunnel) })
}

async fn read(handle: &Handle, cluster: Ipv4Net, tunnel: Option<u32>) -> Result<State, Error> {
    let mut state = State::default();
    let all = RouteMessageBuilder::<Ipv4Addr>::new().build();
    let mut routes = handle.route().get(all).execute();
    while let Some(message) = routes.try_next().await.map_err(refused("list routes"))? {
        state.routes.extend(route(&message, tunnel).filter(|r| cluster.contains(&r.to)));
    }
    let Some(tunnel) = tunnel else { return Ok(state) };
    for family in [AddressFamily::Inet, AddressFamily::Bridge] {
        let mut entries = handle.neighbours().get().set_address_family(family).execute();
        while let Some(entry) = entries.try_next().await.map_err(refused("list neighbours"))? {
            if entry.header.ifindex != tunnel || entry.header.state != NeighbourState::Permanent {
                continue;
            }
            let Some((mac, address)) = neighbour(&entry) else { continue };
            if family == AddressFamily::Bridge {
                state.forwards.insert(Forward { mac, node: address });
            } else {
                state.neighbours.insert(Neighbour { inner: address, mac });
            }
        }
    }
    Ok(state)
}

fn neighbour(entry: &NeighbourMessage) -> Option<([u8; 6], Ipv4Addr)> {
    let (mut mac, mut address) = (None, None);
    for attribute in &entry.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = <[u8; 6]>::try_from(bytes.as_slice()).ok(),
            NeighbourAttribute::Destination(NeighbourAddress::Inet(found)) => address = Some(*found),
            // Of a hardware address, whose family says nothing about where it leads.
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => {
                address = <[u8; 4]>::try_from(bytes.as_slice()).ok().map(Ipv4Addr::from);
            }
            _ => {}
        }
    }
    Some((mac?, address?))
}

fn message(route: &PodRoute) -> RouteMessage {
    RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(route.to.network(), route.to.prefix_len())
        .gateway(route.via)
        .protocol(RouteProtocol::Other(PROTOCOL))
        .build()
}

async fn make(
    handle: &Handle,
    network: &PodNetwork,
    tunnel: u32,
    change: Change,
) -> Result<(), rtnetlink::Error> {
    let neighbours = handle.neighbours();
    let at = |inner: Ipv4Addr, mac: [u8; 6]| {
        neighbours.add(tunnel, IpAddr::V4(inner)).link_layer_address(&mac).replace()
    };
    let forward = |forward: Forward| {
        neighbours
            .add_bridge(tunnel, &forward.mac)
            .destination(IpAddr::V4(forward.node))
            .flags(NeighbourFlags::Own)
            .replace()
    };
    match change {
        Change::SetRoute(route) => {
            let mut builder = RouteMessageBuilder::<Ipv4Addr>::new()
                .destination_prefix(route.to.network(), route.to.prefix_len())
                .gateway(route.via)
                .protocol(RouteProtocol::Other(PROTOCOL));
            if let Some(link) = route.link {
                // The other end is behind the tunnel, though no prefix says so; and answers have to come back that way.
                builder = builder.output_interface(link).onlink().pref_source(network.own.pods.network());
            }
            handle.route().add(builder.build()).replace().execute().await
        }
        Change::DropRoute(route) => handle.route().del(message(&route)).execute().await,
        Change::SetNeighbour(n) => at(n.inner, n.mac).execute().await,
        Change::SetForward(f) => forward(f).execute().await,
        Change::DropNeighbour(n) => {
            let message = at(n.inner, n.mac).message_mut().clone();
            neighbours.del(message).execute().await
        }
        Change::DropForward(f) => {
            let message = forward(f).message_mut().clone();
            neighbours.del(message).execute().await
        }
    }
}

/// The link that has the node's address, and the largest packet that it takes.
async fn underlay(handle: &Handle, address: Ipv4Addr) -> Result<(u32, u32), Error> {
    let mut found = handle.address().get().execute();
    let mut index = None;
    while let Some(message) = found.try_next().await.map_err(refused("list addresses"))? {
        let is_it =
            |a: &AddressAttribute| matches!(a, AddressAttribute::Local(IpAddr::V4(a)) if *a == address);
        if message.attributes.iter().any(is_it) {
            index = Some(message.header.index);
        }
    }
    let index = index.ok_or(Error::NoAddress(address))?;
    let mut links = handle.link().get().match_index(index).execute();
    let link = links.try_next().await.map_err(refused("look at the node's link"))?;
    let mtu = link.iter().flat_map(|l| &l.attributes).find_map(|a| match a {
        LinkAttribute::Mtu(mtu) => Some(*mtu),
        _ => None,
    });
    Ok((index, mtu.unwrap_or(1500)))
}

async fn link_named(handle: &Handle, name: &str) -> Result<Option<LinkMessage>, Error> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    match links.try_next().await {
        Ok(link) => Ok(link),
        Err(error) if crate::host::is_no_device(&error) => Ok(None),
        Err(error) => Err(refused("look at the tunnel")(error)),
    }
}

/// Whether a link is the tunnel that is wanted, apart from what can be changed while it is in use.
fn is_tunnel(link: &LinkMessage, vxlan: Vxlan, own: Ipv4Addr, under: u32) -> bool {
    let mut right = [false; 5];
    for attribute in &link.attributes {
        match attribute {
            LinkAttribute::Address(mac) => right[0] = mac.as_slice() == tunnel_mac(own),
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    let LinkInfo::Data(InfoData::Vxlan(data)) = info else { continue };
                    for fact in data {
                        match fact {
                            InfoVxlan::Id(id) => right[1] = *id == vxlan.id,
                            InfoVxlan::Port(port) => right[2] = *port == vxlan.port,
                            InfoVxlan::Local(local) => right[3] = *local == own,
                            InfoVxlan::Link(link) => right[4] = *link == under,
                            _ => {}
                        }
                    }
                }
            }
            _ => {}
        }
    }
    right.iter().all(|r| *r)
}

/// Makes sure of the tunnel; its link, and whether anything was changed.
async fn tunnel(handle: &Handle, network: &PodNetwork, vxlan: Vxlan) -> Result<(u32, bool), Error> {
    let (name, own) = (vxlan.link(), network.own);
    let (under, mtu) = underlay(handle, own.address).await?;
    let mtu = mtu.saturating_sub(Vxlan::OVERHEAD);
    let mut changed = false;
    if let Some(link) = link_named(handle, &name).await?
        && !is_tunnel(&link, vxlan, own.address, under)
    {
        handle.link().del(link.header.index).execute().await.map_err(refused("remove the old tunnel"))?;
        changed = true;
    }
    let found = match link_named(handle, &name).await? {
        Some(link) => link,
        None => {
            let link = LinkVxlan::new(&name, vxlan.id)
                .dev(under)
                .port(vxlan.port)
                .local(own.address)
                .learning(false)
                .address(tunnel_mac(own.address).to_vec())
                .mtu(mtu)
                .up()
                .build();
            handle.link().add(link).execute().await.map_err(refused("make the tunnel"))?;
            changed = true;
            link_named(handle, &name).await?.ok_or_else(|| Error::Refused {
                step: "find the tunnel that was just made",
                source: rtnetlink::Error::RequestFailed,
            })?
        }
    };
    let index = found.header.index;
    let is_up = found.header.flags.contains(LinkFlags::Up);
    let has_mtu = found.attributes.iter().any(|a| matches!(a, LinkAttribute::Mtu(m) if *m == mtu));
    if !is_up || !has_mtu {
        let set = LinkUnspec::new_with_index(index).mtu(mtu).up().build();
        handle.link().set(set).execute().await.map_err(refused("bring the tunnel up"))?;
        changed = true;
    }
    changed |= tunnel_address(handle, index, own.pods.network()).await?;
    Ok((index, changed))
}

/// The tunnel's own address is that of the node's pods as a whole, which no pod has.
async fn tunnel_address(handle: &Handle, link: u32, wanted: Ipv4Addr) -> Result<bool, Error> {
    let (mut has, mut changed) = (false, false);
    let mut found = handle.address().get().set_link_index_filter(link).execute();
    let mut others = Vec::new();
    while let Some(message) = found.try_next().await.map_err(refused("list addresses"))? {
        if message.header.index != link || message.header.family != AddressFamily::Inet {
            continue;
        }
        let is_it =
            |a: &AddressAttribute| matches!(a, AddressAttribute::Local(IpAddr::V4(a)) if *a == wanted);
        if message.attributes.iter().any(is_it) && message.header.prefix_len == 32 {
            has = true;
        } else {
            others.push(message);
        }
    }
    for other in others {
        handle.address().del(other).execute().await.map_err(refused("remove the tunnel's old address"))?;
        changed = true;
    }
    if !has {
        let add = handle.address().add(link, IpAddr::V4(wanted), 32).execute();
        add.await.map_err(refused("give the tunnel its address"))?;
        changed = true;
    }
    Ok(changed)
}
