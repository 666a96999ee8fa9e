//! What all parts of one kubelet have in common: its settings, its connections, and facts of the node.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use client::{Cache, Informers, Recorder};
use cri::Cri;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Service;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use tokio::sync::Semaphore;

use crate::cgroups::Cgroups;
use crate::config::Config;
use crate::labels;
use crate::pod::PodExt;

/// Shared by the node's part, the pods' workers and the server; read-only but for the runtime's health.
pub struct Shared {
    /// The settings.
    pub config: Config,
    /// The API.
    pub client: kube::Client,
    /// Watches of the API.
    pub informers: Informers,
    /// All services, for containers' environments.
    pub services: Cache<Service>,
    /// The runtime.
    pub cri: Cri,
    /// The cgroup hierarchies.
    pub cgroups: Cgroups,
    /// Tells users what happens.
    pub recorder: Recorder,
    /// The node's addresses, the primary one first.
    pub host_ips: Vec<IpAddr>,
    /// The node's memory in bytes.
    pub memory: u64,
    /// What the node gives to pods.
    pub allocatable: BTreeMap<String, Quantity>,
    /// Bounds how many images are pulled at once.
    pub pulls: Semaphore,
    /// Whether the runtime answered the last time it was asked.
    pub runtime_up: AtomicBool,
    /// The adjustment below which this process may not go; containers' scores are raised to it.
    pub lowest_oom_score: i64,
}

impl Shared {
    /// Directory of a pod's files.
    pub fn pod_dir(&self, uid: &str) -> PathBuf {
        self.config.root_dir.join("pods").join(uid)
    }

    /// Directory of a pod's logs.
    pub fn log_dir(&self, namespace: &str, name: &str, uid: &str) -> PathBuf {
        labels::pod_log_dir(&self.config.pod_logs_dir, namespace, name, uid)
    }

    /// The pod's cgroup.
    pub fn cgroup(&self, pod: &k8s_openapi::api::core::v1::Pod) -> String {
        self.cgroups.pod(pod.uid(), pod.qos_class())
    }

    /// Whether the runtime answered the last time it was asked.
    pub fn runtime_is_up(&self) -> bool {
        self.runtime_up.load(Ordering::Relaxed)
    }

    /// The services, once they are known; static pods do not wait for an API that they may be serving.
    pub async fn known_services(&self, wait: bool) -> Vec<std::sync::Arc<Service>> {
        if wait {
            let _ = tokio::time::timeout(Duration::from_secs(5), self.services.synced()).await;
        }
        self.services.list()
    }
}

/// The time now.
pub fn now() -> Timestamp {
    Timestamp::now()
}
