//! `cox certs`: what certificates a cluster has and how long they last, new ones, and new authorities, without a pause.
mod kept;
mod list;
mod objects;
mod on_hosts;
mod renew;
mod roll;
mod rotate;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Args, Subcommand};
use pki::{Phase, Rotated};

use crate::args::Which;
use crate::output::Failure;
use crate::parts::go_duration;

pub use list::standing;

/// `cox certs`.
#[derive(Args, Clone, Debug)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  cox certs                     every certificate, and when it expires\n  \
        cox certs --within 30         exit code 1 if one expires within 30 days\n  \
        cox certs renew               those that expire soon; `cox certs renew all` all of them\n  \
        cox certs rotate-ca           new authorities, while the cluster works on"
)]
pub struct Certs {
    /// Which cluster.
    #[command(flatten)]
    pub which: Which,
    /// Exit code 1 also if something expires within so many days, or within a duration as 36h.
    #[arg(long, value_name = "DAYS", value_parser = days)]
    pub within: Option<Duration>,
    /// What to do; without it, tells.
    #[command(subcommand)]
    pub verb: Option<Verb>,
}

/// What to do about certificates.
#[derive(Subcommand, Clone, Debug)]
pub enum Verb {
    /// Issues certificates again and brings them to where they are read; needs no certificate that still works.
    #[command(
        after_help = "Examples:\n  cox certs renew                     those that have expired or will soon\n  \
        cox certs renew all\n  cox certs renew admin kube-scheduler   the names are those of `cox certs`\n\n\
        New certificates have new keys and the users and names of those before them. What reads them only at its start\n\
        is started anew, one host after another. Interrupted, it is done again."
    )]
    Renew(Renew),
    /// Replaces authorities, or the key of service accounts, while the cluster works on.
    #[command(
        name = "rotate-ca",
        after_help = "Examples:\n  cox certs rotate-ca                        all authorities\n  \
        cox certs rotate-ca etcd-ca                that of etcd alone\n  \
        cox certs rotate-ca --service-account-key  the key that signs tokens\n  \
        cox certs rotate-ca --until issue-new      stops there; the next time goes on\n\n\
        Three phases, each of which reaches every host before the next: trust-both, issue-new, trust-new. Interrupted, it\n\
        goes on where it stopped; `cox certs` says where that is. Kubeconfigs that were copied before work until the last\n\
        phase. Pods get the new authority as kube-root-ca.crt; those that read it only at their start have to be started\n\
        anew before the last phase: --restart-workloads does that. An authority made elsewhere is used if it lies in the\n\
        cluster's pki/rotation as next-ca.crt and next-ca.key before."
    )]
    RotateCa(RotateCa),
}

/// `cox certs renew`.
#[derive(Args, Clone, Debug)]
pub struct Renew {
    /// Which cluster.
    #[command(flatten)]
    pub which: Which,
    /// Names of certificates, or "all"; without one, those that expire soon.
    #[arg(value_name = "NAME")]
    pub names: Vec<String>,
    /// How many days are soon, or a duration as 36h.
    #[arg(long, value_name = "DAYS", value_parser = days, default_value = "30", conflicts_with = "names")]
    pub within: Duration,
    /// How long to wait until what was started works, in seconds.
    #[arg(long, default_value_t = 120)]
    pub wait: u64,
}

/// `cox certs rotate-ca`.
#[derive(Args, Clone, Debug)]
pub struct RotateCa {
    /// Which cluster.
    #[command(flatten)]
    pub which: Which,
    /// Authorities: ca, front-proxy-ca, etcd-ca; all of them without a word.
    #[arg(value_name = "AUTHORITY", value_parser = authority)]
    pub what: Vec<Rotated>,
    /// The key that signs tokens of service accounts: alone, or with the authorities that are named.
    #[arg(long)]
    pub service_account_key: bool,
    /// Stops after this phase.
    #[arg(long, value_parser = phase, default_value = Phase::TrustNew.name())]
    pub until: Phase,
    /// Time between phases, in which programs in pods take up what was changed under them.
    #[arg(long, value_parser = go_duration, default_value = "90s")]
    pub settle: Duration,
    /// Starts all Deployments, DaemonSets and StatefulSets anew, as `kubectl rollout restart` does, before the last phase.
    #[arg(long)]
    pub restart_workloads: bool,
    /// How long to wait until what was started works, in seconds.
    #[arg(long, default_value_t = 120)]
    pub wait: u64,
}

/// A number of days, or a duration as Go writes it.
fn days(text: &str) -> Result<Duration, String> {
    const LONGEST: u64 = 100 * 365;
    let number = text.strip_suffix('d').unwrap_or(text);
    match number.parse::<u64>() {
        Ok(days) if days <= LONGEST => Ok(Duration::from_secs(days * 24 * 3600)),
        Ok(_) => Err(format!("at most {LONGEST} days")),
        Err(_) => go_duration(text).map_err(|_| "a number of days, or a duration as 36h".to_owned()),
    }
}

fn authority(text: &str) -> Result<Rotated, String> {
    let known = Rotated::ALL.into_iter().filter(|w| *w != Rotated::ServiceAccountKey);
    known.clone().find(|w| w.name() == text).ok_or_else(|| {
        let names: Vec<&str> = known.map(Rotated::name).collect();
        format!("known are {}", names.join(", "))
    })
}

fn phase(text: &str) -> Result<Phase, String> {
    Phase::ALL
        .into_iter()
        .find(|p| p.name() == text)
        .ok_or_else(|| format!("known are {}", Phase::ALL.map(Phase::name).join(", ")))
}

/// `cox certs`.
pub async fn certs(options: Certs, as_json: bool) -> Result<ExitCode, Failure> {
    match options.verb {
        None => list::list(&options.which, options.within, as_json).await,
        Some(Verb::Renew(renew)) => renew::renew(renew, as_json).await,
        Some(Verb::RotateCa(rotate)) => rotate::rotate(rotate, as_json).await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_durations() {
        let hours = |n: u64| Ok(Duration::from_secs(n * 3600));
        assert_eq!(days("30"), hours(720));
        assert_eq!(days("2d"), hours(48));
        assert_eq!(days("36h"), hours(36));
        for bad in ["", "x", "-1", "99999999999"] {
            assert!(days(bad).is_err(), "{bad}");
        }
        assert_eq!(authority("etcd-ca"), Ok(Rotated::EtcdCa));
        assert!(authority("service-account-key").is_err());
        assert_eq!(phase("issue-new"), Ok(Phase::IssueNew));
    }
}
