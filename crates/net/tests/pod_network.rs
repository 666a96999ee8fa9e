//! The pod network in a real kernel: two nodes and their pods, each a network namespace.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use net::pod_network::{Applied, Peer, PodNetwork, Vxlan, Way, apply, remove};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

const PLACES: [&str; 4] = ["na", "nb", "pa", "pb"];

struct Network(String);

fn output(line: &str) -> String {
    let words: Vec<_> = line.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().expect("ip runs");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

impl Network {
    /// Nodes 192.0.2.1 and .2, on one wire, with one pod each: 10.244.1.5 and 10.244.2.5.
    fn new() -> Option<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: network namespaces need root");
            return None;
        }
        let network = Self(format!("hosts{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed)));
        for place in PLACES {
            output(&format!("ip netns add {}", network.name(place)));
            network.ip(place, "link set lo up");
        }
        output(&format!(
            "ip -n {} link add eth0 type veth peer name eth0 netns {}",
            network.name("na"),
            network.name("nb")
        ));
        for (node, pod, number) in [("na", "pa", 1), ("nb", "pb", 2)] {
            network.ip(node, &format!("addr add 192.0.2.{number}/24 dev eth0"));
            network.ip(node, "link set eth0 up");
            output(&format!(
                "ip -n {} link add pod type veth peer name eth0 netns {}",
                network.name(node),
                network.name(pod)
            ));
            network.ip(node, &format!("addr add 10.244.{number}.1/32 dev pod"));
            network.ip(node, "link set pod up");
            network.ip(node, &format!("route add 10.244.{number}.5/32 dev pod"));
            network.ip(pod, &format!("addr add 10.244.{number}.5/32 dev eth0"));
            network.ip(pod, "link set eth0 up");
            network.ip(pod, &format!("route add 10.244.{number}.1/32 dev eth0"));
            network.ip(pod, &format!("route add default via 10.244.{number}.1"));
            network.at(node, || std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").expect("forwarding"));
            network.serve(pod);
        }
        Some(network)
    }

    fn name(&self, place: &str) -> String {
        format!("{}{place}", self.0)
    }

    fn ip(&self, place: &str, rest: &str) -> String {
        output(&format!("ip -n {} {rest}", self.name(place)))
    }

    /// Runs something in a place.
    fn at<T: Send + 'static>(&self, place: &str, work: impl FnOnce() -> T + Send + 'static) -> T {
        let path = format!("/run/netns/{}", self.name(place));
        let thread = std::thread::spawn(move || {
            let namespace = File::open(&path).expect("a namespace");
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("to enter it");
            work()
        });
        thread.join().expect("an answer")
    }

    fn serve(&self, place: &str) {
        let listener = self.at(place, || TcpListener::bind("0.0.0.0:8080").expect("a port"));
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                if let Ok(peer) = stream.peer_addr() {
                    let _ = (&stream).write_all(peer.ip().to_string().as_bytes());
                }
            }
        });
    }

    /// As whom the pod of the other node sees the one who asks, or what went wrong.
    fn seen(&self, from: &str, to: &str) -> String {
        let to: SocketAddr = to.parse().expect("address:port");
        let answer = self.at(from, move || {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_secs(3))?;
            stream.set_read_timeout(Some(Duration::from_secs(10)))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok::<_, std::io::Error>(text)
        });
        answer.unwrap_or_else(|e| format!("{:?}", e.kind()))
    }

    fn run<T: Send + 'static>(&self, node: &str, work: impl AsyncFnOnce() -> T + Send + 'static) -> T {
        self.at(node, move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(work())
        })
    }

    fn apply(&self, node: &str, network: PodNetwork) -> Applied {
        let applied = self.run(node, async move || apply(&network).await);
        applied.unwrap_or_else(|e| panic!("{}", base::Chain(&e)))
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        for place in PLACES {
            let _ = Command::new("ip").args(["netns", "del", &self.name(place)]).output();
        }
    }
}

fn peer(number: u8) -> Peer {
    let pods = format!("10.244.{number}.0/24").parse().expect("a network");
    Peer { pods, address: Ipv4Addr::new(192, 0, 2, number) }
}

