//! The proxy's rules in a real kernel: what clients in other network namespaces see.

mod cluster;
mod network;

use std::collections::BTreeSet;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use serde_json::json;
use tokio_util::sync::CancellationToken;

use cluster::Cluster;
use network::{NODE, Network, POD_A, POD_B, WORLD, ask, node_ip};

/// A running proxy.
struct Proxy {
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

fn config() -> proxy::Config {
    proxy::Config {
        cluster_cidr: "10.244.0.0/16".parse().ok(),
        service_cidr: "10.96.0.0/12".parse().ok(),
        ..proxy::Config::new("node", vec![node_ip()])
    }
}

impl Proxy {
    fn start(network: &Network, cluster: &Cluster) -> Self {
        Self::with(network, cluster, config())
    }

    fn with(network: &Network, cluster: &Cluster, config: proxy::Config) -> Self {
        let stop = CancellationToken::new();
        let (token, cluster) = (stop.clone(), cluster.clone());
        let thread = network.at("node", move || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async { proxy::run(config, cluster.client(), token).await }).expect("to run");
        });
        Self { stop, thread: Some(thread) }
    }

    fn end(mut self) {
        self.stop.cancel();
        self.thread.take().expect("it runs").join().expect("a clean end");
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Every answer that comes within many tries.
fn all(mut ask: impl FnMut() -> String) -> BTreeSet<String> {
    (0..40).map(|_| ask()).collect()
}

fn set(texts: &[&str]) -> BTreeSet<String> {
    texts.iter().map(|t| (*t).to_owned()).collect()
}

const VIP: &str = "10.96.0.7:80";

#[test]
fn services_are_reached_by_every_way_in() {
    let Some(network) = Network::new() else { return };
    let cluster = Cluster::default();
    cluster.service(
        "web",
        "10.96.0.7",
        json!({"type": "NodePort", "externalIPs": ["203.0.113.9"], "ports": [
        {"name": "tcp", "port": 80, "protocol": "TCP", "nodePort": 30080},
        {"name": "udp", "port": 80, "protocol": "UDP", "nodePort": 30080}]}),
    );
    cluster.endpoints("web", &[POD_A, POD_B]);
    let proxy = Proxy::start(&network, &cluster);
    network.wait_for("the service", || network.tcp("a", VIP).contains("sees"));

    // Pods are seen as they are, and as the node where they would answer themselves.
    assert_eq!(all(|| network.tcp("a", VIP)), set(&["a sees 10.244.1.1", "b sees 10.244.1.3"]));
    assert_eq!(all(|| network.udp("b", VIP)), set(&["a sees 10.244.1.4", "b sees 10.244.1.1"]));
    // From the node itself, and from outside.
    let via_node = set(&["a sees 10.244.1.1", "b sees 10.244.1.1"]);
    for at in [VIP, "203.0.113.9:80", "192.0.2.2:30080"] {
        for from in ["node", "world"] {
            assert_eq!(all(|| network.tcp(from, at)), via_node, "from {from} to {at}");
            assert_eq!(all(|| network.udp(from, at)), via_node, "from {from} to {at} by UDP");
        }
    }
    assert!(network.tcp("a", "192.0.2.2:30080").contains("sees"));
    // Upstream's rule: loopback serves no node ports.
    assert_eq!(network.tcp("node", "127.0.0.1:30080"), "ConnectionRefused");

    // Other ports are rejected at once, other addresses not answered.
    for from in ["a", "node", "world"] {
        let begin = Instant::now();
        assert_eq!(network.tcp(from, "10.96.0.7:81"), "ConnectionRefused", "from {from}");
        assert!(begin.elapsed() < Duration::from_millis(500), "from {from}");
        assert_eq!(network.tcp(from, "10.96.0.99:80"), "TimedOut", "from {from}");
    }

    // Pods leave the cluster as the node, and meet each other as themselves.
    assert_eq!(network.tcp("a", &format!("{WORLD}:8080")), format!("world sees {NODE}"));
    assert_eq!(network.tcp("a", "198.51.100.7:8080"), format!("world sees {NODE}"));
    assert_eq!(network.udp("a", &format!("{WORLD}:8080")), format!("world sees {NODE}"));
    assert_eq!(network.tcp("a", &format!("{POD_B}:8080")), format!("b sees {POD_A}"));

    // A service that goes takes its rules along.
    cluster.delete("services", "web");
    network.wait_for("the end of the service", || network.tcp("a", VIP) == "TimedOut");
    assert!(!network.nft("list table ip cox-proxy").contains("web"));
    proxy.end();
}

#[test]
fn endpoints_come_and_go() {
    let Some(network) = Network::new() else { return };
    let cluster = Cluster::default();
    cluster.service(
        "web",
        "10.96.0.7",
        json!({"type": "NodePort", "ports": [
        {"name": "tcp", "port": 80, "protocol": "TCP", "nodePort": 30080},
        {"name": "udp", "port": 80, "protocol": "UDP", "nodePort": 30080}]}),
    );
    let proxy = Proxy::start(&network, &cluster);
    let places = ["a", "node", "world"];
    for from in places {
        network.wait_for("a refusal", || network.tcp(from, VIP) == "ConnectionRefused");
        assert_eq!(network.tcp(from, "192.0.2.2:30080"), "ConnectionRefused", "from {from}");
    }
    // Before there is an endpoint, a client already asks, from the port it keeps.
    let (client, outside) = (network.udp_socket("b"), network.udp_socket("world"));
    assert!(!ask(&client, VIP).contains("sees"));
    cluster.endpoints("web", &[POD_A]);
    network.wait_for("the first endpoint", || network.tcp("world", VIP).starts_with('a'));
    network.wait_for("the first endpoint by UDP", || ask(&client, VIP).starts_with("a sees"));
    network.wait_for("the first endpoint from outside", || {
        ask(&outside, "192.0.2.2:30080").starts_with("a sees")
    });
    // The other one takes over, for flows that are open too.
    cluster.endpoints("web", &[POD_B]);
    network.wait_for("the second endpoint", || network.tcp("world", VIP).starts_with('b'));
    network.wait_for("the second endpoint by UDP", || ask(&client, VIP).starts_with("b sees"));
    network.wait_for("the second endpoint from outside", || {
        ask(&outside, "192.0.2.2:30080").starts_with("b sees")
    });
    cluster.endpoints("web", &[]);
    for from in places {
        network.wait_for("a refusal", || network.tcp(from, VIP) == "ConnectionRefused");
    }
    proxy.end();
}

#[test]
fn a_client_stays_with_its_endpoint() {
    let Some(network) = Network::new() else { return };
    let cluster = Cluster::default();
    let sticky = |on: bool| {
        cluster.service("web", "10.96.0.7", json!({"type": "NodePort",
            "sessionAffinity": if on { "ClientIP" } else { "None" },
            "sessionAffinityConfig": if on { json!({"clientIP": {"timeoutSeconds": 3600}}) } else { json!(null) },
            "ports": [{"name": "tcp", "port": 80, "protocol": "TCP", "nodePort": 30080}]}));
    };
    sticky(true);
    cluster.endpoints("web", &[POD_A, POD_B]);
    let proxy = Proxy::start(&network, &cluster);
    network.wait_for("the service", || network.tcp("world", VIP).contains("sees"));
    let first = network.tcp("world", VIP);
    let same = set(&[&first]);
    assert_eq!(all(|| network.tcp("world", VIP)), same);
    assert_eq!(all(|| network.tcp("world", "192.0.2.2:30080")), same);

    // Not even a new proxy, which writes the whole table, makes a client move.
    proxy.end();
    let proxy = Proxy::start(&network, &cluster);
    cluster.service("other", "10.96.0.8", json!({}));
    cluster.endpoints("other", &[POD_A]);
    network.wait_for("the new proxy", || network.tcp("world", "10.96.0.8:80").contains("sees"));
    assert_eq!(all(|| network.tcp("world", VIP)), same);

    // Switched off and on while it runs.
    sticky(false);
    network.wait_for("both endpoints", || all(|| network.tcp("world", VIP)).len() == 2);
    sticky(true);
    network.wait_for("one endpoint", || all(|| network.tcp("world", VIP)).len() == 1);
    // Its endpoint goes: the client moves.
    let (here, other) = if network.tcp("world", VIP).starts_with('a') { ("a", POD_B) } else { ("b", POD_A) };
    cluster.endpoints("web", &[other]);
    network.wait_for("the other endpoint", || {
        let answer = network.tcp("world", VIP);
        answer.contains("sees") && !answer.starts_with(here)
    });
    proxy.end();
}

#[test]
fn the_table_is_ours_whatever_happens_to_it() {
    let Some(network) = Network::new() else { return };
    let cluster = Cluster::default();
    cluster.service("web", "10.96.0.7", json!({}));
    cluster.endpoints("web", &[POD_A]);
    // Somebody left something under our name, and something else under another.
    network.nft("add table ip cox-proxy");
    network.nft("add chain ip cox-proxy stale");
    network.nft("add table ip others");
    let often = proxy::Config { verify_period: Duration::from_millis(300), ..config() };
    let proxy = Proxy::with(&network, &cluster, often);
    network.wait_for("the service", || network.tcp("a", VIP).contains("sees"));
    assert!(!network.nft("list table ip cox-proxy").contains("stale"));

    // Somebody flushes all firewalls.
    for harm in ["flush ruleset", "flush chain ip cox-proxy services", "flush map ip cox-proxy service-ips"] {
        network.nft(harm);
        network.wait_for("the rules to be back", || network.tcp("a", VIP).contains("sees"));
    }
    network.nft("add table ip others");

    // The rules outlive the proxy, and go when asked.
    proxy.end();
    assert!(network.tcp("a", VIP).contains("sees"));
    let clean = || {
        let cleaned = network.at("node", || {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(proxy::cleanup("cox-proxy")).expect("to clean up")
        });
        cleaned.join().expect("an answer")
    };
    assert!(clean());
    assert!(!clean(), "nothing is left");
    assert_eq!(network.nft("list tables").trim(), "table ip others");
}

/// Bounds are ten times what an optimised build takes on a quiet machine.
#[test]
fn a_thousand_services_are_written_in_one_go() {
    let Some(network) = Network::new() else { return };
    let cluster = Cluster::default();
    for i in 0..1000 {
        let name = format!("s{i}");
        cluster.service(&name, &format!("10.97.{}.{}", i / 250, i % 250 + 1), json!({}));
        cluster.endpoints(&name, &[POD_A, POD_B]);
    }
    let begin = Instant::now();
    let proxy = Proxy::start(&network, &cluster);
    network.wait_for("the last service", || network.tcp("a", "10.97.3.250:80").contains("sees"));
    eprintln!("1000 services served {:?} after the start", begin.elapsed());
    cluster.service("one-more", "10.96.0.7", json!({}));
    network.wait_for("one more", || network.tcp("a", VIP) == "ConnectionRefused");
    let begin = Instant::now();
    cluster.endpoints("one-more", &[POD_B]);
    network.wait_for("its endpoint", || network.tcp("a", VIP).contains("sees"));
    let took = begin.elapsed();
    eprintln!("one endpoint more served after {took:?}");
    assert!(took < Duration::from_secs(3), "{took:?}");
    proxy.end();
}
