//! The kubelet's HTTPS server: health, pods, logs, exec and its kin, statistics.
//!
//! Every request but `/healthz` is authenticated (client certificate or bearer token) and authorized by the API server.

pub mod attach;
pub mod auth;
pub mod exec;
mod log_lines;
pub mod logs;
pub mod port_forward;
pub mod run;
pub mod runtime_streaming;
pub mod stats;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http::{Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use k8s_openapi::api::core::v1::Pod;
use streaming::{Body, Limits, body};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::ServerConfig;
use crate::desired::Directory;
use crate::identity::serving::Serving;
use crate::pod::PodExt;
use crate::shared::Shared;
use crate::worker::View;

/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How many connections are served at once; more wait in the kernel's queue.
const CONNECTIONS: usize = 1024;

/// Why the server did not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The address is taken or not ours.
    #[error("cannot listen on {address}; is another kubelet running?")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The cause.
        #[source]
        source: std::io::Error,
    },
    /// A certificate, key or CA could not be used.
    #[error("cannot use {path} for the kubelet's server: {reason}")]
    Tls {
        /// The file.
        path: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A server that listens but does not answer yet.
pub struct Bound {
    listener: TcpListener,
    tls: auth::Handshakes,
    serving: Serving,
    config: ServerConfig,
}

impl Bound {
    /// Where handshakes get their certificate.
    pub(crate) fn serving(&self) -> Serving {
        self.serving.clone()
    }
}

/// Reads the certificates and takes the port; tells the port that was taken. Where the serving certificate is `asked`
/// for, its files are not read.
pub async fn bind(config: &ServerConfig, asked: bool, port: &watch::Sender<i32>) -> Result<Bound, Error> {
    let serving = if asked {
        Serving::asked()
    } else {
        Serving::files(config.cert_file.clone(), config.key_file.clone())
            .map_err(|e| Error::Tls { path: e.path.display().to_string(), reason: e.why })?
    };
    let tls = auth::Handshakes::new(config, serving.clone())?;
    let address = SocketAddr::new(config.address, config.port);
    let listener = TcpListener::bind(address).await.map_err(|source| Error::Listen { address, source })?;
    if let Ok(local) = listener.local_addr() {
        port.send_replace(i32::from(local.port()));
        tracing::info!(address = %local, "kubelet server listening");
    }
    Ok(Bound { listener, tls, serving, config: config.clone() })
}

/// What requests are answered from.
struct Server {
    shared: Arc<Shared>,
    directory: Directory,
    gate: auth::Gate,
    limits: Limits,
    stop: CancellationToken,
}

/// Serves until stopped.
pub async fn run(bound: Bound, shared: Arc<Shared>, directory: Directory, stop: CancellationToken) {
    let server = Arc::new(Server {
        gate: auth::Gate::new(shared.clone(), &bound.config),
        shared,
        directory,
        limits: Limits::default(),
        stop: stop.clone(),
    });
    let tracker = TaskTracker::new();
    let slots = Arc::new(tokio::sync::Semaphore::new(CONNECTIONS));
    loop {
        let Ok(slot) = slots.clone().acquire_owned().await else { return };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = bound.listener.accept() => accepted,
        };
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                // Out of files: the ones in use must end first.
                tracing::warn!(error = %error, "connection not accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let (tls, server) = (bound.tls.acceptor(), server.clone());
        tracker.spawn(async move {
            let _slot = slot;
            let Ok(Ok(stream)) = tokio::time::timeout(HANDSHAKE, tls.accept(stream)).await else { return };
            let peer = Arc::new(auth::peer(&stream));
            let stop = server.stop.clone();
            let service = hyper::service::service_fn(move |request| {
                let (server, peer) = (server.clone(), peer.clone());
                async move { Ok::<_, std::convert::Infallible>(server.answer(request, &peer).await) }
            });
            let builder = auto::Builder::new(TokioExecutor::new());
            let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
            tokio::pin!(connection);
            tokio::select! {
                _ = connection.as_mut() => {}
                () = stop.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    let _ = tokio::time::timeout(Duration::from_secs(1), connection).await;
                }
            }
        });
    }
    tracker.close();
    let _ = tokio::time::timeout(Duration::from_secs(2), tracker.wait()).await;
}

