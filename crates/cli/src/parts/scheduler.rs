//! `cox kube-scheduler`.
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use client::ElectionConfig;

use crate::output::Failure;

/// Flags of the scheduler, with upstream's names.
#[derive(Args, Debug)]
pub struct Flags {
    /// How to reach the API server.
    #[arg(long)]
    kubeconfig: PathBuf,
    /// Leads only while it holds the Lease.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    leader_elect: bool,
    /// Namespace of the Lease.
    #[arg(long, default_value = "kube-system")]
    leader_elect_resource_namespace: String,
    /// Name of the Lease.
    #[arg(long, default_value = "kube-scheduler")]
    leader_elect_resource_name: String,
}

/// Runs the scheduler until it is asked to stop.
pub async fn run(flags: Box<Flags>) -> Result<ExitCode, Failure> {
    let stop = super::stop_on_signal()?;
    let client = super::client_of(&flags.kubeconfig, "kube-scheduler").await?;
    let election = flags.leader_elect.then(|| {
        ElectionConfig::new(
            &flags.leader_elect_resource_namespace,
            &flags.leader_elect_resource_name,
            &super::identity(),
        )
    });
    let config = scheduler::Config { election, ..scheduler::Config::default() };
    super::ended(scheduler::run(config, client, stop).await)
}
