//! A balancer over real sockets: which backend a client gets, and what happens when one goes.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use balancer::{Balancer, Check, Config, Error, Trust};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);
const ANY: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 0);

/// A server that says its name, then repeats what it is told, and says `end` once the client is done.
struct Server {
    address: SocketAddr,
    stop: CancellationToken,
}

impl Server {
    async fn start(name: &'static str) -> Self {
        Self::start_at(name, ANY).await
    }

    async fn start_at(name: &'static str, address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let stop = CancellationToken::new();
        let token = stop.clone();
        tokio::spawn(token.clone().run_until_cancelled_owned(async move {
            loop {
                let (mut stream, _) = listener.accept().await.expect("a client");
                tokio::spawn(token.clone().run_until_cancelled_owned(async move {
                    stream.write_all(name.as_bytes()).await?;
                    let mut buffer = [0; 1024];
                    loop {
                        let n = stream.read(&mut buffer).await?;
                        if n == 0 {
                            break stream.write_all(b"end").await;
                        }
                        stream.write_all(&buffer[..n]).await?;
                    }
                }));
            }
        }));
        Self { address, stop }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

struct Running {
    address: SocketAddr,
    stop: CancellationToken,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn start(config: Config) -> Running {
    let balancer = Balancer::bind(config).await.expect("it listens");
    let (address, stop) = (balancer.address(), CancellationToken::new());
    tokio::spawn(balancer.run(stop.clone()));
    Running { address, stop }
}

fn quick(backends: Vec<SocketAddr>) -> Config {
    Config { interval: Duration::from_millis(20), ..Config::new(ANY, backends) }
}

/// A client, and which server it got; none if it was sent away.
async fn client(of: SocketAddr) -> Option<(TcpStream, String)> {
    let mut stream = TcpStream::connect(of).await.expect("the balancer listens");
    let mut name = [0; 1];
    let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut name)).await.expect("an answer");
    read.is_ok().then(|| (stream, String::from_utf8_lossy(&name).into_owned()))
}

async fn eventually<T>(mut ask: impl AsyncFnMut() -> Option<T>) -> T {
    let found = async {
        loop {
            if let Some(found) = ask().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.expect("in time")
}

#[tokio::test]
async fn clients_are_spread_and_none_is_lost_when_a_backend_goes() {
    let (a, b) = (Server::start("a").await, Server::start("b").await);
    let running = start(quick(vec![a.address, b.address])).await;
    let mut held = Vec::new();
    for _ in 0..6 {
        held.push(client(running.address).await.expect("a server"));
    }
    assert_eq!(held.iter().filter(|(_, name)| name == "a").count(), 3);

    drop(a);
    for _ in 0..20 {
        assert_eq!(client(running.address).await.expect("a server").1, "b");
    }
    // Those of the one that is left are not disturbed.
    let (stream, _) = held.iter_mut().find(|(_, name)| name == "b").expect("one of b");
    stream.write_all(b"still").await.expect("written");
    let mut back = [0; 5];
    stream.read_exact(&mut back).await.expect("repeated");
    assert_eq!(&back, b"still");
}

#[tokio::test]
async fn a_client_that_has_said_all_still_hears_the_rest() {
    let a = Server::start("a").await;
    let running = start(quick(vec![a.address])).await;
    let (mut stream, _) = client(running.address).await.expect("a server");
    stream.write_all(b"last words").await.expect("written");
    stream.shutdown().await.expect("half closed");
    let mut rest = String::new();
    tokio::time::timeout(PATIENCE, stream.read_to_string(&mut rest)).await.expect("in time").expect("read");
    assert_eq!(rest, "last wordsend");
}

#[tokio::test]
async fn a_backend_that_comes_back_gets_clients_again() {
    let (a, b) = (Server::start("a").await, Server::start("b").await);
    let running = start(quick(vec![a.address, b.address])).await;
    let at = a.address;
    drop(a);
    eventually(async || client(running.address).await.filter(|(_, name)| name == "b")).await;
    let _again = eventually(async || {
        // The port is free once the first one has let go of it.
        let free = TcpListener::bind(at).await.is_ok();
        if free { Some(Server::start_at("a", at).await) } else { None }
    })
    .await;
    eventually(async || client(running.address).await.filter(|(_, name)| name == "a")).await;
}

#[tokio::test]
async fn no_more_clients_than_allowed_are_let_in() {
    let a = Server::start("a").await;
    let running = start(Config { max_connections: 1, ..quick(vec![a.address]) }).await;
    let first = client(running.address).await.expect("a server");
    let mut second = TcpStream::connect(running.address).await.expect("the kernel's queue takes it");
    let mut name = [0; 1];
    let early = tokio::time::timeout(Duration::from_millis(100), second.read_exact(&mut name)).await;
    assert!(early.is_err(), "let in beside the first");
    drop(first);
    tokio::time::timeout(PATIENCE, second.read_exact(&mut name)).await.expect("in time").expect("let in");
}

/// An HTTPS server with what it says at `/readyz`; connections beyond HTTP are not its business. `None`: says nothing.
async fn api_server(
    certificate: &rcgen::CertifiedKey<rcgen::KeyPair>,
    says: watch::Receiver<Option<u16>>,
) -> SocketAddr {
    let key = certificate.signing_key.serialize_der().try_into().expect("a key");
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.cert.der().clone()], key)
        .expect("a certificate");
    let acceptor = TlsAcceptor::from(Arc::new(tls));
    let listener = TcpListener::bind(ANY).await.expect("a port");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.expect("a client");
            let (acceptor, mut says) = (acceptor.clone(), says.clone());
            tokio::spawn(async move {
                let mut stream = acceptor.accept(stream).await.ok()?;
                let mut buffer = [0; 4096];
                loop {
                    let n = stream.read(&mut buffer).await.ok().filter(|n| *n > 0)?;
                    let text = String::from_utf8_lossy(&buffer[..n]).into_owned();
                    assert!(text.starts_with("GET /readyz HTTP/1.1\r\n"), "{text}");
                    let status = says.wait_for(Option::is_some).await.ok()?.unwrap_or(500);
                    let answer = format!("HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok");
                    stream.write_all(answer.as_bytes()).await.ok()?;
                }
                #[allow(unreachable_code)]
                Some(())
            });
        }
    });
    address
}

