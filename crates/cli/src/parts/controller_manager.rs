//! `cox kube-controller-manager`.
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

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
    let remote = super::remote(&flags.kubeconfig, "kube-controller-manager").await?;
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
        cluster_cidrs: flags.cluster_cidr,
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
