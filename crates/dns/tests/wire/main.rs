//! The DNS server over real sockets: what clients read from the wire.

mod cluster;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::process::Stdio;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::RecordType;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use cluster::Cluster;

/// A DNS server on a port of its own.
struct Server {
    at: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Server {
    async fn start(cluster: &Cluster, change: impl FnOnce(&mut dns::Config)) -> Self {
        let mut config = dns::Config::new(vec![(Ipv4Addr::LOCALHOST, 0).into()]);
        config.resolv_conf = None;
        config.service_ips = vec![[10, 96, 0, 10].into()];
        config.networks = vec!["10.96.0.0/12".parse().expect("a network")];
        change(&mut config);
        let bound = dns::Bound::new(&config.listen).await.expect("a port");
        let (at, stop) = (bound.addresses()[0], CancellationToken::new());
        let serve = dns::serve(config, bound, cluster.client(), stop.clone());
        let task = tokio::spawn(async move { serve.await.expect("to serve") });
        Self { at, stop, task }
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.expect("a clean end");
    }

    async fn udp(&self, question: &Message) -> Message {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
        socket.connect(self.at).await.expect("a way");
        socket.send(&question.to_vec().expect("a message")).await.expect("to send");
        let mut buffer = vec![0; 65536];
        let length = tokio::time::timeout(Duration::from_secs(10), socket.recv(&mut buffer)).await;
        Message::from_vec(&buffer[..length.expect("an answer in time").expect("an answer")])
            .expect("a message")
    }

    async fn tcp(&self, question: &Message) -> Message {
        let mut stream = TcpStream::connect(self.at).await.expect("a connection");
        let bytes = question.to_vec().expect("a message");
        stream.write_u16(u16::try_from(bytes.len()).expect("short")).await.expect("to send");
        stream.write_all(&bytes).await.expect("to send");
        let length = stream.read_u16().await.expect("an answer");
        let mut buffer = vec![0; usize::from(length)];
        stream.read_exact(&mut buffer).await.expect("an answer");
        Message::from_vec(&buffer).expect("a message")
    }
}

fn question(name: &str, kind: RecordType) -> Message {
    let mut message = Message::new(4711, MessageType::Query, OpCode::Query);
    message.add_query(Query::query(name.parse().expect("a name"), kind));
    message.metadata.recursion_desired = true;
    message
}

fn data(message: &Message) -> Vec<String> {
    message.answers.iter().map(|r| r.data.to_string()).collect()
}

fn service(ip: &str) -> Value {
    json!({"metadata": {}, "spec": {"clusterIP": ip, "clusterIPs": [ip], "ports": [{"name": "http", "port": 80}]}})
}

fn pods(service: &str, count: usize) -> Value {
    let endpoints: Vec<_> =
        (0..count).map(|i| json!({"addresses": [format!("10.244.1.{}", i + 1)]})).collect();
    json!({"metadata": {"labels": {"kubernetes.io/service-name": service}}, "addressType": "IPv4",
        "endpoints": endpoints, "ports": [{"name": "http", "port": 8080}]})
}

fn shop() -> Cluster {
    let cluster = Cluster::default();
    cluster.put("namespaces", "", "shop", json!({"metadata": {}}));
    cluster.put("services", "shop", "web", service("10.96.0.7"));
    cluster.put("services", "shop", "many", service("None"));
    cluster.put("endpointslices", "shop", "many-1", pods("many", 100));
    cluster
}

const WEB: &str = "web.shop.svc.cluster.local.";
const MANY: &str = "many.shop.svc.cluster.local.";

#[tokio::test]
async fn answers_by_udp_and_tcp_and_follows_changes() {
    let cluster = shop();
    let server = Server::start(&cluster, |_| {}).await;
    for answer in
        [server.udp(&question(WEB, RecordType::A)).await, server.tcp(&question(WEB, RecordType::A)).await]
    {
        assert_eq!(data(&answer), ["10.96.0.7"]);
        assert_eq!(answer.metadata.id, 4711);
        assert!(answer.metadata.authoritative && answer.metadata.recursion_available);
        assert_eq!(answer.queries, question(WEB, RecordType::A).queries);
    }
    let answer = server.udp(&question("gone.shop.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    assert_eq!(answer.authorities.len(), 1);
    let answer = server.udp(&question(WEB, RecordType::AAAA)).await;
    assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 0));
    // Without resolvers of the host nobody knows other names.
    let answer = server.udp(&question("www.example.org.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);

    cluster.put("services", "shop", "web", service("10.96.0.9"));
    cluster.put("endpointslices", "shop", "many-1", pods("many", 1));
    cluster.delete("namespaces", "", "shop");
    let expected: [(&str, &[&str]); 3] =
        [(WEB, &["10.96.0.9"]), (MANY, &["10.244.1.1"]), ("1-2-3-4.shop.pod.cluster.local.", &[])];
    let changed = async {
        for (name, expected) in expected {
            while data(&server.udp(&question(name, RecordType::A)).await) != expected {
                tokio::task::yield_now().await;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), changed).await.expect("the changes in time");
    server.end().await;
}

#[tokio::test]
async fn answers_that_do_not_fit_are_cut_and_say_so() {
    let server = Server::start(&shop(), |_| {}).await;
    let plain = question(MANY, RecordType::A);
    let answer = server.udp(&plain).await;
    assert!(answer.metadata.truncation && answer.answers.len() < 100);
    assert!(answer.to_vec().expect("a message").len() <= 512);
    let answer = server.tcp(&plain).await;
    assert!(!answer.metadata.truncation && answer.answers.len() == 100);
    // A client that takes more gets more, up to what passes every network.
    let mut large = plain.clone();
    let mut edns = Edns::new();
    edns.set_max_payload(4096);
    large.set_edns(edns.clone());
    let answer = server.udp(&large).await;
    assert!(answer.metadata.truncation && answer.answers.len() > 50, "{}", answer.answers.len());
    assert!(answer.edns.is_some());
    edns.set_version(1);
    large.set_edns(edns);
    let answer = server.udp(&large).await;
    // The library reads this number as `BADSIG`, which it is in signed messages.
    assert_eq!(u16::from(answer.metadata.response_code), 16);
    // Clients that take the first address spread over all.
    let mut first = std::collections::BTreeSet::new();
    for _ in 0..20 {
        first.insert(data(&server.tcp(&plain).await).remove(0));
    }
    assert!(first.len() > 10, "{first:?}");
    server.end().await;
}

#[tokio::test]
async fn other_names_are_asked_of_the_hosts_resolvers() {
    // A second server of ours plays the resolver of the host, for a domain of its own, at an address of its own.
    let host = Cluster::default();
    host.put("namespaces", "", "ns", json!({"metadata": {}}));
    host.put("services", "ns", "www", service("192.0.2.80"));
    let Some(resolver) = resolver_at_port_53(&host).await else { return };
    let cluster = shop();
    let alias = |to: &str| json!({"metadata": {}, "spec": {"type": "ExternalName", "externalName": to}});
    cluster.put("services", "shop", "out", alias("www.ns.svc.host.test"));
    cluster.put("services", "shop", "lost", alias("gone.ns.svc.host.test"));
    cluster.put("services", "shop", "inside", alias("web.shop.svc.cluster.local"));
    cluster.put("services", "shop", "circle", alias("circle.shop.svc.cluster.local"));
    let file = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(
        file.path(),
        format!("search x\nnameserver 10.96.0.10\nnameserver {}\n", resolver.at.ip()),
    )
    .expect("to write");
    let server = Server::start(&cluster, |c| c.resolv_conf = Some(file.path().into())).await;

    for _ in 0..2 {
        let answer = server.udp(&question("www.ns.svc.host.test.", RecordType::A)).await;
        assert_eq!(data(&answer), ["192.0.2.80"]);
        assert!(!answer.metadata.authoritative);
        assert!(answer.answers[0].ttl <= 30);
    }
    let answer = server.tcp(&question("gone.ns.svc.host.test.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::NXDomain);
    let answer = server.udp(&question("www.ns.svc.host.test.", RecordType::AAAA)).await;
    assert_eq!((answer.metadata.response_code, answer.answers.len()), (ResponseCode::NoError, 0));
    assert_eq!(answer.authorities.len(), 1);

    let cases = [
        ("out", ResponseCode::NoError, vec!["www.ns.svc.host.test.", "192.0.2.80"]),
        ("lost", ResponseCode::NXDomain, vec!["gone.ns.svc.host.test."]),
        ("inside", ResponseCode::NoError, vec![WEB, "10.96.0.7"]),
    ];
    for (name, code, expected) in cases {
        let answer = server.udp(&question(&format!("{name}.shop.svc.cluster.local."), RecordType::A)).await;
        assert_eq!(
            (answer.metadata.response_code, data(&answer)),
            (code, expected.iter().map(|e| (*e).into()).collect())
        );
    }
    let answer = server.udp(&question("circle.shop.svc.cluster.local.", RecordType::A)).await;
    assert_eq!(answer.metadata.response_code, ResponseCode::ServFail);
    server.end().await;
    resolver.end().await;
}

/// Resolvers are asked at port 53, which only root may open.
async fn resolver_at_port_53(cluster: &Cluster) -> Option<Server> {
    // Any address of 127/8 is the machine's own: one that nobody else uses.
    let address =
        Ipv4Addr::new(127, 53, (std::process::id() >> 8 & 0xff) as u8, (std::process::id() & 0xff) as u8);
    if let Err(error) = UdpSocket::bind((address, 53)).await {
        eprintln!("skipped: cannot listen on port 53: {error}");
        return None;
    }
    let change = |config: &mut dns::Config| {
        config.listen = vec![(address, 53).into()];
        config.domain = "host.test".into();
    };
    Some(Server::start(cluster, change).await)
}

#[tokio::test]
async fn bytes_of_any_kind_get_an_error_or_nothing() {
    let server = Server::start(&shop(), |_| {}).await;
    let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("a port");
    socket.connect(server.at).await.expect("a way");
    let valid = question(WEB, RecordType::A).to_vec().expect("a message");
    // A simple generator: the same packets every time.
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..3000 {
        let mut packet = valid.clone();
        for _ in 0..=next() % 6 {
            let at = (next() as usize) % packet.len();
            packet[at] = next() as u8;
        }
        packet.truncate((next() as usize) % (packet.len() + 8));
        if round % 3 == 0 {
            packet = (0..next() % 300).map(|_| next() as u8).collect();
        }
        // The kernel may say no to a queue that is full.
        let _ = socket.send(&packet).await;
        if round % 50 == 0 {
            tokio::task::yield_now().await;
        }
    }
    let mut stream = TcpStream::connect(server.at).await.expect("a connection");
    stream.write_all(&[0xff; 70_000]).await.ok();
    drop(stream);
    // Other questions than those about names.
    let mut notify = question(WEB, RecordType::A);
    notify.metadata.op_code = OpCode::Notify;
    assert_eq!(server.udp(&notify).await.metadata.response_code, ResponseCode::NotImp);
    let transfer = question("cluster.local.", RecordType::AXFR);
    assert_eq!(server.tcp(&transfer).await.metadata.response_code, ResponseCode::Refused);
    assert_eq!(data(&server.udp(&question(WEB, RecordType::A)).await), ["10.96.0.7"]);
    server.end().await;
}

#[tokio::test]
async fn kube_dns_leads_here() {
    let cluster = Cluster::default();
    let client = cluster.client();
    let (node, service): (IpAddr, IpAddr) = ([192, 0, 2, 2].into(), [10, 96, 0, 10].into());
    dns::publish(&client, "node-1", node, 5300, service).await.expect("to publish");
    assert_eq!(
        cluster.writes(),
        ["POST namespaces/kube-system", "POST services/kube-dns", "POST endpointslices/kube-dns-node-1"]
    );
    let made = cluster.get("services", "kube-system", "kube-dns").expect("a Service");
    assert_eq!(made["spec"]["clusterIP"], "10.96.0.10");
    assert_eq!(made["metadata"]["labels"]["k8s-app"], "kube-dns");
    assert!(made["spec"].get("selector").is_none());
    let slice = cluster.get("endpointslices", "kube-system", "kube-dns-node-1").expect("an EndpointSlice");
    assert_eq!(slice["endpoints"][0]["addresses"], json!(["192.0.2.2"]));
    assert_eq!(slice["metadata"]["labels"]["endpointslice.kubernetes.io/managed-by"], "coxswain");

    // Again: nothing to write. Moved: only the slice is.
    dns::publish(&client, "node-1", node, 5300, service).await.expect("to publish");
    assert_eq!(cluster.writes(), Vec::<String>::new());
    dns::publish(&client, "node-1", node, 5301, service).await.expect("to publish");
    assert_eq!(cluster.writes(), ["PATCH endpointslices/kube-dns-node-1"]);
    // Somebody took the ports away and put a selector in.
    let mut odd = made;
    odd["spec"]["ports"] = json!([{"name": "dns", "port": 53, "protocol": "UDP"}]);
    odd["spec"]["selector"] = json!({"k8s-app": "kube-dns"});
    cluster.put("services", "kube-system", "kube-dns", odd);
    dns::publish(&client, "node-1", node, 5301, service).await.expect("to publish");
    assert_eq!(cluster.writes(), ["PATCH services/kube-dns"]);
    let found = cluster.get("services", "kube-system", "kube-dns").expect("a Service");
    assert_eq!(found["spec"]["ports"].as_array().map(Vec::len), Some(2));
    assert!(found["spec"].get("selector").is_none());
    // An address cannot be changed, only complained about.
    let error =
        dns::publish(&client, "node-1", node, 5301, [10, 96, 0, 11].into()).await.expect_err("a complaint");
    assert!(error.to_string().contains("has the cluster address 10.96.0.10, not 10.96.0.11"), "{error}");
}

#[tokio::test]
async fn a_port_in_use_and_a_strange_domain_are_errors() {
    let port = base::ports::free_port().expect("a port");
    let taken = UdpSocket::bind((Ipv4Addr::LOCALHOST, port)).await.expect("a port");
    let at = taken.local_addr().expect("an address");
    let Err(error) = dns::Bound::new(&[at]).await else { panic!("two on one port") };
    assert_eq!(error.to_string(), format!("cannot listen on {at} by UDP"));
    let mut config = dns::Config::new(vec![(Ipv4Addr::LOCALHOST, 0).into()]);
    config.domain = "a..b".into();
    let error = dns::run(config, shop().client(), CancellationToken::new()).await.expect_err("a complaint");
    assert_eq!(error.to_string(), "`a..b` is no domain name");
}

/// What people use: `dig`, and busybox' `nslookup`, which pods have.
#[tokio::test]
async fn real_clients_understand_the_answers() {
    let server = Server::start(&shop(), |_| {}).await;
    let (ip, port) = (server.at.ip().to_string(), server.at.port().to_string());
    let dig = ["dig", "+short", "-p", &port, &format!("@{ip}"), WEB, "A"].map(str::to_owned);
    let nslookup = ["busybox", "nslookup", WEB, &format!("{ip}:{port}")].map(str::to_owned);
    for line in [dig.to_vec(), nslookup.to_vec()] {
        let output =
            tokio::process::Command::new(&line[0]).args(&line[1..]).stdin(Stdio::null()).output().await;
        match output {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                eprintln!("skipped: no {} here", line[0])
            }
            Err(error) => panic!("{line:?}: {error}"),
            Ok(output) => {
                let text = String::from_utf8_lossy(&output.stdout).into_owned();
                assert!(text.contains("10.96.0.7"), "{line:?}: {text}");
            }
        }
    }
    server.end().await;
}
