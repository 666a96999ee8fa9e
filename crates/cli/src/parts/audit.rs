//! `--audit-*` of the API server.
use std::path::PathBuf;
use std::time::Duration;

use apiserver::audit::{Batch, Config, LogConfig, Mode, Truncate, WebhookConfig};
use clap::Args;

/// What is recorded of requests, and where; upstream's names.
#[derive(Args, Debug)]
#[group(skip)]
pub struct Flags {
    /// Which requests are recorded, and how much of them; nothing is recorded without it.
    #[arg(long)]
    audit_policy_file: Option<PathBuf>,
    /// File for the events; - is standard output.
    #[arg(long)]
    audit_log_path: Option<PathBuf>,
    /// Days that old files are kept; 0: for ever.
    #[arg(long, default_value_t = 0)]
    audit_log_maxage: u64,
    /// Old files that are kept; 0: all.
    #[arg(long, default_value_t = 0)]
    audit_log_maxbackup: usize,
    /// Megabytes at which the file is moved aside; 0: 100.
    #[arg(long, default_value_t = 0)]
    audit_log_maxsize: u64,
    /// Form of the events.
    #[arg(long, default_value = "json", value_parser = ["json"])]
    audit_log_format: String,
    /// Version of the events.
    #[arg(long, default_value = "audit.k8s.io/v1", value_parser = ["audit.k8s.io/v1"])]
    audit_log_version: String,
    /// Whether requests wait until they are recorded: batch, blocking or blocking-strict.
    #[arg(long, default_value = "blocking", value_parser = mode)]
    audit_log_mode: Mode,
    /// Events that wait at most, in batch mode.
    #[arg(long, default_value_t = 10_000)]
    audit_log_batch_buffer_size: usize,
    /// Leaves the objects out of events that are too large.
    #[arg(long)]
    audit_log_truncate_enabled: bool,
    /// Bytes of an event that is not too large.
    #[arg(long, default_value_t = 102_400)]
    audit_log_truncate_max_event_size: usize,
    /// Bytes of a batch.
    #[arg(long, default_value_t = 10_485_760)]
    audit_log_truncate_max_batch_size: usize,
    /// Kubeconfig of a server that takes the events.
    #[arg(long)]
    audit_webhook_config_file: Option<PathBuf>,
    /// Version of the events.
    #[arg(long, default_value = "audit.k8s.io/v1", value_parser = ["audit.k8s.io/v1"])]
    audit_webhook_version: String,
    /// How long to wait before a second try.
    #[arg(long, default_value = "10s", value_parser = super::go_duration)]
    audit_webhook_initial_backoff: Duration,
    /// Whether requests wait until they are recorded: batch, blocking or blocking-strict.
    #[arg(long, default_value = "batch", value_parser = mode)]
    audit_webhook_mode: Mode,
    /// Events that wait at most, in batch mode.
    #[arg(long, default_value_t = 10_000)]
    audit_webhook_batch_buffer_size: usize,
    /// Events of a batch at most.
    #[arg(long, default_value_t = 400)]
    audit_webhook_batch_max_size: usize,
    /// How long an event waits for others.
    #[arg(long, default_value = "30s", value_parser = super::go_duration)]
    audit_webhook_batch_max_wait: Duration,
    /// Whether batches are slowed down.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set, num_args = 0..=1, default_missing_value = "true")]
    audit_webhook_batch_throttle_enable: bool,
    /// Batches a second, on average.
    #[arg(long, default_value_t = 10.0)]
    audit_webhook_batch_throttle_qps: f64,
    /// Batches at once, after a rest.
    #[arg(long, default_value_t = 15)]
    audit_webhook_batch_throttle_burst: usize,
    /// Leaves the objects out of events that are too large.
    #[arg(long)]
    audit_webhook_truncate_enabled: bool,
    /// Bytes of an event that is not too large.
    #[arg(long, default_value_t = 102_400)]
    audit_webhook_truncate_max_event_size: usize,
    /// Bytes of a batch.
    #[arg(long, default_value_t = 10_485_760)]
    audit_webhook_truncate_max_batch_size: usize,
}

fn mode(text: &str) -> Result<Mode, String> {
    Mode::parse(text).ok_or_else(|| "allowed modes are batch,blocking,blocking-strict".to_owned())
}

impl Flags {
    /// What the server is told; `None` where nothing is to be recorded.
    pub fn config(self) -> Option<Config> {
        let Some(policy) = self.audit_policy_file else {
            if self.audit_log_path.is_some() || self.audit_webhook_config_file.is_some() {
                tracing::warn!("No audit policy file provided, no events will be recorded");
            }
            return None;
        };
        let truncate =
            |enabled: bool, max_event, max_batch| enabled.then_some(Truncate { max_event, max_batch });
        let log = self.audit_log_path.map(|path| LogConfig {
            max_megabytes: self.audit_log_maxsize,
            max_backups: self.audit_log_maxbackup,
            max_days: self.audit_log_maxage,
            mode: self.audit_log_mode,
            batch: Batch { buffer: self.audit_log_batch_buffer_size, ..Batch::log() },
            truncate: truncate(
                self.audit_log_truncate_enabled,
                self.audit_log_truncate_max_event_size,
                self.audit_log_truncate_max_batch_size,
            ),
            ..LogConfig::new(path)
        });
        let qps = if self.audit_webhook_batch_throttle_enable {
            self.audit_webhook_batch_throttle_qps
        } else {
            f64::INFINITY
        };
        let webhook = self.audit_webhook_config_file.map(|path| WebhookConfig {
            backoff: self.audit_webhook_initial_backoff,
            mode: self.audit_webhook_mode,
            batch: Batch {
                buffer: self.audit_webhook_batch_buffer_size,
                max: self.audit_webhook_batch_max_size.max(1),
                wait: self.audit_webhook_batch_max_wait,
                qps,
                burst: self.audit_webhook_batch_throttle_burst,
            },
            truncate: truncate(
                self.audit_webhook_truncate_enabled,
                self.audit_webhook_truncate_max_event_size,
                self.audit_webhook_truncate_max_batch_size,
            ),
            ..WebhookConfig::new(path)
        });
        Some(Config { policy, log, webhook })
    }
}

#[cfg(test)]
mod tests {
    use super::super::go_duration;
    use super::*;

    #[test]
    fn durations_have_units() {
        assert_eq!(go_duration("30s"), Ok(Duration::from_secs(30)));
        assert_eq!(go_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(go_duration("1.5m"), Ok(Duration::from_secs(90)));
        assert_eq!(go_duration("1m30s"), Ok(Duration::from_secs(90)));
        for bad in ["", "30", "s", "-1s", "1d"] {
            assert!(go_duration(bad).is_err(), "{bad}");
        }
    }
}
