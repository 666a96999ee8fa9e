//! Who decides, in order: from the `--authorization-*` flags, or from an AuthorizationConfiguration. Upstream:
//! apiserver/pkg/apis/apiserver/validation and pkg/kubeapiserver/options/authorization.go, 1.36.
use std::path::PathBuf;
use std::time::Duration;

use machinery::field::{FieldError, FieldPath, aggregate};
use machinery::{go_duration, names};
use serde::Deserialize;
use serde_json::Value;

use crate::Decision;
use crate::webhook::{Options, Version};

/// One who decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// `Node`.
    Node,
    /// `RBAC`.
    Rbac,
    /// `ABAC`, by the policy file that a flag names.
    Abac,
    /// `AlwaysAllow`.
    AlwaysAllow,
    /// `AlwaysDeny`.
    AlwaysDeny,
    /// `Webhook`.
    Webhook(Box<WebhookMode>),
}

/// A server that is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebhookMode {
    /// Kubeconfig of the server.
    pub kubeconfig: PathBuf,
    /// How long one exchange may take.
    pub timeout: Duration,
    /// How it is asked, and what its answers are worth.
    pub options: Options,
}

/// The longest that an exchange may take, and how long it may where nothing is said.
const LONGEST: Duration = Duration::from_secs(30);
const AUTHORIZED_TTL: Duration = Duration::from_secs(300);
const UNAUTHORIZED_TTL: Duration = Duration::from_secs(30);

/// Types, in the order in which messages list them.
const TYPES: [&str; 6] = ["ABAC", "AlwaysAllow", "AlwaysDeny", "Node", "RBAC", "Webhook"];
/// The same in the order of the flag's help.
const MODES: [&str; 6] = ["AlwaysAllow", "AlwaysDeny", "ABAC", "Webhook", "RBAC", "Node"];
const MOST_CONDITIONS: usize = 64;

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// The `--authorization-*` flags that choose modes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AuthorizationFlags {
    /// `--authorization-mode`; AlwaysAllow if absent.
    pub modes: Option<Vec<String>>,
    /// `--authorization-policy-file`.
    pub has_policy_file: bool,
    /// `--authorization-webhook-config-file`.
    pub webhook: Option<PathBuf>,
    /// `--authorization-webhook-version`; v1beta1 if absent.
    pub webhook_version: Option<String>,
    /// `--authorization-webhook-cache-authorized-ttl`.
    pub authorized_ttl: Option<Duration>,
    /// `--authorization-webhook-cache-unauthorized-ttl`.
    pub unauthorized_ttl: Option<Duration>,
    /// Whether `--authorization-config` is given.
    pub has_config_file: bool,
}

impl AuthorizationFlags {
    /// What the flags mean; nothing where a file says it.
    pub fn settled(self) -> Result<Vec<Mode>, ConfigError> {
        let any_webhook = self.webhook.is_some()
            || self.webhook_version.is_some()
            || self.authorized_ttl.is_some()
            || self.unauthorized_ttl.is_some();
        if self.has_config_file {
            if self.modes.is_some() || any_webhook {
                let why = "--authorization-config can not be specified when --authorization-mode or \
                           --authorization-webhook-* flags are defined";
                return Err(ConfigError(why.into()));
            }
            return Ok(Vec::new());
        }
        let mut problems: Vec<String> = Vec::new();
        let wanted = self.modes.unwrap_or_else(|| vec!["AlwaysAllow".into()]);
        if wanted.is_empty() {
            problems.push("at least one authorization-mode must be passed".into());
        }
        for (i, mode) in wanted.iter().enumerate() {
            if !MODES.contains(&mode.as_str()) {
                problems.push(format!(
                    "authorization-mode {mode:?} is not a valid mode; valid are {}",
                    MODES.join(", ")
                ));
            } else if wanted[..i].contains(mode) {
                problems.push(format!("authorization-mode {mode:?} has mode specified more than once"));
            }
        }
        let has = |mode: &str| wanted.iter().any(|m| m == mode);
        if has("ABAC") && !self.has_policy_file {
            problems.push("authorization-mode ABAC's authorization policy file not passed".into());
        }
        if !has("ABAC") && self.has_policy_file {
            problems.push("cannot specify --authorization-policy-file without mode ABAC".into());
        }
        if has("Webhook") && self.webhook.is_none() {
            problems.push("authorization-mode Webhook's authorization config file not passed".into());
        }
        if !has("Webhook") && self.webhook.is_some() {
            problems.push("cannot specify --authorization-webhook-config-file without mode Webhook".into());
        }
        let version_name = self.webhook_version.as_deref().unwrap_or("v1beta1");
        let version = Version::named(version_name);
        if version.is_none() {
            problems.push(format!(
                "unsupported webhook authorizer version {version_name:?}, supported versions are \"v1\", \"v1beta1\""
            ));
        }
        if !problems.is_empty() {
            return Err(ConfigError(problems.join("; ")));
        }
        let options = Options {
            version: version.unwrap_or(Version::V1beta1),
            authorized_ttl: self.authorized_ttl.unwrap_or(AUTHORIZED_TTL),
            unauthorized_ttl: self.unauthorized_ttl.unwrap_or(UNAUTHORIZED_TTL),
            on_error: Decision::NoOpinion,
        };
        let webhook = WebhookMode { kubeconfig: self.webhook.unwrap_or_default(), timeout: LONGEST, options };
        let webhook = || Mode::Webhook(Box::new(webhook.clone()));
        Ok(wanted.iter().filter_map(|m| if m == "Webhook" { Some(webhook()) } else { plain(m) }).collect())
    }
}