fn wanted(way: Way, own: u8, others: &[u8]) -> PodNetwork {
    PodNetwork {
        way,
        cluster: "10.244.0.0/16".parse().expect("a network"),
        own: peer(own),
        peers: others.iter().map(|n| peer(*n)).collect(),
    }
}

/// What holds either way.
fn works(network: &Network, way: Way) {
    assert!(network.seen("pa", "10.244.2.5:8080") != "10.244.1.5", "a way before there is one");
    for (node, own, other) in [("na", 1, 2), ("nb", 2, 1)] {
        let applied = network.apply(node, wanted(way, own, &[other]));
        assert!(applied.changes > 0 && applied.refused.is_empty(), "{applied:?}");
        // Again: nothing to do.
        let applied = network.apply(node, wanted(way, own, &[other]));
        assert!(applied.changes == 0 && applied.refused.is_empty(), "{applied:?}");
    }
    // Pods see each other as they are, and a node gets to the other's pods.
    assert_eq!(network.seen("pa", "10.244.2.5:8080"), "10.244.1.5");
    assert_eq!(network.seen("pb", "10.244.1.5:8080"), "10.244.2.5");
    let node = network.seen("na", "10.244.2.5:8080");
    assert!(node.starts_with("192.0.2.1") || node == "10.244.1.0", "{node}");

    // What somebody else removed is put back; what somebody else made is left alone.
    network.ip("na", "route del 10.244.2.0/24");
    network.ip("na", "route add 10.244.9.0/24 via 192.0.2.2");
    assert_eq!(network.apply("na", wanted(way, 1, &[2])).changes, 1);
    assert_eq!(network.seen("pa", "10.244.2.5:8080"), "10.244.1.5");
    // A node that is gone takes its route along.
    assert!(network.apply("na", wanted(way, 1, &[])).changes > 0);
    let routes = network.ip("na", "route show");
    assert!(!routes.contains("10.244.2.0/24") && routes.contains("10.244.9.0/24"), "{routes}");
    assert!(network.seen("pa", "10.244.2.5:8080") != "10.244.1.5");
}

#[test]
fn pods_reach_pods_of_other_nodes_by_routes() {
    let Some(network) = Network::new() else { return };
    works(&network, Way::Routes);
    // A node that is no neighbour is told, and the others are served all the same.
    let mut far = wanted(Way::Routes, 1, &[2]);
    far.peers.push(Peer { address: Ipv4Addr::new(203, 0, 113, 9), ..peer(3) });
    let applied = network.apply("na", far);
    assert_eq!((applied.changes, applied.refused.len()), (1, 1), "{applied:?}");
    assert_eq!(network.seen("pa", "10.244.2.5:8080"), "10.244.1.5");
    network
        .run("na", async || remove("10.244.0.0/16".parse().expect("a network"), None).await)
        .expect("removed");
    assert!(!network.ip("na", "route show").contains("10.244.2.0/24"));
}

#[test]
fn pods_reach_pods_of_other_nodes_through_a_tunnel() {
    let Some(network) = Network::new() else { return };
    let vxlan = Vxlan { id: 7, port: 8473 };
    works(&network, Way::Vxlan(vxlan));
    let link = network.ip("na", "-d link show cox-vx7");
    assert!(
        link.contains("mtu 1450") && link.contains("vxlan id 7") && link.contains("dstport 8473"),
        "{link}"
    );
    // Another port: a new tunnel. Then routes instead of it.
    let other = Vxlan { port: 8474, ..vxlan };
    assert!(network.apply("na", wanted(Way::Vxlan(other), 1, &[2])).changes > 0);
    assert!(network.ip("na", "-d link show cox-vx7").contains("dstport 8474"));
    assert!(network.apply("na", wanted(Way::Routes, 1, &[2])).changes > 0);
    assert!(network.ip("na", "route show").contains("10.244.2.0/24 via 192.0.2.2"));
    let gone = network
        .run("na", async move || remove("10.244.0.0/16".parse().expect("a network"), Some(vxlan)).await);
    gone.expect("removed");
    assert!(!network.ip("na", "link show").contains("cox-vx7"));
}
