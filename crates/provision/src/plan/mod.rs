//! What every host of a cluster shall have: files, programs, services. Pure: nothing here touches a host.
//!
//! Read [`HostPlan`] first; [`plan`] makes one for each host of a [`ClusterSpec`](crate::spec::ClusterSpec), out of the
//! keys and certificates of a [`Trust`]. Who carries a plan out (over ssh, or in namespaces of this machine) goes by [`Stage`]: all
//! hosts' services of one stage are started together and waited for before those of the next, for the members of an
//! etcd cluster become ready only together.

mod balancer;
mod build;
mod control_plane;
mod etcd;
mod flags;
mod joining;
mod manifests;
mod node;
mod paths;
mod secret;
mod service;
mod trust;
mod unit;

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

pub use balancer::{haproxy_config, nginx_config};
pub use build::{HostTraits, PlanOptions, plan, plan_joining};
pub use etcd::{client_url as etcd_client_url, peer_url as etcd_peer_url};
pub use joining::{
    ACCOUNTS, CONFIG, CONFIG_KEY, DNS_LABEL, JoinSecrets, account_secret, joining, shared_spec, spec_with,
};
pub use manifests::{Manifest, manifests};
pub use paths::{HostPaths, Programs};
pub use secret::Secret;
pub use service::{PlannedService, Ready, ServiceType, Stage, StopWith};
pub use trust::{Trust, TrustError, pki_spec};
pub use unit::{restart_needed, unit_path, unit_text};

/// What one host shall have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPlan {
    /// The host's name in `cluster.yaml`, and that of its Node object if it is a worker.
    pub host: String,
    /// Where others reach it.
    pub address: IpAddr,
    /// Directories, parents first.
    pub directories: Vec<PlannedDirectory>,
    /// Files, sorted by path; unit files are not among them, for they are made from [`Self::services`].
    pub files: Vec<PlannedFile>,
    /// Services in the order in which they start.
    pub services: Vec<PlannedService>,
    /// Debian packages. They must not start services of their own while they are installed.
    pub packages: Vec<String>,
    /// Programs that are ours to bring.
    pub binaries: Vec<PlannedBinary>,
    /// Kernel modules to load.
    pub modules: Vec<String>,
    /// Kernel settings, as `sysctl` names them.
    pub sysctls: BTreeMap<String, String>,
    /// The container runtime that shall hold the system images, once it answers.
    pub runtime: Option<PlannedRuntime>,
}

impl HostPlan {
    /// The file that is planned at a path.
    pub fn file(&self, path: &Path) -> Option<&PlannedFile> {
        self.files.iter().find(|f| f.path == path)
    }

    /// The service of a name.
    pub fn service(&self, name: &str) -> Option<&PlannedService> {
        self.services.iter().find(|s| s.name == name)
    }
}

/// A directory on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedDirectory {
    /// Where; absolute.
    pub path: PathBuf,
    /// Its mode.
    pub mode: u32,
}

/// A file on a host; its owner is root.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedFile {
    /// Where; absolute.
    pub path: PathBuf,
    /// Its mode; never more than 0600 for a secret.
    pub mode: u32,
    /// What it holds.
    pub content: Content,
}

/// What a file holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// What everybody may see.
    Text(String),
    /// A key, or something that has one inside.
    Secret(Secret),
}

impl Content {
    /// The bytes, for who writes them to the host.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Secret(secret) => secret.expose().as_bytes(),
        }
    }

    /// Whether it may be seen by its owner alone.
    pub fn is_secret(&self) -> bool {
        matches!(self, Self::Secret(_))
    }
}

/// A program on a host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedBinary {
    /// Where; absolute.
    pub path: PathBuf,
    /// What is there.
    pub source: BinarySource,
}

/// Where a program comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BinarySource {
    /// The `cox` that carries the plan out, mode 0755.
    Cox,
    /// A symbolic link to this path.
    LinkTo(PathBuf),
}

/// A container runtime and what it shall hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedRuntime {
    /// Its socket.
    pub socket: PathBuf,
    /// The image that holds a pod's namespaces, which is imported rather than pulled.
    pub sandbox_image: String,
    /// How it stacks image layers.
    pub snapshotter: String,
}