/// The server that a TLS client gets, told by its certificate.
async fn whose(
    balancer: SocketAddr,
    names: &[(&str, &rcgen::CertifiedKey<rcgen::KeyPair>)],
) -> Option<String> {
    connect(balancer, names).await.map(|(name, _)| name)
}

async fn connect(
    balancer: SocketAddr,
    names: &[(&str, &rcgen::CertifiedKey<rcgen::KeyPair>)],
) -> Option<(String, tokio_rustls::client::TlsStream<TcpStream>)> {
    let mut roots = rustls::RootCertStore::empty();
    for (_, certificate) in names {
        roots.add(certificate.cert.der().clone()).expect("a root");
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(balancer).await.ok()?;
    let server = rustls_pki_types::ServerName::from(balancer.ip());
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = tokio::time::timeout(PATIENCE, connector.connect(server, stream)).await.ok()?.ok()?;
    let shown = stream.get_ref().1.peer_certificates()?.first()?.clone();
    let (name, _) = names.iter().find(|(_, c)| *c.cert.der() == shown)?;
    Some(((*name).to_owned(), stream))
}

fn certificate() -> rcgen::CertifiedKey<rcgen::KeyPair> {
    rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate")
}

#[tokio::test]
async fn an_api_server_that_is_not_ready_gets_no_new_clients() {
    let (one, two) = (certificate(), certificate());
    let (say_one, says_one) = watch::channel(Some(200));
    let (say_two, says_two) = watch::channel(Some(200));
    let backends = vec![api_server(&one, says_one).await, api_server(&two, says_two).await];
    let running = start(Config { check: Check::Readyz(Trust::Anyone), ..quick(backends) }).await;
    let names = [("one", &one), ("two", &two)];
    for (well, say) in [("two", &say_one), ("one", &say_two)] {
        say.send(Some(503)).expect("it listens");
        eventually(async || {
            for _ in 0..8 {
                if whose(running.address, &names).await.as_deref() != Some(well) {
                    return None;
                }
            }
            Some(())
        })
        .await;
        say.send(Some(200)).expect("it listens");
        eventually(async || whose(running.address, &names).await.filter(|name| name != well)).await;
    }
    // One that says nothing at all is left too.
    say_one.send(None).expect("it listens");
    eventually(async || {
        for _ in 0..8 {
            if whose(running.address, &names).await.as_deref() != Some("two") {
                return None;
            }
        }
        Some(())
    })
    .await;
}

#[tokio::test]
async fn clients_of_a_silent_backend_are_sent_away_once_another_is_well() {
    let (one, two) = (certificate(), certificate());
    let (say_one, says_one) = watch::channel(Some(200));
    let (say_two, says_two) = watch::channel(Some(503));
    let backends = vec![api_server(&one, says_one).await, api_server(&two, says_two).await];
    let config = Config {
        check: Check::Readyz(Trust::Authority([one.cert.pem(), two.cert.pem()].concat().into_bytes())),
        patience: Duration::from_millis(400),
        ..quick(backends)
    };
    let running = start(config).await;
    let (_, mut held) = eventually(async || connect(running.address, &[("one", &one)]).await).await;
    say_one.send(None).expect("it listens");
    let mut byte = [0; 1];
    let early = tokio::time::timeout(Duration::from_secs(2), held.read(&mut byte)).await;
    assert!(early.is_err(), "sent away with nowhere to go");
    say_two.send(Some(200)).expect("it listens");
    let read = tokio::time::timeout(PATIENCE, held.read(&mut byte)).await.expect("sent away");
    assert!(matches!(read, Ok(0) | Err(_)));
}

#[tokio::test]
async fn what_cannot_be_is_said() {
    assert!(matches!(Balancer::bind(Config::new(ANY, Vec::new())).await, Err(Error::NoBackend)));
    let a = Server::start("a").await;
    let taken = Balancer::bind(Config::new(a.address, vec![a.address])).await;
    assert!(matches!(taken, Err(Error::Listen { .. })));
    let rubbish = Check::Readyz(Trust::Authority(b"rubbish".to_vec()));
    let balancer =
        Balancer::bind(Config { check: rubbish, ..quick(vec![a.address]) }).await.expect("it listens");
    assert!(matches!(balancer.run(CancellationToken::new()).await, Err(Error::Trust(_))));
}
