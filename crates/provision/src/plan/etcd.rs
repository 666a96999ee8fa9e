//! The members of etcd, with TLS both ways on both ports.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::build::Building;
use super::flags::Flags;
use super::trust::TrustError;
use super::{PlannedService, Ready, ServiceType, Stage};
use crate::spec::{Host, Part};

/// Port for clients.
const CLIENT: u16 = 2379;
/// Port for the other members.
const PEER: u16 = 2380;
/// Port for health, loopback alone.
const HEALTH: u16 = 2381;

/// What every member and every client is told of all members.
pub(super) fn endpoints<'a>(members: impl IntoIterator<Item = &'a Host>) -> String {
    let urls = members.into_iter().map(|h| format!("https://{}", SocketAddr::new(h.address, CLIENT)));
    urls.collect::<Vec<_>>().join(",")
}

/// Where clients reach a host's member.
pub fn client_url(host: &Host) -> String {
    format!("https://{}", SocketAddr::new(host.address, CLIENT))
}

/// Where the other members reach it.
pub fn peer_url(host: &Host) -> String {
    format!("https://{}", SocketAddr::new(host.address, PEER))
}

pub(super) fn add(building: &mut Building<'_>) -> Result<(), TrustError> {
    let (spec, host, options) = (building.spec, building.host, building.options);
    let (paths, pki) = (&options.paths, building.trust.pki());
    let members = spec.etcd_hosts();
    if !members.iter().any(|h| h.name == host.name) {
        return Ok(());
    }
    building.package("etcd-server");
    building.package("etcd-client");
    building.directory(&paths.pki("etcd"), 0o700);
    building.directory(&paths.etcd, 0o700);
    let (server, peer) = (pki.etcd_member(&host.name), pki.etcd_peer(&host.name));
    building.trusted("etcd/ca.crt", &pki.etcd_authority().certificate)?;
    for (name, pair) in [("server", server), ("peer", peer)] {
        building.trusted(&format!("etcd/{name}.crt"), &pair.certificate)?;
        building.trusted(&format!("etcd/{name}.key"), &pair.key)?;
    }

    let url = |port| format!("https://{}", SocketAddr::new(host.address, port));
    let all: Vec<String> = members.iter().map(|h| format!("{}={}", h.name, peer_url(h))).collect();
    // Who joins has to name those that are there, neither more nor less.
    let (state, all) = match options.joining.get(&host.name) {
        Some(there) => ("existing", there.clone()),
        None => ("new", all.join(",")),
    };
    let mut flags = Flags::default();
    flags.add("name", &host.name);
    flags.path("data-dir", &paths.etcd);
    flags.path("cert-file", paths.pki("etcd/server.crt"));
    flags.path("key-file", paths.pki("etcd/server.key"));
    flags.path("trusted-ca-file", paths.pki("etcd/ca.crt"));
    flags.add("client-cert-auth", true);
    flags.path("peer-cert-file", paths.pki("etcd/peer.crt"));
    flags.path("peer-key-file", paths.pki("etcd/peer.key"));
    flags.path("peer-trusted-ca-file", paths.pki("etcd/ca.crt"));
    flags.add("peer-client-cert-auth", true);
    flags.add("listen-client-urls", format!("https://127.0.0.1:{CLIENT},{}", url(CLIENT)));
    flags.add("advertise-client-urls", url(CLIENT));
    flags.add("listen-peer-urls", url(PEER));
    flags.add("initial-advertise-peer-urls", url(PEER));
    flags.add("initial-cluster", all);
    flags.add("initial-cluster-state", state);
    flags.add("initial-cluster-token", options.etcd_token.as_ref().unwrap_or(&spec.name));
    flags.add("listen-metrics-urls", format!("http://127.0.0.1:{HEALTH}"));
    flags.add("snapshot-count", 10_000);
    let line = flags.line(&paths.programs.etcd, spec, Part::Etcd);
    let mut service =
        PlannedService::new("etcd", "etcd, where the cluster keeps its objects", Stage::Etcd, line);
    service.kind = ServiceType::Notify;
    service.open_files = Some(65_536);
    service.first_start = vec!["initial-".into()];
    // It reads certificates anew for each connection, but not whom to trust.
    service.reads = vec![paths.pki("etcd/ca.crt")];
    // What is asked here needs a quorum.
    service.ready =
        Ready::Http { address: IpAddr::V4(Ipv4Addr::LOCALHOST), port: HEALTH, path: "/health".into() };
    building.service(service);
    Ok(())
}
