//! A TCP balancer in front of several API servers: one address that works as long as one of them does.
//!
//! Every node runs one, so no address has to move between machines and nothing else has to be installed. It passes
//! bytes on and ends no TLS, so clients speak to the API servers themselves, with their certificates.
//!
//! Read [`Config`] first, then [`health::Health`], which says what an answer or a silence means; [`Balancer::run`] has
//! one task for each backend, which asks it how it is, and one for each connection. What it is not: it knows no
//! Kubernetes but the path `/readyz`, and it balances connections, not requests.

mod check;
pub mod health;
mod relay;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use check::{Following, Trust};

use crate::relay::Backends;

/// How a backend is asked whether it is well.
#[derive(Clone, Debug)]
pub enum Check {
    /// It is well if it takes connections.
    Connect,
    /// It is well if it says so at `/readyz`, over TLS.
    Readyz(Trust),
}

/// What a balancer needs to know.
#[derive(Clone, Debug)]
pub struct Config {
    /// Where clients connect.
    pub listen: SocketAddr,
    /// The servers behind it.
    pub backends: Vec<SocketAddr>,
    /// How backends are asked.
    pub check: Check,
    /// How often.
    pub interval: Duration,
    /// How long an answer may take.
    pub patience: Duration,
    /// How long it may take to connect a client to a backend before the next one is tried.
    pub connect_patience: Duration,
    /// Most clients at a time; others wait to be let in.
    pub max_connections: usize,
}

impl Config {
    /// The usual: a backend that is silent gets no new clients within a second.
    pub fn new(listen: SocketAddr, backends: Vec<SocketAddr>) -> Self {
        Self {
            listen,
            backends,
            check: Check::Connect,
            interval: Duration::from_millis(400),
            patience: Duration::from_millis(500),
            connect_patience: Duration::from_secs(1),
            max_connections: 4096,
        }
    }
}

/// Why a balancer cannot run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// There is nothing behind it.
    #[error("no backend is given")]
    NoBackend,
    /// Its address is taken or not of this host.
    #[error("cannot listen on {address}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The authority of the backends' certificates is no certificate.
    #[error("cannot use the backends' certificate authority: {0}")]
    Trust(String),
}

/// A balancer that listens.
#[derive(Debug)]
pub struct Balancer {
    config: Config,
    listener: TcpListener,
}

impl Balancer {
    /// Listens; clients wait until [`Self::run`].
    pub async fn bind(config: Config) -> Result<Self, Error> {
        if config.backends.is_empty() {
            return Err(Error::NoBackend);
        }
        let listener = TcpListener::bind(config.listen)
            .await
            .map_err(|source| Error::Listen { address: config.listen, source })?;
        Ok(Self { config, listener })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.listener.local_addr().unwrap_or(self.config.listen)
    }

    /// Serves until `stop`; connections end then too.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Error> {
        let Self { config, listener } = self;
        let backends = Arc::new(Backends::new(&config));
        let mut checks = JoinSet::new();
        for index in 0..config.backends.len() {
            let probe = check::Probe::new(config.backends[index], &config.check, config.patience)?;
            checks.spawn(relay::watch(backends.clone(), index, probe, config.interval));
        }
        let clients = Arc::new(Semaphore::new(config.max_connections));
        let mut relays = JoinSet::new();
        let mut complained = false;
        loop {
            let accepted = async {
                // Acquired before the client is taken: who is one too many waits in the kernel's queue.
                let permit = clients.clone().acquire_owned().await;
                (listener.accept().await, permit)
            };
            tokio::select! {
                () = stop.cancelled() => return Ok(()),
                Some(_) = relays.join_next(), if !relays.is_empty() => {}
                (accepted, permit) = accepted => match accepted {
                    Ok((client, _)) => {
                        complained = false;
                        let backends = backends.clone();
                        relays.spawn(async move {
                            let _permit = permit;
                            relay::serve(client, &backends).await;
                        });
                    }
                    Err(error) => {
                        if !complained {
                            tracing::warn!(%error, "cannot take a client in");
                            complained = true;
                        }
                        // Out of files, most likely: trying at once again would only burn the processor.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
            }
        }
    }
}
