//! Rules are judged by what becomes of packets; one golden text shows what they look like.

use std::collections::BTreeSet;

use super::*;
use crate::desired::Protocol;
use crate::objects::Transaction;
use trace::{Fate, Packet, Tracer};

mod trace;

const NODE: &str = "192.0.2.2";
const POD: &str = "10.244.1.5";
const WORLD: &str = "198.51.100.77";

fn ip(text: &str) -> Ipv4Addr {
    text.parse().expect("an address")
}

fn node() -> Base {
    Base {
        cluster_cidr: "10.244.0.0/16".parse().ok(),
        service_cidr: "10.96.0.0/12".parse().ok(),
        node_port_addresses: vec![ip(NODE)],
    }
}

fn targets(texts: &[&str]) -> Vec<Target> {
    texts.iter().map(|t| Target { address: ip(t), port: 8080 }).collect()
}

fn port() -> Port {
    Port {
        name: "http".into(),
        protocol: Protocol::Tcp,
        port: 80,
        cluster_ips: vec![ip("10.96.0.7")],
        external_ips: vec![],
        load_balancer_ips: vec![],
        source_ranges: vec![],
        node_port: None,
        affinity: None,
        internal_local: false,
        external_local: false,
        cluster: targets(&["10.244.1.3", "10.244.2.4"]),
        local: vec![],
    }
}

fn open() -> Port {
    Port {
        external_ips: vec![ip("203.0.113.9")],
        load_balancer_ips: vec![ip("203.0.113.10")],
        node_port: Some(30_080),
        ..port()
    }
}

fn tracer(port: Port) -> Tracer {
    let mut all = base(&node());
    let service = service(&ObjectKey::new("ns", "web"), &[port], &node());
    all.chains.extend(service.chains);
    all.sets.extend(service.sets);
    all.elements.extend(service.elements);
    Tracer::new(all, ip(NODE))
}

/// `fates` of all ways the packet can go.
fn check(tracer: &Tracer, packet: &str, fates: &[Fate]) {
    let found: BTreeSet<Fate> = tracer.send(&Packet::parse(packet));
    assert_eq!(found, fates.iter().cloned().collect(), "{packet}");
}

fn to(text: &str) -> Fate {
    Fate::Arrives { at: format!("{text}:8080"), masqueraded: false }
}

fn via_node(text: &str) -> Fate {
    Fate::Arrives { at: format!("{text}:8080"), masqueraded: true }
}

#[test]
fn a_cluster_address_leads_to_every_endpoint() {
    let t = tracer(port());
    check(&t, &format!("{POD} tcp 10.96.0.7:80"), &[to("10.244.1.3"), to("10.244.2.4")]);
    check(&t, &format!("{NODE} tcp 10.96.0.7:80"), &[via_node("10.244.1.3"), via_node("10.244.2.4")]);
    check(&t, &format!("{WORLD} tcp 10.96.0.7:80"), &[via_node("10.244.1.3"), via_node("10.244.2.4")]);
}

#[test]
fn a_pod_that_reaches_itself_sees_the_node() {
    check(&tracer(port()), "10.244.1.3 tcp 10.96.0.7:80", &[via_node("10.244.1.3"), to("10.244.2.4")]);
}

#[test]
fn other_ports_of_a_cluster_address_are_rejected_and_other_addresses_dropped() {
    let t = tracer(port());
    for source in [POD, NODE] {
        check(&t, &format!("{source} tcp 10.96.0.7:81"), &[Fate::Reset]);
        check(&t, &format!("{source} udp 10.96.0.7:80"), &[Fate::Unreachable]);
        check(&t, &format!("{source} tcp 10.96.0.8:80"), &[Fate::Dropped]);
    }
}

#[test]
fn a_service_without_endpoints_rejects() {
    let t = tracer(Port { cluster: vec![], ..open() });
    for source in [POD, NODE, WORLD] {
        for at in ["10.96.0.7:80", "203.0.113.9:80", "203.0.113.10:80", "192.0.2.2:30080"] {
            check(&t, &format!("{source} tcp {at}"), &[Fate::Reset]);
        }
    }
}

#[test]
fn traffic_from_outside_is_masqueraded() {
    let t = tracer(open());
    for at in ["203.0.113.9:80", "203.0.113.10:80", "192.0.2.2:30080"] {
        for source in [WORLD, POD, NODE] {
            let fates = [via_node("10.244.1.3"), via_node("10.244.2.4")];
            check(&t, &format!("{source} tcp {at}"), &fates);
        }
    }
    // The node's own ports are its own.
    let own = Fate::Arrives { at: "192.0.2.2:22".into(), masqueraded: false };
    check(&t, &format!("{WORLD} tcp 192.0.2.2:22"), &[own]);
    let loopback = Fate::Arrives { at: "127.0.0.1:30080".into(), masqueraded: false };
    check(&t, "127.0.0.1 tcp 127.0.0.1:30080", &[loopback]);
}

