//! A network that can be cut: a TCP proxy in front of a member.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, tcp};
use tokio::sync::watch;
use tokio::task::AbortHandle;

/// What the network does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Network {
    /// Passes everything.
    Whole,
    /// Resets connections, and new ones too.
    Refusing,
    /// Loses everything without a word.
    Silent,
}

/// A way to one member that can be cut.
pub struct Proxy {
    address: SocketAddr,
    state: watch::Sender<Network>,
    task: AbortHandle,
}

impl Proxy {
    /// A way to the member behind a port of this machine.
    pub async fn start(port: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let (state, seen) = watch::channel(Network::Whole);
        let task = tokio::spawn(async move {
            loop {
                let Ok((near, _)) = listener.accept().await else { return };
                if *seen.borrow() == Network::Refusing {
                    continue;
                }
                tokio::spawn(carry(near, port, seen.clone()));
            }
        });
        Self { address, state, task: task.abort_handle() }
    }

    /// The URL of the member, this way.
    pub fn endpoint(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes what the network does, for connections that are open too.
    pub fn set(&self, network: Network) {
        self.state.send_replace(network);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn carry(near: TcpStream, port: u16, seen: watch::Receiver<Network>) {
    let Ok(far) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let (near_in, near_out) = near.into_split();
    let (far_in, far_out) = far.into_split();
    tokio::join!(pass(near_in, far_out, seen.clone()), pass(far_in, near_out, seen));
}

async fn pass(mut from: tcp::OwnedReadHalf, mut to: tcp::OwnedWriteHalf, mut seen: watch::Receiver<Network>) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let network = *seen.borrow_and_update();
        match network {
            Network::Refusing => return,
            Network::Silent => {
                if seen.changed().await.is_err() {
                    return;
                }
            }
            Network::Whole => {
                tokio::select! {
                    changed = seen.changed() => if changed.is_err() { return },
                    read = from.read(&mut buffer) => match read {
                        Ok(0) | Err(_) => return,
                        Ok(count) => if to.write_all(&buffer[..count]).await.is_err() { return },
                    },
                }
            }
        }
    }
}
