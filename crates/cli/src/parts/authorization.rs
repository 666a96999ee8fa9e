//! The flags of the API server about what one may.
use std::path::PathBuf;
use std::time::Duration;

use apiserver::AuthorizationMode;
use clap::Args;

use super::go_duration;
use crate::output::Failure;

/// Flags about what one may, with upstream's names.
#[derive(Args, Debug)]
pub struct AuthorizationFlags {
    /// Who decides what one may, in order: AlwaysAllow, AlwaysDeny, ABAC, Webhook, RBAC, Node; AlwaysAllow if absent.
    #[arg(long, value_delimiter = ',')]
    authorization_mode: Option<Vec<String>>,
    /// An AuthorizationConfiguration, in place of the modes; its changes are followed.
    #[arg(long)]
    authorization_config: Option<PathBuf>,
    /// Rules for the mode ABAC, one a line.
    #[arg(long)]
    authorization_policy_file: Option<PathBuf>,
    /// Kubeconfig of the server that the mode Webhook asks.
    #[arg(long)]
    authorization_webhook_config_file: Option<PathBuf>,
    /// Version of SubjectAccessReview that it is sent: v1 or v1beta1; v1beta1 if absent.
    #[arg(long)]
    authorization_webhook_version: Option<String>,
    /// How long its yes is kept; 5m if absent.
    #[arg(long, value_parser = go_duration)]
    authorization_webhook_cache_authorized_ttl: Option<Duration>,
    /// How long its no is kept; 30s if absent.
    #[arg(long, value_parser = go_duration)]
    authorization_webhook_cache_unauthorized_ttl: Option<Duration>,
}

/// Who decides.
pub struct Authorization {
    /// In order; empty where the file says it.
    pub modes: Vec<AuthorizationMode>,
    /// The file.
    pub config: Option<PathBuf>,
    /// The policy file of ABAC.
    pub policy: Option<PathBuf>,
}

impl AuthorizationFlags {
    /// What the flags mean.
    pub fn settled(self) -> Result<Authorization, Failure> {
        let flags = apiserver::AuthorizationFlags {
            modes: self.authorization_mode,
            has_policy_file: self.authorization_policy_file.is_some() && self.authorization_config.is_none(),
            webhook: self.authorization_webhook_config_file,
            webhook_version: self.authorization_webhook_version,
            authorized_ttl: self.authorization_webhook_cache_authorized_ttl,
            unauthorized_ttl: self.authorization_webhook_cache_unauthorized_ttl,
            has_config_file: self.authorization_config.is_some(),
        };
        let modes = flags.settled().map_err(|e| Failure::new(e.to_string(), "see --authorization-mode"))?;
        Ok(Authorization { modes, config: self.authorization_config, policy: self.authorization_policy_file })
    }
}
