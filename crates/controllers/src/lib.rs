//! The controllers of kube-controller-manager, one file each.
//!
//! [`run`] starts those that [`Config`] asks for, behind one leader election, over one set of shared caches. Each
//! controller watches what it needs, is woken by key, and works as `observe -> plan -> apply`, where `plan` is pure.
//! Read [`framework::Controller`] first, then any controller file: all have the same shape.
//!
//! It speaks only the public Kubernetes API through the `kube::Client` it is given; it knows no storage, no API
//! server, no other actor.
pub mod framework;

mod config;
mod context;
mod discovery;
mod expectations;
mod hash;
mod identity;
mod ownership;
mod pod_writer;
mod pods;
mod revisions;
mod service_ports;

mod bootstrap_signer;
mod certificates;
mod daemon_set;
mod deployment;
mod disruption;
mod endpoint_slice;
mod endpoints;
mod garbage_collector;
mod job;
mod namespace;
mod node_ipam;
mod node_lifecycle;
mod pod_gc;
mod replica_set;
mod replication_controller;
mod resource_quota;
mod root_ca;
mod service_account;
mod service_account_token;
mod service_cidr;
mod stateful_set;
mod taint_eviction;
mod token_cleaner;

use std::sync::Arc;

use client::{ElectionConfig, Informers, Lost, Recorder};
use framework::Controller;
use kube::Client;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

pub use certificates::{KUBE_APISERVER_CLIENT, KUBELET_CLIENT, KUBELET_SERVING, LEGACY_UNKNOWN, SignerFiles};
pub use config::Config;
use context::{Context, PodsByController};
pub use identity::ClientFor;

/// Why the controllers ended before they were asked to.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Another process leads now.
    #[error(transparent)]
    Lost(#[from] Lost),
}

/// Runs the controllers until `stop` fires; what is being worked on is finished first.
///
/// `client` reads for all of them; each writes with the client that `clients` gives for its service account.
pub async fn run(
    config: Config,
    client: Client,
    clients: ClientFor,
    stop: CancellationToken,
) -> Result<(), Error> {
    if !config.leader_elect {
        run_all(config, client, clients, stop).await;
        return Ok(());
    }
    let election = ElectionConfig::new("kube-system", "kube-controller-manager", &config.identity);
    client::lead(client.clone(), election, stop, |stop| run_all(config, client, clients, stop)).await?;
    Ok(())
}

async fn run_all(config: Config, client: Client, clients: ClientFor, stop: CancellationToken) {
    let informers = Informers::new(client.clone());
    let context = Context {
        recorder: Recorder::new(client.clone(), "kube-controller-manager", ""),
        pods: PodsByController::new(informers.cache()),
        client,
        clients,
        informers,
        config: Arc::new(config),
    };
    let mut running = Running { tasks: JoinSet::new(), context: &context, stop };
    running.start(namespace::NamespaceController::new);
    running.start(service_account::ServiceAccountController::new);
    if !context.config.root_ca.is_empty() {
        running.start(root_ca::RootCaPublisher::new);
    }
    running.start(replica_set::ReplicaSetController::new);
    running.start(replication_controller::ReplicationControllerController::new);
    running.start(deployment::DeploymentController::new);
    running.start(endpoint_slice::EndpointSliceController::new);
    running.start(endpoints::EndpointsController::new);
    running.start(garbage_collector::GarbageCollector::new);
    running.start(node_lifecycle::NodeLifecycle::new);
    running.start(taint_eviction::TaintEviction::new);
    if !context.config.cluster_cidrs.is_empty() {
        running.start(node_ipam::NodeIpam::new);
    }
    running.start(pod_gc::PodGc::new);
    running.start(token_cleaner::TokenCleaner::new);
    running.start(bootstrap_signer::BootstrapSigner::new);
    if context.config.service_account_key.is_some() {
        running.start(service_account_token::ServiceAccountToken::new);
    }
    running.start(certificates::CsrApproving::new);
    running.start(certificates::CsrCleaner::new);
    if !context.config.signers.is_empty() {
        running.start(certificates::CsrSigning::new);
    }
    running.start(job::JobController::new);
    running.start(job::TtlAfterFinished::new);
    running.start(daemon_set::DaemonSetController::new);
    running.start(stateful_set::StatefulSetController::new);
    running.start(service_cidr::ServiceCidrController::new);
    running.start(resource_quota::ResourceQuotaController::new);
    running.start(disruption::DisruptionController::new);
    while let Some(ended) = running.tasks.join_next().await {
        if let Err(error) = ended {
            tracing::error!(%error, "controller ended badly");
        }
    }
}

struct Running<'a> {
    tasks: JoinSet<()>,
    context: &'a Context,
    stop: CancellationToken,
}

impl Running<'_> {
    fn start<C: Controller>(&mut self, make: impl FnOnce(&Context) -> C) {
        if self.context.config.runs(C::NAME) {
            let context = self.context.acting_as(identity::account(C::NAME));
            self.tasks.spawn(framework::run(make(&context), self.stop.clone()));
        }
    }
}
