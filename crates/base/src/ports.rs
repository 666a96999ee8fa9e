//! Ports for tests whose servers bind later, in a process of their own.
//!
//! A port that the kernel gave out and that was closed again may be given to the next who asks, or become the near
//! end of somebody's connection, before the server binds it. These ports lie below the kernel's ephemeral range, and
//! a name in the abstract socket space keeps other tests from choosing the same, for as long as this process lives.

use std::io;
use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixListener};
use std::sync::Mutex;

/// Below Linux' default ephemeral range (from 32768) and Kubernetes' node ports (from 30000).
const FIRST: u16 = 20_000;
const COUNT: u16 = 10_000;

/// The reservations of this process, which end with it.
static HELD: Mutex<Vec<UnixListener>> = Mutex::new(Vec::new());

/// A port that nobody listens on, and that no other caller of this, in any process of this network namespace, gets
/// while this process lives.
pub fn free_port() -> io::Result<u16> {
    // Tests that start together begin at different places.
    let start = std::process::id().wrapping_mul(97) % u32::from(COUNT);
    for step in 0..u32::from(COUNT) {
        let port = FIRST + u16::try_from((start + step) % u32::from(COUNT)).unwrap_or_default();
        if let Some(reservation) = reserve(port) {
            HELD.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(reservation);
            return Ok(port);
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "every port that tests may use is taken"))
}

/// The right to a port, unless somebody has it or listens there.
fn reserve(port: u16) -> Option<UnixListener> {
    let name = SocketAddr::from_abstract_name(format!("cox-test-port-{port}")).ok()?;
    let reservation = UnixListener::bind_addr(&name).ok()?;
    let any = (Ipv4Addr::UNSPECIFIED, port);
    (TcpListener::bind(any).is_ok() && UdpSocket::bind(any).is_ok()).then_some(reservation)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice() {
        let ports: Vec<u16> = (0..50).map(|_| free_port().expect("a port")).collect();
        let mut distinct = ports.clone();
        distinct.sort_unstable();
        distinct.dedup();
        assert_eq!(distinct.len(), ports.len(), "{ports:?}");
        assert!(ports.iter().all(|port| (FIRST..FIRST + COUNT).contains(port)));
    }

    #[test]
    fn a_port_in_use_is_not_given() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        assert!(reserve(listener.local_addr().expect("an address").port()).is_none());
    }
}
