//! Brings a cluster up with the real binary and drives it with the real `kubectl`.
//!
//! Read [`Cluster`] first, and [`ApiServer`] for parts that run alone. Nothing here sleeps until it probably works: [`eventually`] asks until a deadline.
mod api_server;
mod cluster;
mod kubectl;
mod leftovers;
pub mod machines;
mod request;
mod traffic;

pub use api_server::{ApiServer, Part};
pub use base::ports::free_port;
pub use cluster::{Cluster, roomy_directory};
pub use kubectl::{Answer, Kubectl, at_once, eventually, run};
pub use leftovers::Leftovers;
pub use request::{Credentials, Request};
pub use traffic::{Seen, Traffic};

/// The binary under test: `COX_BIN`, else the one that was built with this test.
pub fn binary() -> std::path::PathBuf {
    if let Some(path) = std::env::var_os("COX_BIN") {
        return path.into();
    }
    // target/PROFILE/deps/TEST-HASH
    let own = std::env::current_exe().unwrap_or_default();
    own.ancestors().nth(2).map(|dir| dir.join("cox")).unwrap_or_default()
}

/// Whether this process may do everything; says loudly what is not tested where it may not.
pub fn is_root(what: &str) -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        println!("SKIPPED: {what} needs root; nothing was tested");
    }
    root
}
