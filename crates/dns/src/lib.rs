//! Cluster DNS: records of services and pods, the rest forwarded.
//!
//! One task follows Services, EndpointSlices and Namespaces into an index; the server answers each question from it
//! with one look-up, and asks the host's resolvers for every other name. Read [`zone::Zone::answer`] first, then
//! [`records::Entry`]; [`run`] puts them together, and [`publish`] makes the `kube-dns` Service lead here.
//! What it is not: no pod, no configuration file, no store of its own.

mod forward;
pub mod index;
mod publish;
pub mod records;
mod server;
pub mod zone;

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use client::{Changes, Informers, ObjectKey};
use hickory_proto::rr::Name;
use hickory_server::Server;
use ipnet::IpNet;
use k8s_openapi::api::{
    core::v1::{Namespace, Service},
    discovery::v1::EndpointSlice,
};
use kube::core::PartialObjectMeta;
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::sync::CancellationToken;

pub use publish::{PublishError, publish};

use crate::forward::Forwarder;
use crate::index::Index;
use crate::records::Entry;
use crate::server::Handler;
use crate::zone::Zone;

/// What a DNS server needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen, UDP and TCP. Answers leave from the address asked: name the node's, not `0.0.0.0`, so that
    /// what the service proxy rewrote finds back.
    pub listen: Vec<SocketAddr>,
    /// The cluster's domain.
    pub domain: String,
    /// The host's resolvers, in the form of `/etc/resolv.conf`; none: other names are not known.
    pub resolv_conf: Option<PathBuf>,
    /// The `kube-dns` Service's addresses: `ns.dns` leads there, and questions are never forwarded there.
    pub service_ips: Vec<IpAddr>,
    /// Networks of pods and Services, whose addresses nobody else can name.
    pub networks: Vec<IpNet>,
    /// Seconds for which answers may be kept.
    pub ttl: u32,
}

impl Config {
    /// The usual configuration: domain `cluster.local`, the host's `/etc/resolv.conf`.
    pub fn new(listen: Vec<SocketAddr>) -> Self {
        Self {
            listen,
            domain: "cluster.local".into(),
            resolv_conf: Some("/etc/resolv.conf".into()),
            service_ips: Vec::new(),
            networks: Vec::new(),
            ttl: 30,
        }
    }
}

/// Why a DNS server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The cluster's domain is no name.
    #[error("`{domain}` is no domain name")]
    Domain {
        /// What was given.
        domain: String,
        /// What is wrong with it.
        #[source]
        source: hickory_proto::ProtoError,
    },
    /// There is nowhere to listen.
    #[error("cannot listen on {address} by {protocol}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// UDP or TCP.
        protocol: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A socket broke.
    #[error("the DNS server's sockets failed")]
    Serve(#[source] hickory_server::net::NetError),
}

/// Sockets that are open, so that who starts the server knows its port and hears of a port in use at once.
pub struct Bound {
    sockets: Vec<(UdpSocket, TcpListener)>,
    addresses: Vec<SocketAddr>,
}

impl Bound {
    /// Opens them.
    pub async fn new(listen: &[SocketAddr]) -> Result<Self, Error> {
        let (mut sockets, mut addresses) = (Vec::new(), Vec::new());
        for address in listen {
            let failed = |protocol| move |source| Error::Listen { address: *address, protocol, source };
            let tcp = TcpListener::bind(address).await.map_err(failed("TCP"))?;
            // Port 0 becomes the same port for both.
            let bound = tcp.local_addr().map_err(failed("TCP"))?;
            let udp = UdpSocket::bind(bound).await.map_err(failed("UDP"))?;
            sockets.push((udp, tcp));
            addresses.push(bound);
        }
        Ok(Self { sockets, addresses })
    }

    /// Where they listen.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }
}

/// Answers questions until `stop`.
pub async fn run(config: Config, client: kube::Client, stop: CancellationToken) -> Result<(), Error> {
    let bound = Bound::new(&config.listen).await?;
    serve(config, bound, client, stop).await
}

/// Connections by TCP that send nothing are closed after this.
const TCP_IDLE: Duration = Duration::from_secs(10);
/// Answers that wait for one slow TCP client.
const TCP_BUFFER: usize = 32;

