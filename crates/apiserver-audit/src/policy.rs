//! Which requests are recorded: the policy file and its rules. Upstream: apiserver/pkg/audit/policy, 1.36.
use machinery::request::{RequestInfo, UserInfo};
use machinery::{FieldError, FieldErrors, FieldPath, names};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::event::{Level, Stage};

/// The largest file that is read.
const LARGEST: usize = 1 << 20;

/// Why a file is no policy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PolicyError {
    /// It cannot be decoded.
    #[error("failed decoding: {0}")]
    Decode(String),
    /// It is of another kind or version.
    #[error("unknown group version field {0} in policy")]
    Version(String),
    /// It makes no sense; all that is wrong with it.
    #[error("{0}")]
    Invalid(String),
    /// It would record nothing.
    #[error("loaded illegal policy with 0 rules")]
    Empty,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct File {
    api_version: String,
    kind: String,
    #[serde(rename = "metadata")]
    _metadata: Value,
    rules: Vec<FileRule>,
    omit_stages: Vec<String>,
    omit_managed_fields: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct FileRule {
    level: String,
    users: Vec<String>,
    user_groups: Vec<String>,
    verbs: Vec<String>,
    resources: Vec<GroupResources>,
    namespaces: Vec<String>,
    #[serde(rename = "nonResourceURLs")]
    non_resource_urls: Vec<String>,
    omit_stages: Vec<String>,
    omit_managed_fields: Option<bool>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct GroupResources {
    group: String,
    resources: Vec<String>,
    resource_names: Vec<String>,
}

/// What the policy says about one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// How much is recorded.
    pub level: Level,
    /// The stages that are left out, as bits.
    omitted: u8,
    /// Whether `metadata.managedFields` is left out of objects.
    pub omit_managed_fields: bool,
}

impl Verdict {
    /// Whether an event is written at a stage.
    pub fn records(&self, stage: Stage) -> bool {
        self.level > Level::None && self.omitted & stage.bit() == 0
    }
}

/// The rules, in order: the first that matches counts.
#[derive(Debug)]
pub struct Policy {
    rules: Vec<(FileRule, Verdict)>,
}

fn level(text: &str) -> Option<Level> {
    Some(match text {
        "None" => Level::None,
        "Metadata" => Level::Metadata,
        "Request" => Level::Request,
        "RequestResponse" => Level::RequestResponse,
        _ => return None,
    })
}

fn stage(text: &str) -> Option<Stage> {
    Some(match text {
        "RequestReceived" => Stage::RequestReceived,
        "ResponseStarted" => Stage::ResponseStarted,
        "ResponseComplete" => Stage::ResponseComplete,
        "Panic" => Stage::Panic,
        _ => return None,
    })
}

fn bits(stages: &[String]) -> u8 {
    stages.iter().filter_map(|s| stage(s)).fold(0, |bits, stage| bits | stage.bit())
}

impl Policy {
    /// Reads a policy file.
    pub fn parse(bytes: &[u8]) -> Result<Self, PolicyError> {
        if bytes.len() > LARGEST {
            let why = format!("the file has {} bytes, at most {LARGEST} are read", bytes.len());
            return Err(PolicyError::Decode(why));
        }
        let value: Value = serde_saphyr::from_slice(bytes)
            .map_err(|e| PolicyError::Decode(e.without_snippet().to_string()))?;
        let mut unknown: Vec<String> = Vec::new();
        let file: File = serde_ignored::deserialize(value, |path| unknown.push(path.to_string()))
            .map_err(|e| PolicyError::Decode(e.to_string()))?;
        if file.kind.is_empty() {
            return Err(PolicyError::Decode("Object 'Kind' is missing".into()));
        }
        if file.api_version != "audit.k8s.io/v1" || file.kind != "Policy" {
            return Err(PolicyError::Version(format!("{}, Kind={}", file.api_version, file.kind)));
        }
        for field in unknown {
            // As upstream: a policy with a field too many still records.
            tracing::warn!(field, "the audit policy has an unknown field");
        }
        let errors = validate(&file);
        if !errors.is_empty() {
            return Err(PolicyError::Invalid(machinery::field::aggregate(&errors)));
        }
        if file.rules.is_empty() {
            return Err(PolicyError::Empty);
        }
        let everywhere = bits(&file.omit_stages);
        let rules = file.rules.into_iter().map(|rule| {
            let verdict = Verdict {
                level: level(&rule.level).unwrap_or(Level::None),
                omitted: everywhere | bits(&rule.omit_stages),
                omit_managed_fields: rule.omit_managed_fields.unwrap_or(file.omit_managed_fields),
            };
            (rule, verdict)
        });
        Ok(Self { rules: rules.collect() })
    }

    /// What is recorded of a request. `user`: nobody where authentication failed.
    pub fn verdict(&self, user: Option<&UserInfo>, request: &RequestInfo) -> Verdict {
        self.rules
            .iter()
            .find(|(rule, _)| rule.matches(user, request))
            .map(|(_, verdict)| *verdict)
            .unwrap_or(Verdict { level: Level::None, omitted: 0, omit_managed_fields: false })
    }
}

impl FileRule {
    fn matches(&self, user: Option<&UserInfo>, request: &RequestInfo) -> bool {
        let one_of = |all: &[String], value: &str| all.iter().any(|v| v == value);
        if let Some(user) = user {
            if !self.users.is_empty() && !one_of(&self.users, &user.name) {
                return false;
            }
            if !self.user_groups.is_empty() && !user.groups.iter().any(|g| one_of(&self.user_groups, g)) {
                return false;
            }
        } else if !self.users.is_empty() || !self.user_groups.is_empty() {
            return false;
        }
        if !self.verbs.is_empty() && !one_of(&self.verbs, &request.verb) {
            return false;
        }
        if !self.namespaces.is_empty() || !self.resources.is_empty() {
            return self.matches_resource(request);
        }
        if !self.non_resource_urls.is_empty() {
            return !request.is_resource
                && self.non_resource_urls.iter().any(|url| matches_path(url, &request.path));
        }
        true
    }

    fn matches_resource(&self, request: &RequestInfo) -> bool {
        if !request.is_resource {
            return false;
        }
        if !self.namespaces.is_empty() && !self.namespaces.contains(&request.namespace) {
            return false;
        }
        self.resources.is_empty() || self.resources.iter().any(|r| r.matches(request))
    }
}

impl GroupResources {
    fn matches(&self, request: &RequestInfo) -> bool {
        if self.group != request.api_group {
            return false;
        }
        if self.resources.is_empty() {
            return true;
        }
        (self.resource_names.is_empty() || self.resource_names.contains(&request.name))
            && self.resources.iter().any(|r| matches_resource(r, &request.resource, &request.subresource))
    }
}

/// `*`, `pods`, `pods/log`, `pods/*`, `*/scale`.
fn matches_resource(spec: &str, resource: &str, subresource: &str) -> bool {
    match spec.split_once('/') {
        None => spec == "*" || (spec == resource && subresource.is_empty()),
        Some(("*", sub)) => !subresource.is_empty() && (sub == subresource),
        Some((main, "*")) => main == resource,
        Some((main, sub)) => main == resource && sub == subresource,
    }
}

fn matches_path(spec: &str, path: &str) -> bool {
    match spec.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => spec == path,
    }
}