/// A mode that needs nothing but its name.
fn plain(name: &str) -> Option<Mode> {
    Some(match name {
        "Node" => Mode::Node,
        "RBAC" => Mode::Rbac,
        "ABAC" => Mode::Abac,
        "AlwaysAllow" => Mode::AlwaysAllow,
        "AlwaysDeny" => Mode::AlwaysDeny,
        _ => return None,
    })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(default)]
    api_version: String,
    #[serde(default)]
    kind: String,
    #[serde(default)]
    authorizers: Vec<FileAuthorizer>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileAuthorizer {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    name: String,
    webhook: Option<FileWebhook>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileWebhook {
    #[serde(default, rename = "authorizedTTL")]
    authorized_ttl: String,
    #[serde(default, rename = "unauthorizedTTL")]
    unauthorized_ttl: String,
    cache_authorized_requests: Option<bool>,
    cache_unauthorized_requests: Option<bool>,
    #[serde(default)]
    timeout: String,
    #[serde(default)]
    subject_access_review_version: String,
    #[serde(default)]
    match_condition_subject_access_review_version: String,
    #[serde(default)]
    failure_policy: String,
    #[serde(default)]
    connection_info: FileConnection,
    #[serde(default)]
    match_conditions: Vec<FileCondition>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct FileConnection {
    #[serde(default, rename = "type")]
    kind: String,
    kube_config_file: Option<String>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileCondition {
    #[serde(default)]
    expression: String,
}

/// Reads the text of an `AuthorizationConfiguration`, YAML or JSON.
pub fn parse(text: &str) -> Result<Vec<Mode>, ConfigError> {
    let file: File = serde_saphyr::from_str(text).map_err(|e| ConfigError(e.to_string()))?;
    let known = ["v1", "v1beta1", "v1alpha1"].map(|v| format!("apiserver.config.k8s.io/{v}"));
    if file.kind != "AuthorizationConfiguration" || !known.contains(&file.api_version) {
        return Err(ConfigError(format!(
            "no kind {:?} is registered for version {:?}; want AuthorizationConfiguration of {}",
            file.kind, file.api_version, known[0]
        )));
    }
    let mut errors = Vec::new();
    let root = FieldPath::new("authorizers");
    if file.authorizers.is_empty() {
        errors.push(FieldError::required(&root, "at least one authorization mode must be defined"));
    }
    let mut modes = Vec::new();
    let (mut types, mut seen): (Vec<String>, Vec<String>) = Default::default();
    for (i, one) in file.authorizers.into_iter().enumerate() {
        let path = root.index(i);
        if one.kind.is_empty() {
            errors.push(FieldError::required(&path.child("type"), ""));
            continue;
        }
        if !TYPES.contains(&one.kind.as_str()) {
            errors.push(FieldError::not_supported(&path.child("type"), one.kind, &TYPES));
            continue;
        }
        if types.contains(&one.kind) && one.kind != "Webhook" {
            errors.push(FieldError::duplicate(&path.child("type"), one.kind));
            continue;
        }
        types.push(one.kind.clone());
        let name = path.child("name");
        let wrong = names::dns1123_subdomain(&one.name);
        if one.name.is_empty() {
            errors.push(FieldError::required(&name, ""));
        } else if seen.contains(&one.name) {
            errors.push(FieldError::duplicate(&name, one.name.clone()));
        } else if !wrong.is_empty() {
            let why = format!("authorizer name is invalid: {}", wrong.join(", "));
            errors.push(FieldError::invalid(&name, one.name.clone(), why));
        }
        seen.push(one.name);
        match (one.kind.as_str(), one.webhook) {
            ("Webhook", None) => {
                errors.push(FieldError::required(&path.child("webhook"), "required when type=Webhook"));
            }
            ("Webhook", Some(webhook)) => {
                modes.extend(webhook.settled(&path, &mut errors).map(|w| Mode::Webhook(Box::new(w))));
            }
            (_, Some(_)) => {
                let why = "may only be specified when type=Webhook";
                errors.push(FieldError::invalid(&path.child("webhook"), "non-null", why));
            }
            (kind, None) => modes.extend(plain(kind)),
        }
    }
    if errors.is_empty() { Ok(modes) } else { Err(ConfigError(aggregate(&errors))) }
}

impl FileWebhook {
    fn settled(self, path: &FieldPath, errors: &mut Vec<FieldError>) -> Option<WebhookMode> {
        let before = errors.len();
        let mut duration = |field: &str, text: &str, otherwise: Option<Duration>, most: Option<Duration>| {
            let path = path.child(field);
            let range = if most.is_some() { "must be > 0s and <= 30s" } else { "must be > 0s" };
            match (go_duration(text), otherwise) {
                _ if text.starts_with('-') => errors.push(FieldError::invalid(&path, text, range)),
                (Some(time), _) if most.is_some_and(|most| time > most) => {
                    errors.push(FieldError::invalid(&path, text, range));
                }
                (Some(time), _) if !time.is_zero() => return time,
                // Go's zero is as if nothing were said.
                (Some(_), Some(otherwise)) => return otherwise,
                (None, Some(otherwise)) if text.is_empty() => return otherwise,
                (Some(_), None) => errors.push(FieldError::required(&path, "")),
                (None, None) if text.is_empty() => errors.push(FieldError::required(&path, "")),
                (None, _) => errors.push(FieldError::invalid(&path, text, "time: invalid duration")),
            }
            Duration::ZERO
        };
        let timeout = duration("timeout", &self.timeout, None, Some(LONGEST));
        let authorized_ttl = duration("authorizedTTL", &self.authorized_ttl, Some(AUTHORIZED_TTL), None);
        let unauthorized_ttl =
            duration("unauthorizedTTL", &self.unauthorized_ttl, Some(UNAUTHORIZED_TTL), None);

        let version = Version::named(&self.subject_access_review_version);
        let version_path = path.child("subjectAccessReviewVersion");
        match (self.subject_access_review_version.as_str(), version) {
            ("", _) => errors.push(FieldError::required(&version_path, "")),
            (other, None) => {
                errors.push(FieldError::not_supported(&version_path, other, &["v1", "v1beta1"]));
            }
            _ => {}
        }
        let condition_path = path.child("matchConditionSubjectAccessReviewVersion");
        match self.match_condition_subject_access_review_version.as_str() {
            "" if !self.match_conditions.is_empty() => {
                let why = "required if match conditions are specified";
                errors.push(FieldError::required(&condition_path, why));
            }
            "" | "v1" => {}
            other => errors.push(FieldError::not_supported(&condition_path, other, &["v1"])),
        }
        let on_error = match self.failure_policy.as_str() {
            "NoOpinion" => Decision::NoOpinion,
            "Deny" => Decision::Deny,
            "" => {
                errors.push(FieldError::required(&path.child("failurePolicy"), ""));
                Decision::Deny
            }
            other => {
                let path = path.child("failurePolicy");
                errors.push(FieldError::not_supported(&path, other, &["NoOpinion", "Deny"]));
                Decision::Deny
            }
        };
        let kubeconfig = self.connection_info.settled(&path.child("connectionInfo"), errors);
        conditions(&self.match_conditions, &path.child("matchConditions"), errors);
        if errors.len() > before {
            return None;
        }
        let kept = |wanted: Option<bool>, ttl| if wanted.unwrap_or(true) { ttl } else { Duration::ZERO };
        Some(WebhookMode {
            kubeconfig,
            timeout,
            options: Options {
                version: version?,
                authorized_ttl: kept(self.cache_authorized_requests, authorized_ttl),
                unauthorized_ttl: kept(self.cache_unauthorized_requests, unauthorized_ttl),
                on_error,
            },
        })
    }
}

impl FileConnection {
    fn settled(self, path: &FieldPath, errors: &mut Vec<FieldError>) -> PathBuf {
        let file = path.child("kubeConfigFile");
        let named = self.kube_config_file.unwrap_or_default();
        match self.kind.as_str() {
            "" => errors.push(FieldError::required(&path.child("type"), "")),
            "KubeConfigFile" if named.is_empty() => errors.push(FieldError::required(&file, "")),
            "KubeConfigFile" if !named.starts_with('/') => {
                errors.push(FieldError::invalid(&file, named.clone(), "must be an absolute path"));
            }
            "KubeConfigFile" => {}
            "InClusterConfig" => {
                let why = "an API server has no cluster around it: use KubeConfigFile";
                errors.push(FieldError::invalid(&path.child("type"), "InClusterConfig", why));
            }
            other => {
                let supported = ["InClusterConfig", "KubeConfigFile"];
                errors.push(FieldError::not_supported(&path.child("type"), other, &supported));
            }
        }
        named.into()
    }
}

/// Conditions are written in CEL, which is not evaluated here. A webhook must not be asked about more, or less, than its
/// owner meant; so a file that has any is refused.
fn conditions(all: &[FileCondition], path: &FieldPath, errors: &mut Vec<FieldError>) {
    if all.len() > MOST_CONDITIONS {
        errors.push(FieldError::too_many(path, all.len(), MOST_CONDITIONS));
        return;
    }
    for (i, condition) in all.iter().enumerate() {
        let path = path.index(i).child("expression");
        if condition.expression.trim().is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else {
            let why = "CEL expressions are not supported here: leave matchConditions out, the webhook is then asked about \
                       every request that comes to it";
            errors.push(FieldError::invalid(&path, Value::from(condition.expression.clone()), why));
        }
    }
}

#[cfg(test)]
mod tests;
