//! The node agent: pods made real through a CRI runtime.
//!
//! `desired` knows what is wanted (pods bound to this node, static manifests) and gives each pod a `worker`; `actual`
//! reads what runs from the runtime; `plan` decides, purely; `reconcilers` act, each on one thing; `node` keeps the Node
//! object, its Lease and the pod network's configuration; `server` answers logs, exec and statistics. First type to
//! read: [`Config`]; then [`run`].
//!
//! Nothing about a pod is kept in files of our own: after a restart everything is read back from the runtime's labels
//! and the API, so that a restart disturbs nothing. It knows the API only through `kube::Client` and never any insides of
//! the API server.

mod actual;
mod amount;
mod backoff;
mod cgroups;
mod config;
mod desired;
mod dns;
mod env;
mod file_watch;
mod grpc_health;
mod http_get;
mod labels;
mod node;
mod objects;
mod plan;
mod pod;
mod reconcilers;
mod resources;
pub mod server;
mod shared;
mod text;
mod volumes;
mod worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::{Semaphore, mpsc, watch};
use tokio_util::sync::CancellationToken;

pub use config::{Config, EvictionThresholds, KUBELET_VERSION, ServerConfig};

use shared::Shared;

/// The scheme of container ids in the API; the one runtime family that is supported.
const RUNTIME_SCHEME: &str = "containerd";
/// How many images are pulled at once.
const PARALLEL_PULLS: usize = 4;

/// Why the kubelet could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The runtime's endpoint is no socket, or no CRI v1 runtime listens there.
    #[error("container runtime at {endpoint}: is containerd running?")]
    Runtime {
        /// The endpoint.
        endpoint: String,
        /// The cause.
        #[source]
        source: cri::Error,
    },
    /// The cgroup hierarchies could not be prepared.
    #[error("cannot prepare cgroups under {root}; does this process run as root?")]
    Cgroups {
        /// The configured root.
        root: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A directory could not be made.
    #[error("cannot make {path}")]
    Directory {
        /// The directory.
        path: String,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// The HTTPS server could not start.
    #[error("cannot start the kubelet's server")]
    Server(#[from] server::Error),
}

/// How long a runtime that is still starting is waited for.
const RUNTIME_START: std::time::Duration = std::time::Duration::from_secs(30);

async fn runtime(config: &Config) -> Result<(cri::Cri, String), Error> {
    let failed = |source| Error::Runtime { endpoint: config.cri_endpoint.clone(), source };
    let cri = cri::Cri::new(&config.cri_endpoint).map_err(failed)?;
    let until = tokio::time::Instant::now() + RUNTIME_START;
    loop {
        match cri.version().await {
            Ok(version) => {
                return Ok((cri, format!("{}://{}", version.runtime_name, version.runtime_version)));
            }
            Err(error) if error.is_unavailable() && tokio::time::Instant::now() < until => {
                tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            }
            Err(error) => return Err(failed(error)),
        }
    }
}

/// Runs the node agent until `stop`; running containers are left as they are, for the next one to adopt.
pub async fn run(config: Config, client: kube::Client, stop: CancellationToken) -> Result<(), Error> {
    for path in [config.root_dir.join("pods"), config.pod_logs_dir.clone()] {
        std::fs::create_dir_all(&path)
            .map_err(|source| Error::Directory { path: path.display().to_string(), source })?;
    }
    let cgroups_failed = |source| Error::Cgroups { root: config.cgroup_root.clone(), source };
    let cgroups = cgroups::Cgroups::detect(&config.cgroup_root).map_err(cgroups_failed)?;
    cgroups.prepare_node().map_err(cgroups_failed)?;
    let (port_sender, port) = watch::channel(0);
    let bound = match &config.server {
        Some(server) => Some(server::bind(server, &port_sender).await?),
        None => None,
    };
    let (cri, runtime_version) = runtime(&config).await?;
    let informers = ::client::Informers::new(client.clone());
    let shared = Arc::new(Shared {
        recorder: ::client::Recorder::new(client.clone(), "kubelet", &config.node_name),
        services: informers.cache(),
        informers,
        client,
        cri: cri.clone(),
        cgroups,
        host_ips: node::addresses(config.node_ip).await,
        memory: node::facts::total_memory(),
        allocatable: node::facts::allocatable(&config),
        pulls: Semaphore::new(PARALLEL_PULLS),
        runtime_up: AtomicBool::new(true),
        lowest_oom_score: node::facts::lowest_oom_score(),
        config,
    });
    tracing::info!(
        node = shared.config.node_name,
        runtime = runtime_version,
        version = KUBELET_VERSION,
        "kubelet started"
    );
    let directory = desired::Directory::default();
    let (relisted_sender, relisted) = mpsc::unbounded_channel();
    let relister = {
        let (up, pods) = (shared.clone(), directory.clone());
        actual::follow(
            cri,
            Arc::new(move |found| drop(relisted_sender.send(found))),
            Arc::new(move |healthy| {
                if up.runtime_up.swap(healthy, Ordering::Relaxed) != healthy {
                    tracing::info!(healthy, "container runtime");
                }
            }),
            Arc::new(move || !pods.is_empty()),
            stop.clone(),
        )
    };
    let served = async {
        if let Some(bound) = bound {
            server::run(bound, shared.clone(), directory.clone(), stop.clone()).await;
        }
    };
    let noded = node::run(shared.clone(), directory.clone(), runtime_version, port, stop.clone());
    let poded = desired::run(shared.clone(), directory.clone(), relisted, stop.clone());
    tokio::join!(spawned(relister), served, spawned(noded), spawned(poded),);
    tracing::info!("kubelet stopped");
    Ok(())
}

/// A task of its own, so that the parts run side by side.
async fn spawned(work: impl Future<Output = ()> + Send + 'static) {
    if let Err(error) = tokio::spawn(work).await {
        tracing::error!(error = %error, "a part of the kubelet ended early");
    }
}