#[test]
fn an_external_local_service_keeps_the_source_and_stays_here() {
    let local = Port { external_local: true, local: targets(&["10.244.1.3"]), ..open() };
    let t = tracer(local.clone());
    for at in ["203.0.113.9:80", "203.0.113.10:80", "192.0.2.2:30080"] {
        check(&t, &format!("{WORLD} tcp {at}"), &[to("10.244.1.3")]);
        check(&t, &format!("{POD} tcp {at}"), &[to("10.244.1.3"), to("10.244.2.4")]);
        check(&t, &format!("{NODE} tcp {at}"), &[via_node("10.244.1.3"), via_node("10.244.2.4")]);
    }
    // None here, some elsewhere: silence for the world, so that its load balancer looks further.
    let t = tracer(Port { local: vec![], ..local });
    for at in ["203.0.113.9:80", "192.0.2.2:30080"] {
        check(&t, &format!("{WORLD} tcp {at}"), &[Fate::Dropped]);
        check(&t, &format!("{POD} tcp {at}"), &[to("10.244.1.3"), to("10.244.2.4")]);
        check(&t, &format!("{NODE} tcp {at}"), &[via_node("10.244.1.3"), via_node("10.244.2.4")]);
    }
}

#[test]
fn an_internal_local_service_stays_here_for_pods() {
    let local = Port { internal_local: true, local: targets(&["10.244.1.3"]), ..open() };
    let t = tracer(local.clone());
    check(&t, &format!("{POD} tcp 10.96.0.7:80"), &[to("10.244.1.3")]);
    check(&t, &format!("{NODE} tcp 10.96.0.7:80"), &[via_node("10.244.1.3")]);
    check(&t, &format!("{WORLD} tcp 192.0.2.2:30080"), &[via_node("10.244.1.3"), via_node("10.244.2.4")]);
    let t = tracer(Port { local: vec![], ..local });
    check(&t, &format!("{POD} tcp 10.96.0.7:80"), &[Fate::Dropped]);
    check(&t, &format!("{WORLD} tcp 192.0.2.2:30080"), &[via_node("10.244.1.3"), via_node("10.244.2.4")]);
}

#[test]
fn a_client_stays_with_its_endpoint_by_every_way_in() {
    let mut t = tracer(Port { affinity: Some(60), ..open() });
    let any = [to("10.244.1.3"), to("10.244.2.4")];
    check(&t, &format!("{POD} tcp 10.96.0.7:80"), &any);
    t.remember("10.244.2.4", ip(POD));
    check(&t, &format!("{POD} tcp 10.96.0.7:80"), &[to("10.244.2.4")]);
    check(&t, &format!("{POD} tcp 192.0.2.2:30080"), &[via_node("10.244.2.4")]);
    check(&t, "10.244.1.6 tcp 10.96.0.7:80", &any);
}

#[test]
fn only_allowed_sources_reach_a_load_balancer() {
    let ranges = ["198.51.100.0/24", "198.51.0.0/16"].map(|r| r.parse().expect("a range"));
    let t = tracer(Port { source_ranges: ranges.into(), ..open() });
    let fates = [via_node("10.244.1.3"), via_node("10.244.2.4")];
    check(&t, &format!("{WORLD} tcp 203.0.113.10:80"), &fates);
    check(&t, "203.0.113.200 tcp 203.0.113.10:80", &[Fate::Dropped]);
    check(&t, "203.0.113.200 tcp 203.0.113.9:80", &fates);
}

#[test]
fn pods_leave_the_cluster_with_the_nodes_address() {
    let t = tracer(port());
    let arrives = |at: &str, masqueraded| Fate::Arrives { at: at.into(), masqueraded };
    check(&t, &format!("{POD} tcp {WORLD}:443"), &[arrives("198.51.100.77:443", true)]);
    check(&t, &format!("{POD} tcp 10.244.3.3:443"), &[arrives("10.244.3.3:443", false)]);
    check(&t, &format!("{POD} tcp {NODE}:6443"), &[arrives("192.0.2.2:6443", false)]);
    check(&t, &format!("{NODE} tcp {WORLD}:443"), &[arrives("198.51.100.77:443", false)]);
}

#[test]
fn names_stay_apart_and_within_bounds_whatever_they_are() {
    let key = ObjectKey::new("n".repeat(63), "s".repeat(63));
    let long = |name: &str| Port { name: name.into(), affinity: Some(5), ..port() };
    let (a, b) = ("p".repeat(62) + "a", "p".repeat(62) + "b; drop");
    let objects = service(&key, &[long(&a), long(&b)], &node());
    assert_eq!(objects.chains.len(), 6, "{:?}", objects.chains.keys());
    for name in objects.chains.keys().chain(objects.sets.keys()) {
        assert!(name.len() <= 200 && !name.contains([';', ' ', '{', '\n']), "{name}");
    }
}

#[test]
fn one_service_looks_like_this() {
    let port =
        Port { node_port: Some(30_080), affinity: Some(60), cluster: targets(&["10.244.1.3"]), ..port() };
    let objects = service(&ObjectKey::new("ns", "web"), &[port], &node());
    let mut transaction = Transaction::default();
    transaction.change(&Objects::default(), &objects);
    let mut text = transaction.script("t");
    for ((collection, key), value) in &objects.elements {
        text += &format!("{collection} {key} : {value}\n");
    }
    let golden = include_str!("golden.txt");
    assert_eq!(text, golden, "\n{text}");
}