/// As [`run`], on sockets that are open.
///
/// Nothing is answered before the cluster's objects are known: a name that is only not known yet would be taken for
/// one that does not exist.
pub async fn serve(
    config: Config,
    bound: Bound,
    client: kube::Client,
    stop: CancellationToken,
) -> Result<(), Error> {
    let domain = domain(&config.domain)?;
    let mut followed = Followed::new(&Informers::new(client));
    tokio::select! {
        () = stop.cancelled() => return Ok(()),
        () = followed.synced() => {}
    }
    let index = Arc::new(RwLock::new(Index::new(domain)));
    followed.catch_up(&index);
    let own = bound.addresses.iter().map(SocketAddr::ip).chain(config.service_ips.iter().copied()).collect();
    let handler = Handler {
        index: index.clone(),
        zone: Zone { ttl: config.ttl, dns_ips: config.service_ips, networks: config.networks },
        forwarder: Forwarder::new(config.resolv_conf, own),
        turn: AtomicUsize::new(0),
    };
    let mut server = Server::new(handler);
    for (udp, tcp) in bound.sockets {
        server.register_socket(udp);
        server.register_listener(tcp, TCP_IDLE, TCP_BUFFER);
    }
    tracing::info!(addresses = ?bound.addresses, domain = config.domain, "answering DNS questions");
    let broken = tokio::select! {
        () = stop.cancelled() => None,
        () = followed.follow(&index) => None,
        broken = server.block_until_done() => Some(broken),
    };
    match broken {
        Some(result) => result.map_err(Error::Serve),
        None => server.shutdown_gracefully().await.map_err(Error::Serve),
    }
}

fn domain(text: &str) -> Result<Name, Error> {
    let mut name = Name::from_ascii(text)
        .map_err(|source| Error::Domain { domain: text.to_owned(), source })?
        .to_lowercase();
    name.set_fqdn(true);
    Ok(name)
}

/// What the records are made of, as changes.
struct Followed {
    services: Changes<Service>,
    slices: Changes<EndpointSlice>,
    namespaces: Changes<PartialObjectMeta<Namespace>>,
    by_service: client::Index<EndpointSlice>,
}

const SERVICE_NAME_LABEL: &str = "kubernetes.io/service-name";

fn service_of(slice: &EndpointSlice) -> Option<ObjectKey> {
    let name = slice.metadata.labels.as_ref()?.get(SERVICE_NAME_LABEL)?;
    Some(ObjectKey::new(slice.metadata.namespace.clone()?, name))
}

impl Followed {
    fn new(informers: &Informers) -> Self {
        let slices = informers.cache::<EndpointSlice>();
        Self {
            services: informers.cache().changes(),
            namespaces: informers.cache().changes(),
            by_service: slices.index(|s| service_of(s).map(|k| k.to_string()).into_iter().collect()),
            slices: slices.changes(),
        }
    }

    async fn synced(&self) {
        self.services.cache().synced().await;
        self.slices.cache().synced().await;
        self.namespaces.cache().synced().await;
    }

    /// Takes in what is there already.
    fn catch_up(&mut self, index: &RwLock<Index>) {
        while let Some(change) = self.services.try_next() {
            self.look_at(&change.key, index);
        }
        // The Services above were read with their slices; those that come late are changes like any other.
        while let Some(change) = self.namespaces.try_next() {
            write(index).set_namespace(&change.key.name, change.new.is_some());
        }
    }

    async fn follow(&mut self, index: &RwLock<Index>) {
        loop {
            tokio::select! {
                change = self.services.next() => self.look_at(&change.key, index),
                change = self.slices.next() => {
                    let (old, new) = (change.old.as_deref(), change.new.as_deref());
                    let (old, new) = (old.and_then(service_of), new.and_then(service_of));
                    for key in old.iter().filter(|o| new.as_ref() != Some(o)).chain(&new) {
                        self.look_at(key, index);
                    }
                }
                change = self.namespaces.next() => {
                    write(index).set_namespace(&change.key.name, change.new.is_some());
                }
            }
        }
    }

    fn look_at(&self, key: &ObjectKey, index: &RwLock<Index>) {
        let service = self.services.cache().get(key);
        // Only headless Services have names for their endpoints.
        let entry = service.and_then(|s| Entry::new(&s, &self.by_service.get(&key.to_string())));
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        // Serial numbers may wrap around.
        #[allow(clippy::cast_possible_truncation)]
        write(index).set_service(key, entry, now as u32);
    }
}

fn write(index: &RwLock<Index>) -> std::sync::RwLockWriteGuard<'_, Index> {
    index.write().unwrap_or_else(PoisonError::into_inner)
}
