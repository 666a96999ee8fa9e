//! Hosts on one machine: each has network, mount, process and cgroup namespaces of its own, so that it has its own
//! address and its own `/etc`, `/var`, `/run` and containers, and every part uses its usual paths.
//!
//! Read [`LocalHosts`] first: the wire between the hosts, and the hosts on it. A host is one process, its init
//! ([`run_init`]), with everything that it started; it does what [`LocalHost`] asks over a socket. Killing it is a
//! crash of that host; starting it again is a reboot, with everything on its disk still there.
//! What it is not: no isolation from root. A host shares the machine's kernel, clock and programs.

mod agent;
mod files;
mod host;
mod init;
mod mounts;
mod services;
mod switch;

pub use host::{LocalHost, LocalHosts};
pub use init::{InitSpec, run_init};
pub use switch::{SwitchError, free_network};
