//! `cox kube-controller-manager`.
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;

use super::signing::SigningFlags;
use crate::output::Failure;

/// Flags of the controller manager, with upstream's names.
#[derive(Args, Debug)]
pub struct Flags {
    /// How to reach the API server.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Leads only while it holds the Lease.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    leader_elect: bool,
    /// Networks of the pods.
    #[arg(long, value_delimiter = ',')]
    cluster_cidr: Vec<ipnet::IpNet>,
    /// Size of a node's part, IPv4.
    #[arg(long, default_value_t = 24)]
    node_cidr_mask_size: u8,
    /// CA bundle for kube-root-ca.crt.
    #[arg(long)]
    root_ca_file: Option<PathBuf>,
    /// Which controllers run: `*`, names, and -name for those not to run.
    #[arg(long, value_delimiter = ',', default_value = "*")]
    controllers: Vec<String>,
    /// Signing of certificates and tokens.
    #[command(flatten)]
    signing: SigningFlags,
}

/// Runs the controllers until they are asked to stop.
pub async fn run(flags: Box<Flags>) -> Result<ExitCode, Failure> {
    let stop = super::stop_on_signal()?;
    let client = super::client_of(&flags.kubeconfig).await?;
    let root_ca = match &flags.root_ca_file {
        Some(path) => std::fs::read_to_string(path).map_err(|e| {
            Failure::new(format!("cannot read {}: {e}", path.display()), "see --root-ca-file")
        })?,
        None => String::new(),
    };
    let mut config = controllers::Config {
        identity: super::identity(),
        leader_elect: flags.leader_elect,
        cluster_cidrs: flags.cluster_cidr,
        node_cidr_mask_v4: flags.node_cidr_mask_size,
        root_ca,
        controllers: flags.controllers,
        ..controllers::Config::default()
    };
    flags.signing.apply(&mut config)?;
    let shared = client.clone();
    let clients: controllers::ClientFor = std::sync::Arc::new(move |_| shared.clone());
    super::ended(controllers::run(config, client, clients, stop).await)
}
