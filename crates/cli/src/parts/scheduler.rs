//! `cox kube-scheduler`.
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use client::ElectionConfig;

use super::health::{self, HealthFlags};
use crate::output::Failure;
use crate::parts::files::scheduler::{self as file, SchedulerFile};

/// Flags of the scheduler, with upstream's names. A flag that is given wins over the file.
#[derive(Args, Debug)]
pub struct Flags {
    /// A KubeSchedulerConfiguration.
    #[arg(long)]
    config: Option<PathBuf>,
    /// How to reach the API server; clientConnection.kubeconfig of the file if absent.
    #[arg(long, required_unless_present_any = ["config", "master"])]
    kubeconfig: Option<PathBuf>,
    /// URL of the API server; it wins over the kubeconfig's.
    #[arg(long)]
    master: Option<String>,
    /// Where to tell of one's health.
    #[command(flatten)]
    health: HealthFlags,
    /// Leads only while it holds the Lease; it does if absent.
    #[arg(long, num_args = 0..=1, default_missing_value = "true")]
    leader_elect: Option<bool>,
    /// Namespace of the Lease; kube-system if absent.
    #[arg(long)]
    leader_elect_resource_namespace: Option<String>,
    /// Name of the Lease; kube-scheduler if absent.
    #[arg(long)]
    leader_elect_resource_name: Option<String>,
    /// How long others wait after the last renewal they saw; 15s if absent.
    #[arg(long, value_parser = super::go_duration)]
    leader_elect_lease_duration: Option<std::time::Duration>,
    /// How long the leader tries to renew before it gives up; 10s if absent.
    #[arg(long, value_parser = super::go_duration)]
    leader_elect_renew_deadline: Option<std::time::Duration>,
    /// How long to wait between tries; 2s if absent.
    #[arg(long, value_parser = super::go_duration)]
    leader_elect_retry_period: Option<std::time::Duration>,
}

impl Flags {
    /// The Lease to hold, if any.
    fn election(&self, file: &SchedulerFile) -> Result<Option<ElectionConfig>, Failure> {
        let file = &file.election;
        if !self.leader_elect.or(file.elect).unwrap_or(true) {
            return Ok(None);
        }
        let namespace = self.leader_elect_resource_namespace.as_ref().or(file.namespace.as_ref());
        let name = self.leader_elect_resource_name.as_ref().or(file.name.as_ref());
        let mut election = ElectionConfig::new(
            namespace.map_or("kube-system", String::as_str),
            name.map_or("kube-scheduler", String::as_str),
            &super::identity(),
        );
        let set = |time: &mut std::time::Duration, flag: Option<_>, file: Option<_>| {
            *time = flag.or(file).unwrap_or(*time);
        };
        set(&mut election.lease_duration, self.leader_elect_lease_duration, file.lease_duration);
        set(&mut election.renew_deadline, self.leader_elect_renew_deadline, file.renew_deadline);
        set(&mut election.retry_period, self.leader_elect_retry_period, file.retry_period);
        if election.lease_duration <= election.renew_deadline {
            return Err(Failure::new(
                "the lease duration must be greater than the renew deadline",
                "see --leader-elect-lease-duration and --leader-elect-renew-deadline",
            ));
        }
        if election.renew_deadline <= election.retry_period {
            return Err(Failure::new(
                "the renew deadline must be greater than the retry period",
                "see --leader-elect-renew-deadline and --leader-elect-retry-period",
            ));
        }
        Ok(Some(election))
    }
}

/// Runs the scheduler until it is asked to stop.
pub async fn run(flags: Box<Flags>) -> Result<ExitCode, Failure> {
    let (file, warnings) = match &flags.config {
        Some(path) => file::read(path)?,
        None => Default::default(),
    };
    for warning in warnings {
        tracing::warn!(file = flags.config.as_deref().map(|p| p.display().to_string()), "{warning}");
    }
    let election = flags.election(&file)?;
    let kubeconfig = flags.kubeconfig.or(file.kubeconfig);
    if kubeconfig.is_none() && flags.master.is_none() {
        return Err(Failure::new(
            "no kubeconfig is given",
            "name one with --kubeconfig, or with clientConnection.kubeconfig in the file",
        ));
    }
    let stop = super::stop_on_signal()?;
    let remote = super::remote(kubeconfig.as_deref(), flags.master.as_deref(), "kube-scheduler").await?;
    let client = remote.client().map_err(|e| Failure::of(&e))?;
    flags.health.serve(health::SCHEDULER_PORT, &stop).await?;
    let defaults = scheduler::Config::default();
    let config = scheduler::Config {
        election,
        profiles: if file.profiles.is_empty() { defaults.profiles } else { file.profiles },
        percentage_of_nodes_to_score: file
            .percentage_of_nodes_to_score
            .unwrap_or(defaults.percentage_of_nodes_to_score),
        delays: scheduler::Delays {
            first: file.initial_backoff.unwrap_or(defaults.delays.first),
            most: file.max_backoff.unwrap_or(defaults.delays.most),
        },
    };
    super::ended(scheduler::run(config, client, stop).await)
}
