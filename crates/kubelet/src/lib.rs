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
pub mod identity;
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
        Some(server) => Some(server::bind(server, config.serving_cert_dir.is_some(), &port_sender).await?),
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
            let serving = bound.serving();
            let kept = keep_serving(serving, shared.clone(), stop.clone());
            tokio::join!(server::run(bound, shared.clone(), directory.clone(), stop.clone()), kept);
        }
    };
    let noded = node::run(shared.clone(), directory.clone(), runtime_version, port, stop.clone());
    let housekept = housekeep(shared.clone(), directory.clone(), stop.clone());
    let poded = desired::run(shared.clone(), directory.clone(), relisted, stop.clone());
    tokio::join!(spawned(relister), served, spawned(housekept), spawned(noded), spawned(poded),);
    tracing::info!("kubelet stopped");
    Ok(())
}

/// Keeps the serving certificate that is asked of the API server fresh, where the configuration says so.
async fn keep_serving(serving: identity::serving::Serving, shared: Arc<Shared>, stop: CancellationToken) {
    let Some(directory) = shared.config.serving_cert_dir.clone() else { return };
    let (client, node) = (shared.client.clone(), shared.config.node_name.clone());
    let names = move || {
        let addresses = shared.host_ips.iter().map(|ip| pki::AlternativeName::Ip(*ip));
        pki::AlternativeName::parse(&shared.config.node_name).into_iter().chain(addresses).collect()
    };
    identity::serving::keep(serving, directory, client, node, names, stop).await;
}

/// How often logs are looked at, and how many such looks pass between two looks at the images.
const LOGS: std::time::Duration = std::time::Duration::from_secs(10);
const LOOKS_PER_IMAGES: u32 = 30;

/// Bounds what logs and images take of the disk, until stopped.
async fn housekeep(shared: Arc<Shared>, directory: desired::Directory, stop: CancellationToken) {
    let mut unused = reconcilers::image_gc::Unused::default();
    let mut looks: u32 = 0;
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(LOGS) => {}
        }
        reconcilers::log_rotation::rotate(&shared, &directory).await;
        looks = looks.wrapping_add(1);
        if looks.is_multiple_of(LOOKS_PER_IMAGES) {
            reconcilers::image_gc::collect(&shared, &mut unused).await;
        }
    }
}

/// A task of its own, so that the parts run side by side.
async fn spawned(work: impl Future<Output = ()> + Send + 'static) {
    if let Err(error) = tokio::spawn(work).await {
        tracing::error!(error = %error, "a part of the kubelet ended early");
    }
}