fn json(value: &impl serde::Serialize) -> Response<Body> {
    match serde_json::to_vec(value) {
        Ok(bytes) => {
            let mut response = Response::new(body::full(bytes));
            response
                .headers_mut()
                .insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
            response
        }
        Err(error) => body::text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn pod_list<'a>(pods: impl Iterator<Item = &'a Pod>) -> serde_json::Value {
    serde_json::json!({"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": pods.collect::<Vec<_>>()})
}

impl Server {
    async fn answer(&self, request: Request<Incoming>, peer: &auth::Peer) -> Response<Body> {
        let path = request.uri().path().to_owned();
        if path == "/healthz" || path == "/healthz/ping" {
            return match self.shared.runtime_is_up() {
                true => body::text(StatusCode::OK, "ok"),
                false => body::text(StatusCode::INTERNAL_SERVER_ERROR, "container runtime is down"),
            };
        }
        if let Err(refusal) = self.gate.admit(&request, peer).await {
            return refusal;
        }
        self.route(request, &path).await
    }

    async fn route(&self, request: Request<Incoming>, path: &str) -> Response<Body> {
        let not_found = || body::text(StatusCode::NOT_FOUND, "404 page not found");
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        let reading = matches!(*request.method(), Method::GET | Method::HEAD);
        match parts.as_slice() {
            ["pods"] if reading => {
                let views = self.directory.views();
                json(&pod_list(views.iter().filter_map(|view| view.pod.as_deref())))
            }
            ["runningpods"] if reading => {
                let views = self.directory.views();
                let running = views.iter().filter(|view| view.actual.running().next().is_some());
                json(&pod_list(running.filter_map(|view| view.pod.as_deref())))
            }
            ["configz"] if reading => json(&configz(&self.shared.config)),
            ["stats", "summary"] if reading => json(&stats::summary(&self.shared, &self.directory).await),
            ["metrics"] if reading => stats::metrics(&self.shared, &self.directory),
            ["metrics", "resource"] if reading => {
                stats::resource_metrics(&self.shared, &self.directory).await
            }
            ["metrics", "cadvisor" | "probes"] if reading => body::text(StatusCode::OK, ""),
            ["containerLogs", namespace, pod, container] if reading => {
                let Some(view) = self.directory.find(namespace, pod) else {
                    return body::text(StatusCode::NOT_FOUND, &format!("pod {pod:?} does not exist"));
                };
                let query = request.uri().query().unwrap_or_default();
                logs::serve(&self.shared, &view, container, query, self.stop.clone()).await
            }
            ["exec", namespace, pod, container] | ["exec", namespace, pod, _, container] => {
                match self.running_container(namespace, pod, container) {
                    Ok(id) => exec::serve_exec(request, &id, &self.shared.cri, &self.limits).await,
                    Err(refusal) => refusal,
                }
            }
            ["attach", namespace, pod, container] | ["attach", namespace, pod, _, container] => {
                match self.running_container(namespace, pod, container) {
                    Ok(id) => attach::serve_attach(request, &id, &self.shared.cri, &self.limits).await,
                    Err(refusal) => refusal,
                }
            }
            ["run", namespace, pod, container] | ["run", namespace, pod, _, container] => {
                match self.running_container(namespace, pod, container) {
                    Ok(id) => {
                        run::serve_run(request.uri().query().unwrap_or_default(), &id, &self.shared.cri).await
                    }
                    Err(refusal) => refusal,
                }
            }
            ["portForward", namespace, pod] | ["portForward", namespace, pod, _] => {
                let view = self.directory.find(namespace, pod);
                match view.as_ref().and_then(|view| view.actual.ready_sandbox()) {
                    Some(sandbox) => {
                        port_forward::serve_port_forward(request, &sandbox.id, &self.shared.cri, &self.limits)
                            .await
                    }
                    None => body::text(StatusCode::NOT_FOUND, &format!("pod not found ({pod}_{namespace})")),
                }
            }
            _ => not_found(),
        }
    }

    /// The runtime's id of a running container, or the answer that there is none.
    #[allow(clippy::result_large_err)]
    fn running_container(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
    ) -> Result<String, Response<Body>> {
        let view: View = self.directory.find(namespace, pod).ok_or_else(|| {
            body::text(StatusCode::NOT_FOUND, &format!("pod does not exist ({pod}_{namespace})"))
        })?;
        match view.actual.latest(container) {
            Some(record) if record.phase == crate::actual::Phase::Running => Ok(record.id.clone()),
            _ => {
                let printed = view
                    .pod
                    .as_ref()
                    .map(|pod| format!("{}_{}", pod.name(), pod.namespace()))
                    .unwrap_or_default();
                Err(body::text(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    &format!("container not found (\"{container}\") in pod {printed}"),
                ))
            }
        }
    }
}

fn configz(config: &crate::Config) -> serde_json::Value {
    serde_json::json!({"kubeletconfig": {
        "kind": "KubeletConfiguration",
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "clusterDNS": config.cluster_dns,
        "clusterDomain": config.cluster_domain,
        "maxPods": config.max_pods,
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": config.cgroup_root,
        "staticPodPath": config.static_pod_path,
        "containerRuntimeEndpoint": config.cri_endpoint,
        "resolvConf": config.resolv_conf,
        "imageGCHighThresholdPercent": config.image_gc_high,
        "imageGCLowThresholdPercent": config.image_gc_low,
        "containerLogMaxSize": format!("{}Mi", config.container_log_max_size >> 20),
        "containerLogMaxFiles": config.container_log_max_files,
        "nodeLeaseDurationSeconds": config.lease_duration.as_secs(),
    }})
}