fn validate(file: &File) -> FieldErrors {
    let mut errors = FieldErrors::new();
    let stages = |path: &FieldPath, all: &[String], errors: &mut FieldErrors| {
        for (i, text) in all.iter().enumerate().filter(|(_, text)| stage(text).is_none()) {
            let why = "allowed stages are RequestReceived,ResponseStarted,ResponseComplete,Panic";
            errors.push(FieldError::invalid(&path.index(i), text.as_str(), why));
        }
    };
    stages(&FieldPath::new("omitStages"), &file.omit_stages, &mut errors);
    for (i, rule) in file.rules.iter().enumerate() {
        let at = FieldPath::new("rules").index(i);
        let path = at.child("level");
        if rule.level.is_empty() {
            errors.push(FieldError::required(&path, ""));
        } else if level(&rule.level).is_none() {
            let all = ["None", "Metadata", "Request", "RequestResponse"];
            errors.push(FieldError::not_supported(&path, rule.level.as_str(), &all));
        }
        let path = at.child("nonResourceURLs");
        for (i, url) in rule.non_resource_urls.iter().enumerate().filter(|(_, url)| *url != "*") {
            if !url.starts_with('/') {
                let why = "non-resource URL rules must begin with a '/' character";
                errors.push(FieldError::invalid(&path.index(i), url.as_str(), why));
            }
            if url.find('*').is_some_and(|at| at + 1 < url.len()) {
                let why = "non-resource URL wildcards '*' must be the final character of the rule";
                errors.push(FieldError::invalid(&path.index(i), url.as_str(), why));
            }
        }
        let resources = at.child("resources");
        for group in &rule.resources {
            let bad = names::dns1123_subdomain(&group.group);
            if !group.group.is_empty() && !bad.is_empty() {
                let path = resources.child("group");
                errors.push(FieldError::invalid(&path, group.group.as_str(), bad.join(",")));
            }
            if !group.resource_names.is_empty() && group.resources.is_empty() {
                let why = "using resourceNames requires at least one resource";
                let path = resources.child("resourceNames");
                errors.push(FieldError::invalid(&path, json!(group.resource_names), why));
            }
        }
        stages(&at.child("omitStages"), &rule.omit_stages, &mut errors);
        let about_resources = !rule.resources.is_empty() || !rule.namespaces.is_empty();
        if !rule.non_resource_urls.is_empty() && about_resources {
            let why = "rules cannot apply to both regular resources and non-resource URLs";
            errors.push(FieldError::invalid(&path, json!(rule.non_resource_urls), why));
        }
    }
    errors
}

#[cfg(test)]
mod tests;
