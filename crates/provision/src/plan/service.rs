//! A service as data: who supervises it (systemd, or `cox` itself) is another's business.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// When in the life of a cluster a service starts. All hosts' services of a stage start together, and are ready
/// before those of the next start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Stage {
    /// Where objects are kept.
    Etcd,
    /// What serves them.
    ApiServer,
    /// What leads clients to a server that lives.
    Balancer,
    /// What decides.
    Controllers,
    /// What runs pods.
    Node,
}

impl Stage {
    /// All of them, first to last.
    pub const ALL: [Self; 5] = [Self::Etcd, Self::ApiServer, Self::Balancer, Self::Controllers, Self::Node];
}

/// How a service says that it has started.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ServiceType {
    /// Not at all.
    Simple,
    /// By systemd's protocol.
    Notify,
}

/// Which processes end with a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum StopWith {
    /// All that it started.
    All,
    /// Its main process alone: what it started (pods) runs on.
    MainProcess,
}

/// How to tell that a service works; asked on the host itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Ready {
    /// It runs: that is all one can tell.
    None,
    /// It takes connections.
    Tcp {
        /// On which address.
        address: IpAddr,
        /// On which port.
        port: u16,
    },
    /// It answers 200.
    Https {
        /// On which address; certificates are good for it.
        address: IpAddr,
        /// On which port.
        port: u16,
        /// For which path.
        path: String,
        /// Who signed its certificate: a file on the host.
        authority: PathBuf,
        /// What one proves oneself with: certificate and key, files on the host.
        client: Option<(PathBuf, PathBuf)>,
    },
    /// It answers 200 without TLS.
    Http {
        /// On which address.
        address: IpAddr,
        /// On which port.
        port: u16,
        /// For which path.
        path: String,
    },
    /// It takes connections at a Unix socket.
    Socket(PathBuf),
}

/// A service of a host.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedService {
    /// Name of the unit without `.service`.
    pub name: String,
    /// What it is, for people.
    pub description: String,
    /// When it starts.
    pub stage: Stage,
    /// Program (an absolute path) and arguments.
    pub exec: Vec<String>,
    /// How flags begin that matter at the first start alone: their change needs no restart.
    pub first_start: Vec<String>,
    /// Environment beyond what every service has. No secrets: everybody on the host can read them.
    pub environment: BTreeMap<String, String>,
    /// Units of the same host that start before it, without `.service`.
    pub after: Vec<String>,
    /// Planned files that it reads at its start alone: their change restarts it. Those that it follows by itself
    /// (certificates, the encryption configuration) are not among them.
    pub reads: Vec<PathBuf>,
    /// How to tell that it works.
    pub ready: Ready,
    /// How it says that it has started.
    pub kind: ServiceType,
    /// What ends with it.
    pub stop: StopWith,
    /// Whether it makes cgroups of its own.
    pub delegate: bool,
    /// How ready the kernel is to kill it where memory is short, -1000 (never) to 1000.
    pub oom_score_adjust: Option<i16>,
    /// Most files it may open.
    pub open_files: Option<u64>,
}

impl PlannedService {
    /// One with nothing special about it.
    pub fn new(name: &str, description: &str, stage: Stage, exec: Vec<String>) -> Self {
        Self {
            name: name.to_owned(),
            description: description.to_owned(),
            stage,
            exec,
            first_start: Vec::new(),
            environment: BTreeMap::new(),
            after: Vec::new(),
            reads: Vec::new(),
            ready: Ready::None,
            kind: ServiceType::Simple,
            stop: StopWith::All,
            delegate: false,
            oom_score_adjust: None,
            open_files: None,
        }
    }

    /// Whether the change of a planned file needs a restart.
    pub fn restarts_with(&self, path: &Path) -> bool {
        self.reads.iter().any(|r| r == path)
    }
}
