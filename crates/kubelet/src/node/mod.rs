//! The Node object: registration, heartbeat, status, and the pod network's configuration.

pub mod facts;
mod lease;
pub mod status;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use client::{EventType, Select};
use k8s_openapi::api::core::v1::{ContainerImage, Node, NodeSpec, NodeStatus, ObjectReference, Taint};
use kube::Api;
use kube::api::{ObjectMeta, Patch, PatchParams, PostParams};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::actual::Phase;
use crate::desired::Directory;
use crate::pod::PodExt;
use crate::reconcilers::eviction::{self, Pressure};
use crate::reconcilers::status::Verdict;
use crate::shared::{Shared, now};

/// How often the machine is looked at.
const LOOK: Duration = Duration::from_secs(10);
/// How often the runtime is asked while the node is not ready.
const LOOK_UNREADY: Duration = Duration::from_millis(200);
/// How often the image list is read.
const IMAGES: Duration = Duration::from_secs(60);
/// A pressure stays reported this long after it ended (upstream's transition period).
const PRESSURE_HOLD: Duration = Duration::from_secs(300);
const RETRY: Duration = Duration::from_millis(200);
const LONGEST_RETRY: Duration = Duration::from_secs(7);

/// Keeps the node's part of the API until stopped.
pub async fn run(
    shared: Arc<Shared>,
    directory: Directory,
    runtime: String,
    mut port: watch::Receiver<i32>,
    stop: CancellationToken,
) {
    let leaser = {
        let (shared, stop) = (shared.clone(), stop.clone());
        tokio::spawn(async move { lease::run(shared.client.clone(), &shared.config, stop).await })
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = keep(&shared, &directory, &runtime, &mut port) => {}
    }
    let _ = leaser.await;
}

struct Keeper<'a> {
    shared: &'a Shared,
    api: Api<Node>,
    info: k8s_openapi::api::core::v1::NodeSystemInfo,
    images: Vec<ContainerImage>,
    images_at: Option<tokio::time::Instant>,
    pressure: Pressure,
    pressure_until: [Option<tokio::time::Instant>; 3],
    written: Option<NodeStatus>,
    written_at: Option<tokio::time::Instant>,
    cni: Vec<ipnet::IpNet>,
}

