//! Clients and backends: who gets which, and the bytes between them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::Config;
use crate::check::Probe;
use crate::health::{Health, Outcome, State, order};

/// Bytes on their way, for each direction of a connection.
const BUFFER: usize = 16 << 10;
/// How long a silent connection is left alone before the other end is asked whether it is still there.
const IDLE: Duration = Duration::from_secs(30);

struct Backend {
    address: SocketAddr,
    health: Mutex<Health>,
    clients: AtomicUsize,
    /// Fires when its clients have to go.
    cut: Mutex<CancellationToken>,
    /// Asks for a check now.
    doubt: Notify,
}

impl Backend {
    fn state(&self) -> State {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).state()
    }

    fn observe(&self, outcome: Outcome) -> bool {
        self.health.lock().unwrap_or_else(PoisonError::into_inner).observe(outcome)
    }

    fn token(&self) -> CancellationToken {
        self.cut.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Sends away the clients it has; those that come later are not concerned.
    fn send_away(&self) {
        let mut cut = self.cut.lock().unwrap_or_else(PoisonError::into_inner);
        std::mem::take(&mut *cut).cancel();
    }
}

/// All backends.
pub(crate) struct Backends {
    all: Vec<Backend>,
    turn: AtomicUsize,
    connect_patience: Duration,
}

impl Backends {
    pub(crate) fn new(config: &Config) -> Self {
        let backend = |address: &SocketAddr| Backend {
            address: *address,
            health: Mutex::default(),
            clients: AtomicUsize::new(0),
            cut: Mutex::default(),
            doubt: Notify::new(),
        };
        Self {
            all: config.backends.iter().map(backend).collect(),
            turn: AtomicUsize::new(0),
            connect_patience: config.connect_patience,
        }
    }

    fn order(&self) -> Vec<usize> {
        let states: Vec<(State, usize)> =
            self.all.iter().map(|b| (b.state(), b.clients.load(Ordering::Relaxed))).collect();
        order(&states, self.turn.fetch_add(1, Ordering::Relaxed))
    }

    fn another_is_up(&self, than: usize) -> bool {
        self.all.iter().enumerate().any(|(i, b)| i != than && b.state() == State::Up)
    }
}

/// Asks one backend how it is, again and again, and acts on it.
pub(crate) async fn watch(
    backends: std::sync::Arc<Backends>,
    index: usize,
    mut probe: Probe,
    interval: Duration,
) {
    let backend = &backends.all[index];
    loop {
        let outcome = probe.ask().await;
        if backend.observe(outcome) {
            tracing::info!(backend = %backend.address, state = ?backend.state(), ?outcome, "a backend changed");
        }
        // Where nobody is better off elsewhere it may well be us who hear nothing.
        if backend.state() == State::Down
            && backend.clients.load(Ordering::Relaxed) > 0
            && backends.another_is_up(index)
        {
            tracing::info!(backend = %backend.address, "its clients are sent away");
            backend.send_away();
        }
        tokio::select! {
            () = tokio::time::sleep(interval) => {}
            () = backend.doubt.notified() => {}
        }
    }
}

/// One more client of a backend, as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(count: &'a AtomicUsize) -> Self {
        count.fetch_add(1, Ordering::Relaxed);
        Self(count)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Connects a client to a backend and passes bytes on until both are done, or the backend is gone.
pub(crate) async fn serve(mut client: TcpStream, backends: &Backends) {
    for index in backends.order() {
        let backend = &backends.all[index];
        let counted = Counted::new(&backend.clients);
        let cut = backend.token();
        let connected =
            tokio::time::timeout(backends.connect_patience, TcpStream::connect(backend.address)).await;
        let Ok(Ok(mut server)) = connected else {
            // Not judged here: a check does, now rather than later.
            backend.doubt.notify_one();
            continue;
        };
        settle(&client);
        settle(&server);
        tokio::select! {
            ended = copy_bidirectional_with_sizes(&mut client, &mut server, BUFFER, BUFFER) => {
                if let Err(error) = ended {
                    tracing::debug!(backend = %backend.address, %error, "a connection broke");
                    backend.doubt.notify_one();
                }
            }
            () = cut.cancelled() => {}
        }
        drop(counted);
        return;
    }
    tracing::debug!("no backend takes a client");
}

/// Small writes go out at once, and ends that vanished are noticed.
fn settle(stream: &TcpStream) {
    use rustix::net::sockopt;
    let set = || -> rustix::io::Result<()> {
        sockopt::set_tcp_nodelay(stream, true)?;
        sockopt::set_socket_keepalive(stream, true)?;
        sockopt::set_tcp_keepidle(stream, IDLE)?;
        sockopt::set_tcp_keepintvl(stream, IDLE / 3)?;
        sockopt::set_tcp_keepcnt(stream, 3)
    };
    if let Err(error) = set() {
        tracing::debug!(%error, "cannot set options of a connection");
    }
}
