//! `cox kube-controller-manager`.
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::Args;

use super::health::{self, HealthFlags};
use super::signing::SigningFlags;
use crate::output::Failure;

/// Flags of the controller manager, with upstream's names.
#[derive(Args, Debug)]
pub struct Flags {
    /// How to reach the API server.
    #[arg(long, required_unless_present = "master")]
    kubeconfig: Option<PathBuf>,
    /// URL of the API server; it wins over the kubeconfig's.
    #[arg(long)]
    master: Option<String>,
    /// Where to tell of one's health.
    #[command(flatten)]
    health: HealthFlags,
    /// Leads only while it holds the Lease.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    leader_elect: bool,
    /// Networks of the pods.
    #[arg(long, value_delimiter = ',')]
    cluster_cidr: Vec<ipnet::IpNet>,
    /// Whether nodes are given parts of these networks; they are if absent, where there are any.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    allocate_node_cidrs: Option<bool>,
    /// Networks of the Services: nodes are given no part of them.
    #[arg(long, value_delimiter = ',')]
    service_cluster_ip_range: Vec<ipnet::IpNet>,
    /// Name of the cluster, for what is made outside of it; nothing is.
    #[arg(long, default_value = "kubernetes")]
    cluster_name: String,
    /// Size of a node's part, IPv4.
    #[arg(long, default_value_t = 24)]
    node_cidr_mask_size: u8,
    /// CA bundle for kube-root-ca.crt.
    #[arg(long)]
    root_ca_file: Option<PathBuf>,
    /// Which controllers run: `*`, names, and -name for those not to run.
    #[arg(long, value_delimiter = ',', default_value = "*")]
    controllers: Vec<String>,
    /// Gives each controller a client of its own, with a token for its service account in kube-system; needed where
    /// the API server asks RBAC. Without it all controllers act as the kubeconfig's user.
    #[arg(long, default_value_t = false, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    use_service_account_credentials: bool,
    /// Signing of certificates and tokens.
    #[command(flatten)]
    signing: SigningFlags,
}

/// Runs the controllers until they are asked to stop.
pub async fn run(flags: Box<Flags>) -> Result<ExitCode, Failure> {
    let stop = super::stop_on_signal()?;
    if flags.allocate_node_cidrs == Some(true) && flags.cluster_cidr.is_empty() {
        return Err(Failure::new(
            "nodes cannot be given networks: there is no --cluster-cidr",
            "see --allocate-node-cidrs",
        ));
    }
    let remote =
        super::remote(flags.kubeconfig.as_deref(), flags.master.as_deref(), "kube-controller-manager")
            .await?;
    flags.health.serve(health::CONTROLLER_MANAGER_PORT, &stop).await?;
    tracing::debug!(cluster = flags.cluster_name, "controllers of a cluster");
    let client = remote.client().map_err(|e| Failure::of(&e))?;
    let root_ca = match &flags.root_ca_file {
        Some(path) => std::fs::read_to_string(path).map_err(|e| {
            Failure::new(format!("cannot read {}: {e}", path.display()), "see --root-ca-file")
        })?,
        None => String::new(),
    };
    let mut config = controllers::Config {
        identity: super::identity(),
        leader_elect: flags.leader_elect,
        cluster_cidrs: if flags.allocate_node_cidrs == Some(false) { Vec::new() } else { flags.cluster_cidr },
        service_cidrs: flags.service_cluster_ip_range,
        node_cidr_mask_v4: flags.node_cidr_mask_size,
        root_ca,
        controllers: flags.controllers,
        ..controllers::Config::default()
    };
    flags.signing.apply(&mut config)?;
    let clients: controllers::ClientFor = if flags.use_service_account_credentials {
        let accounts = remote.service_accounts("kube-system").map_err(|e| Failure::of(&e))?;
        Arc::new(move |account| accounts.client(account))
    } else {
        let shared = client.clone();
        Arc::new(move |_| shared.clone())
    };
    super::ended(controllers::run(config, client, clients, stop).await)
}