async fn keep(shared: &Arc<Shared>, directory: &Directory, runtime: &str, port: &mut watch::Receiver<i32>) {
    let mut keeper = Keeper {
        shared,
        api: Api::all(shared.client.clone()),
        info: facts::system_info(runtime),
        images: Vec::new(),
        images_at: None,
        pressure: Pressure::default(),
        pressure_until: [None; 3],
        written: None,
        written_at: None,
        cni: Vec::new(),
    };
    let cache = shared
        .informers
        .cache_with::<Node>(Select::fields(format!("metadata.name={}", shared.config.node_name)));
    let mut changes = cache.changes();
    let about = node_reference(&shared.config.node_name);
    shared.recorder.event(&about, EventType::Normal, "Starting", "Starting kubelet.");
    let mut wait = RETRY;
    loop {
        let known = cache.list().into_iter().next();
        let port_now = *port.borrow();
        let outcome = keeper.step(known.as_deref(), cache.is_synced(), port_now, directory).await;
        let pause = match outcome {
            Ok(true) => {
                wait = RETRY;
                LOOK
            }
            Ok(false) => LOOK_UNREADY,
            Err(error) => {
                tracing::debug!(error = %error, "node not written");
                wait = (wait * 2).min(LONGEST_RETRY);
                wait
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            _ = changes.next() => {}
            Ok(()) = port.changed() => {}
        }
    }
}

/// The node as events name it: by its name, also in place of its UID, as upstream's kubelet does.
pub fn node_reference(name: &str) -> ObjectReference {
    ObjectReference {
        kind: Some("Node".into()),
        name: Some(name.to_owned()),
        uid: Some(name.to_owned()),
        ..Default::default()
    }
}

impl Keeper<'_> {
    /// Brings the API in line; answers whether the node is ready.
    async fn step(
        &mut self,
        known: Option<&Node>,
        synced: bool,
        port: i32,
        directory: &Directory,
    ) -> Result<bool, kube::Error> {
        let problems = self.problems().await;
        let ready = problems.is_empty();
        self.refresh_images(ready).await;
        self.measure(directory);
        let Some(node) = known else {
            if !synced {
                return Ok(false);
            }
            if self.shared.config.register_node {
                self.register(self.seen(port, problems)).await?;
            }
            return Ok(false);
        };
        self.keep_labels(node).await?;
        self.configure_network(node);
        let none = NodeStatus::default();
        let mut before = node.status.clone().unwrap_or_default();
        if let Some(written) = &self.written {
            // Conditions that were written last are newer than the watch.
            before.conditions.clone_from(&written.conditions);
        }
        let seen = self.seen(port, problems);
        let status = status::generate(&seen, &before);
        let due = self.written_at.is_none_or(|at| at.elapsed() >= self.shared.config.status_report);
        let stale = status::differs(node.status.as_ref().unwrap_or(&none), &status)
            && self.written.as_ref().is_none_or(|written| {
                status::differs(written, &status)
                    || self.written_at.is_none_or(|at| at.elapsed() > Duration::from_secs(2))
            });
        if due || stale {
            self.write(&status).await?;
            self.announce(&before, Some(&status));
            self.written = Some(status);
            self.written_at = Some(tokio::time::Instant::now());
        }
        Ok(ready)
    }

    fn seen(&self, port: i32, problems: Vec<String>) -> status::Seen {
        let config = &self.shared.config;
        status::Seen {
            name: config.node_name.clone(),
            addresses: self.shared.host_ips.clone(),
            capacity: facts::capacity(config),
            allocatable: self.shared.allocatable.clone(),
            info: self.info.clone(),
            port,
            images: self.images.clone(),
            pressure: self.pressure,
            problems,
            now: now(),
        }
    }

    /// Why the node cannot run pods, in upstream's words.
    async fn problems(&self) -> Vec<String> {
        let status = match self.shared.cri.status().await {
            Ok(status) => status,
            Err(error) => {
                tracing::debug!(error = %error, "runtime has no status");
                return vec!["container runtime is down".into()];
            }
        };
        let conditions = status.status.map(|status| status.conditions).unwrap_or_default();
        let mut problems = Vec::new();
        for (kind, words) in [
            ("RuntimeReady", "container runtime not ready"),
            ("NetworkReady", "container runtime network not ready"),
        ] {
            match conditions.iter().find(|condition| condition.r#type == kind) {
                Some(condition) if condition.status => {}
                Some(condition) => problems.push(format!(
                    "{words}: {kind}=false reason:{} message:{}",
                    condition.reason, condition.message
                )),
                None => problems.push(format!("{words}: condition {kind} is missing")),
            }
        }
        problems
    }

    async fn refresh_images(&mut self, runtime_up: bool) {
        if !runtime_up || self.images_at.is_some_and(|at| at.elapsed() < IMAGES) {
            return;
        }
        self.images_at = Some(tokio::time::Instant::now());
        let Ok(images) = self.shared.cri.list_images().await else { return };
        let mut list: Vec<ContainerImage> = images
            .into_iter()
            .map(|image| ContainerImage {
                names: Some(image.repo_digests.into_iter().chain(image.repo_tags).take(5).collect()),
                size_bytes: i64::try_from(image.size).ok(),
            })
            .collect();
        list.sort_by(|a, b| b.size_bytes.cmp(&a.size_bytes).then(a.names.cmp(&b.names)));
        list.truncate(status::MAX_IMAGES);
        self.images = list;
    }

    fn measure(&mut self, directory: &Directory) {
        let config = &self.shared.config;
        let found = eviction::pressure(&facts::readings(config), &config.eviction);
        if found.memory {
            self.evict(directory);
        }
        let clock = tokio::time::Instant::now();
        for (until, now_short) in self.pressure_until.iter_mut().zip([found.memory, found.disk, found.pid]) {
            if now_short {
                *until = Some(clock + PRESSURE_HOLD);
            }
        }
        let held = |index: usize| self.pressure_until[index].is_some_and(|until| until > clock);
        self.pressure = Pressure { memory: held(0), disk: held(1), pid: held(2) };
    }

    /// Ends the pod that uses most beyond what it asked for; one at a time, the next look sees what that gave back.
    fn evict(&self, directory: &Directory) {
        let views = directory.views();
        let candidates: Vec<_> = views
            .iter()
            .filter(|view| view.actual.containers.iter().any(|record| record.phase == Phase::Running))
            .filter_map(|view| {
                let pod = view.pod.as_ref()?;
                let memory = crate::server::stats::pod_memory(self.shared, pod);
                Some(eviction::Candidate { pod, memory })
            })
            .collect();
        let Some(pod) = eviction::victim(&candidates) else { return };
        let message = "The node was low on resource: memory. ".to_owned();
        tracing::warn!(pod = %pod.printed(), "evicted for lack of memory");
        let about = crate::reconcilers::container::pod_reference(pod);
        self.shared.recorder.event(&about, EventType::Warning, "Evicted", message.clone());
        directory.evict(pod.uid(), Verdict { reason: "Evicted".into(), message, disruption: true });
    }

    async fn register(&mut self, seen: status::Seen) -> Result<(), kube::Error> {
        let config = &self.shared.config;
        let mut labels = status::standard_labels(&config.node_name);
        labels.extend(config.node_labels.iter().cloned());
        let taints: Vec<Taint> = config
            .node_taints
            .iter()
            .map(|(key, value, effect)| Taint {
                key: key.clone(),
                value: Some(value.clone()).filter(|value| !value.is_empty()),
                effect: effect.clone(),
                time_added: None,
            })
            .collect();
        let node = Node {
            metadata: ObjectMeta {
                name: Some(config.node_name.clone()),
                labels: Some(labels),
                annotations: Some(
                    [(
                        "volumes.kubernetes.io/controller-managed-attach-detach".to_owned(),
                        "true".to_owned(),
                    )]
                    .into(),
                ),
                ..Default::default()
            },
            spec: Some(NodeSpec {
                taints: Some(taints).filter(|taints| !taints.is_empty()),
                provider_id: config.provider_id.clone(),
                ..Default::default()
            }),
            status: Some(status::generate(&seen, &NodeStatus::default())),
        };
        match self.api.create(&PostParams::default(), &node).await {
            Ok(_) => {
                tracing::info!(node = config.node_name, "node registered");
                self.announce(&NodeStatus::default(), node.status.as_ref());
            }
            Err(kube::Error::Api(error)) if error.code == 409 => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Tells of conditions that changed.
    fn announce(&self, before: &NodeStatus, after: Option<&NodeStatus>) {
        let name = &self.shared.config.node_name;
        let about = node_reference(name);
        for reason in after.map(|after| status::transitions(before, after)).unwrap_or_default() {
            tracing::info!(node = name, reason, "node status");
            let message = format!("Node {name} status is now: {reason}");
            self.shared.recorder.event(&about, EventType::Normal, reason, message);
        }
    }

    async fn keep_labels(&self, node: &Node) -> Result<(), kube::Error> {
        let wanted = status::standard_labels(&self.shared.config.node_name);
        let have = node.metadata.labels.as_ref();
        let missing: std::collections::BTreeMap<_, _> = wanted
            .into_iter()
            .filter(|(key, value)| have.and_then(|have| have.get(key)) != Some(value))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        let patch = serde_json::json!({"metadata": {"labels": missing}});
        self.api
            .patch(&self.shared.config.node_name, &PatchParams::default(), &Patch::Strategic(patch))
            .await
            .map(|_| ())
    }

    /// Writes the runtime's network configuration once the node has its range of addresses.
    fn configure_network(&mut self, node: &Node) {
        let Some(conf_dir) = &self.shared.config.cni_conf_dir else { return };
        let cidrs = status::pod_cidrs(node);
        if cidrs.is_empty() || cidrs == self.cni {
            return;
        }
        let config = &self.shared.config;
        let default_dir = std::path::PathBuf::from("/var/lib/cni/networks");
        let list = net::cni::conflist(&net::cni::Network {
            name: &config.cni_network,
            pod_cidrs: &cidrs,
            ipam_dir: config.cni_data_dir.as_ref().unwrap_or(&default_dir),
            mtu: config.pod_mtu,
            host_ports: config.cni_bin_dir.join("portmap").exists(),
        });
        match net::cni::install(conf_dir, &list) {
            Ok(changed) => {
                if changed {
                    tracing::info!(cidrs = ?cidrs, "pod network configured");
                }
                self.cni = cidrs;
            }
            Err(error) => {
                tracing::warn!(path = %conf_dir.display(), error = %error, "pod network not configured")
            }
        }
    }

    async fn write(&self, status: &NodeStatus) -> Result<(), kube::Error> {
        let mut value = serde_json::to_value(status).map_err(kube::Error::SerdeError)?;
        // Addresses merge by type in a strategic patch: the list as a whole is ours.
        if let Some(addresses) = value.get_mut("addresses").and_then(|list| list.as_array_mut()) {
            addresses.push(serde_json::json!({"$patch": "replace"}));
        }
        let patch = serde_json::json!({"status": value});
        self.api
            .patch_status(&self.shared.config.node_name, &PatchParams::default(), &Patch::Strategic(patch))
            .await
            .map(|_| ())
    }
}

/// The node's addresses: as configured, else those of its default route.
pub async fn addresses(configured: Option<IpAddr>) -> Vec<IpAddr> {
    if let Some(ip) = configured {
        return vec![ip];
    }
    let found = net::host::addresses().await.unwrap_or_default();
    net::host::primary_address(&found, &net::host::routes()).into_iter().collect()
}
