//! A node with two pods and a neighbour, each a network namespace of its own.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd as _;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

pub const NODE: &str = "192.0.2.2";
pub const WORLD: &str = "192.0.2.1";
pub const POD_A: &str = "10.244.1.3";
pub const POD_B: &str = "10.244.1.4";

/// Goes away with everything in it when dropped.
pub struct Network {
    prefix: String,
}

fn command(line: &str) {
    let words: Vec<_> = line.split_whitespace().collect();
    let output = Command::new(words[0]).args(&words[1..]).output().expect("ip runs");
    assert!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Network {
    /// `None`, and says so, without the right to make namespaces.
    pub fn new() -> Option<Self> {
        static NUMBER: AtomicUsize = AtomicUsize::new(0);
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: network namespaces need root");
            return None;
        }
        let prefix = format!("proxy{}x{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let network = Self { prefix };
        for place in PLACES {
            command(&format!("ip netns add {}", network.name(place)));
            network.ip(place, "link set lo up");
        }
        // The neighbour is also the way to the rest of the world.
        let (node, world) = (network.name("node"), network.name("world"));
        command(&format!("ip -n {node} link add eth0 type veth peer name eth0 netns {world}"));
        network.ip("node", &format!("addr add {NODE}/24 dev eth0"));
        network.ip("world", &format!("addr add {WORLD}/24 dev eth0"));
        network.ip("world", "addr add 198.51.100.7/32 dev lo");
        network.ip("node", "link set eth0 up");
        network.ip("world", "link set eth0 up");
        network.ip("node", &format!("route add default via {WORLD}"));
        for net in ["10.96.0.0/12", "203.0.113.0/24"] {
            network.ip("world", &format!("route add {net} via {NODE}"));
        }
        // As the ptp plugin does it: routed, one address for each pod.
        for (pod, address) in [("a", POD_A), ("b", POD_B)] {
            command(&format!(
                "ip -n {node} link add pod{pod} type veth peer name eth0 netns {}",
                network.name(pod)
            ));
            network.ip("node", &format!("addr add 10.244.1.1/32 dev pod{pod}"));
            network.ip("node", &format!("link set pod{pod} up"));
            network.ip("node", &format!("route add {address}/32 dev pod{pod}"));
            network.ip(pod, &format!("addr add {address}/24 dev eth0"));
            network.ip(pod, "link set eth0 up");
            network.ip(pod, "route del 10.244.1.0/24 dev eth0");
            network.ip(pod, "route add 10.244.1.1/32 dev eth0");
            network.ip(pod, "route add default via 10.244.1.1");
        }
        for (place, name) in [("a", "a"), ("b", "b"), ("world", "world")] {
            network.serve(place, name);
        }
        Some(network)
    }

    fn name(&self, place: &str) -> String {
        format!("{}{place}", self.prefix)
    }

    fn ip(&self, place: &str, rest: &str) {
        command(&format!("ip -n {} {rest}", self.name(place)));
    }

    /// Runs something in a place, on a thread of its own.
    pub fn at<T: Send + 'static>(
        &self,
        place: &str,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> std::thread::JoinHandle<T> {
        let path = format!("/run/netns/{}", self.name(place));
        std::thread::spawn(move || {
            let namespace = File::open(&path).expect("a namespace");
            move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("to enter it");
            work()
        })
    }

    /// What `nft` prints in the node.
    pub fn nft(&self, args: &str) -> String {
        let args: Vec<_> = args.split(' ').map(str::to_owned).collect();
        let output = self.at("node", || Command::new("nft").args(args).output().expect("nft runs"));
        let output = output.join().expect("an answer");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Answers each connection and each datagram at port 8080 with `name sees ADDRESS`.
    fn serve(&self, place: &str, name: &'static str) {
        let opened = self.at(place, || {
            (
                TcpListener::bind("0.0.0.0:8080").expect("a port"),
                UdpSocket::bind("0.0.0.0:8080").expect("a port"),
            )
        });
        let (tcp, udp) = opened.join().expect("sockets");
        std::thread::spawn(move || {
            for stream in tcp.incoming().flatten() {
                let (mut stream, peer) = (&stream, stream.peer_addr());
                if let Ok(peer) = peer {
                    let _ = stream.write_all(format!("{name} sees {}", peer.ip()).as_bytes());
                }
            }
        });
        std::thread::spawn(move || {
            let mut buffer = [0; 64];
            while let Ok((_, peer)) = udp.recv_from(&mut buffer) {
                let _ = udp.send_to(format!("{name} sees {}", peer.ip()).as_bytes(), peer);
            }
        });
    }

    /// What a TCP server there answers to a client here; the error's kind if nobody does.
    pub fn tcp(&self, from: &str, to: &str) -> String {
        let to: SocketAddr = to.parse().expect("address:port");
        let answer = self.at(from, move || {
            let mut stream = TcpStream::connect_timeout(&to, Duration::from_millis(700))?;
            stream.set_read_timeout(Some(Duration::from_secs(2)))?;
            let mut text = String::new();
            stream.read_to_string(&mut text)?;
            Ok(text)
        });
        answer.join().expect("an answer").unwrap_or_else(|e: std::io::Error| format!("{:?}", e.kind()))
    }

    /// As `tcp`, with datagrams.
    pub fn udp(&self, from: &str, to: &str) -> String {
        let socket = self.udp_socket(from);
        ask(&socket, to)
    }

    /// A socket that keeps its port, and with it its flow.
    pub fn udp_socket(&self, from: &str) -> UdpSocket {
        let socket = self.at(from, || UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).expect("a port"));
        socket.join().expect("a socket")
    }

    /// Waits until something becomes true; gives up after some seconds.
    pub fn wait_for(&self, what: &str, mut found: impl FnMut() -> bool) {
        let end = Instant::now() + Duration::from_secs(20);
        while !found() {
            assert!(Instant::now() < end, "{what} never came true; rules:\n{}", self.nft("list ruleset"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// One question over an open socket.
pub fn ask(socket: &UdpSocket, to: &str) -> String {
    let talk = || {
        let to: SocketAddr = to.parse().expect("address:port");
        socket.set_read_timeout(Some(Duration::from_millis(700)))?;
        socket.connect(to)?;
        socket.send(b"?")?;
        let mut buffer = [0; 64];
        let length = socket.recv(&mut buffer)?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    talk().unwrap_or_else(|e: std::io::Error| format!("{:?}", e.kind()))
}

pub fn node_ip() -> IpAddr {
    NODE.parse().expect("an address")
}

const PLACES: [&str; 4] = ["node", "world", "a", "b"];

impl Drop for Network {
    fn drop(&mut self) {
        for place in PLACES {
            let _ = Command::new("ip").args(["netns", "del", &self.name(place)]).output();
        }
    }
}
