//! The `EncryptionConfiguration` file: strict reading, and every problem at once in upstream's words.
//! Upstream: apiserver/pkg/apis/apiserver/validation/validation_encryption.go, 1.36.
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use machinery::gvk::GroupResource;
use machinery::{FieldError, FieldErrors, FieldPath};
use serde::Deserialize;
use serde_ignored::Path;
use serde_json::{Value, json};

/// The largest file that is read.
const LARGEST: usize = 1 << 20;
/// `timeout` of a key server, where the file says nothing.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Why a file is no configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be decoded.
    #[error("{0}")]
    Decode(String),
    /// It makes no sense; all that is wrong with it.
    #[error("{0}")]
    Invalid(String),
}

/// A valid configuration.
#[derive(Debug)]
pub struct Configuration {
    pub(crate) resources: Vec<ResourceConfiguration>,
}

#[derive(Debug, Deserialize)]
struct File {
    #[serde(rename = "apiVersion")]
    _api_version: String,
    #[serde(rename = "kind")]
    _kind: String,
    #[serde(default)]
    resources: Option<Vec<ResourceConfiguration>>,
}

/// Providers of some resources.
#[derive(Debug, Deserialize)]
pub(crate) struct ResourceConfiguration {
    #[serde(default)]
    pub(crate) resources: Vec<String>,
    #[serde(default)]
    pub(crate) providers: Vec<ProviderConfiguration>,
}

/// One of the providers is given.
#[derive(Debug, Deserialize)]
pub(crate) struct ProviderConfiguration {
    pub(crate) aesgcm: Option<Keys>,
    pub(crate) aescbc: Option<Keys>,
    pub(crate) secretbox: Option<Keys>,
    pub(crate) identity: Option<Identity>,
    pub(crate) kms: Option<KmsConfiguration>,
}

#[derive(Debug, Deserialize)]
pub(crate) struct Identity {}

#[derive(Debug, Deserialize)]
pub(crate) struct Keys {
    #[serde(default)]
    pub(crate) keys: Vec<Key>,
}

/// A key. It is never printed.
#[derive(Deserialize)]
pub(crate) struct Key {
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default)]
    secret: String,
}

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Name: {}, Secret: REDACTED", self.name)
    }
}

impl Key {
    /// The key itself.
    pub(crate) fn secret(&self) -> Option<Vec<u8>> {
        STANDARD.decode(&self.secret).ok()
    }
}

#[derive(Debug, Deserialize)]
pub(crate) struct KmsConfiguration {
    #[serde(rename = "apiVersion", default = "v1")]
    api_version: String,
    #[serde(default)]
    pub(crate) name: String,
    cachesize: Option<i64>,
    #[serde(default)]
    pub(crate) endpoint: String,
    timeout: Option<String>,
}

fn v1() -> String {
    "v1".into()
}

impl KmsConfiguration {
    /// How long a call may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout.as_deref().and_then(machinery::go_duration).unwrap_or(TIMEOUT)
    }
}

impl Configuration {
    /// Reads a file. `reload`: whether changes of it will be followed.
    pub fn parse(bytes: &[u8], reload: bool) -> Result<Self, ConfigError> {
        let file = decode(bytes).map_err(ConfigError::Decode)?;
        let resources = file.resources.unwrap_or_default();
        let errors = validate(&resources, reload);
        if errors.is_empty() {
            Ok(Self { resources })
        } else {
            Err(ConfigError::Invalid(machinery::field::aggregate(&errors)))
        }
    }

    /// The resources it names, wildcards among them.
    pub fn resources(&self) -> impl Iterator<Item = GroupResource> {
        self.resources.iter().flat_map(|r| &r.resources).map(|r| group_resource(r))
    }
}

fn decode(bytes: &[u8]) -> Result<File, String> {
    if bytes.len() > LARGEST {
        return Err(format!("the file has {} bytes, at most {LARGEST} are read", bytes.len()));
    }
    // The text of a YAML error shows the lines around it, and keys are among them.
    let value: Value = serde_saphyr::from_slice(bytes).map_err(|e| {
        let at = e.location().map(|l| format!(" at line {}", l.line())).unwrap_or_default();
        format!("error converting YAML to JSON: yaml: it cannot be parsed{at}")
    })?;
    let text = |field: &str| value.get(field).and_then(Value::as_str).unwrap_or("").to_owned();
    match (text("apiVersion").as_str(), text("kind").as_str()) {
        (_, "") => return Err("Object 'Kind' is missing".into()),
        ("", _) => return Err("Object 'apiVersion' is missing".into()),
        // The second is the form of clusters before Kubernetes 1.13.
        ("apiserver.config.k8s.io/v1", "EncryptionConfiguration") | ("v1", "EncryptionConfig") => {}
        (version, kind) => return Err(format!("no kind {kind:?} is registered for version {version:?}")),
    }
    let mut unknown: Vec<String> = Vec::new();
    let file = serde_ignored::deserialize(value, |path| unknown.push(format!("{:?}", field(&path))))
        .map_err(|e| e.to_string())?;
    if unknown.is_empty() {
        return Ok(file);
    }
    let all: Vec<String> = unknown.iter().map(|f| format!("unknown field {f}")).collect();
    Err(format!("strict decoding error: {}", all.join(", ")))
}

/// A path as upstream writes it: `resources[0].providers[1].kms`.
fn field(path: &Path<'_>) -> String {
    match path {
        Path::Root => String::new(),
        Path::Seq { parent, index } => format!("{}[{index}]", field(parent)),
        Path::Map { parent, key } => match field(parent) {
            parent if parent.is_empty() => key.clone(),
            parent => format!("{parent}.{key}"),
        },
        Path::Some { parent } | Path::NewtypeStruct { parent } | Path::NewtypeVariant { parent } => {
            field(parent)
        }
    }
}

/// `secrets`, `deployments.apps`, `*.apps`, `*.` or `*.*`.
pub(crate) fn group_resource(text: &str) -> GroupResource {
    match text.split_once('.') {
        Some((resource, group)) => GroupResource::new(group, resource),
        None => GroupResource::new("", text),
    }
}

fn at_least_one(path: &FieldPath, what: &str) -> FieldError {
    FieldError::required(path, format!("at least one {what} is required"))
}

fn mandatory(path: &FieldPath, field: &str, of: &str) -> FieldError {
    FieldError::required(path, format!("{field} is a mandatory field for a {of}"))
}

fn validate(all: &[ResourceConfiguration], reload: bool) -> FieldErrors {
    let root = FieldPath::new("resources");
    if all.is_empty() {
        return vec![at_least_one(&root, "resources")];
    }
    let mut errors = FieldErrors::new();
    let mut names: Vec<&str> = Vec::new();
    for (i, one) in all.iter().enumerate() {
        let (resources, providers) = (root.index(i).child("resources"), root.index(i).child("providers"));
        if one.resources.is_empty() {
            errors.push(at_least_one(&resources, resources.as_str()));
        }
        overlaps(&one.resources, &resources, &mut errors);
        for (j, name) in one.resources.iter().enumerate() {
            if let Some(why) = bad_resource(name) {
                errors.push(FieldError::invalid(&resources.index(j), name.as_str(), why));
            }
        }
        if one.providers.is_empty() {
            errors.push(at_least_one(&providers, providers.as_str()));
        }
        for (j, provider) in one.providers.iter().enumerate() {
            validate_provider(provider, &providers.index(j), &mut names, reload, &mut errors);
        }
    }
    errors
}

fn validate_provider<'a>(
    provider: &'a ProviderConfiguration,
    path: &FieldPath,
    names: &mut Vec<&'a str>,
    reload: bool,
    errors: &mut FieldErrors,
) {
    let given = [
        ("KMS", provider.kms.is_some()),
        ("AESGCM", provider.aesgcm.is_some()),
        ("AESCBC", provider.aescbc.is_some()),
        ("Secretbox", provider.secretbox.is_some()),
        ("Identity", provider.identity.is_some()),
    ];
    let given: Vec<&str> = given.iter().filter(|(_, is)| *is).map(|(name, _)| *name).collect();
    if given.is_empty() {
        let why = "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity";
        errors.push(FieldError::invalid(path, json!({}), why));
    }
    if given.len() > 1 {
        let why =
            "more than one provider specified in a single element, should split into different list elements";
        errors.push(FieldError::invalid(path, given.join(", "), why));
    }
    if let Some(kms) = &provider.kms {
        validate_kms(kms, &path.child("kms"), names, reload, errors);
        names.push(&kms.name);
    } else if let Some(keys) = &provider.aesgcm {
        validate_keys(keys, &path.child("aesgcm"), &[16, 24, 32], errors);
    } else if let Some(keys) = &provider.aescbc {
        validate_keys(keys, &path.child("aescbc"), &[16, 24, 32], errors);
    } else if let Some(keys) = &provider.secretbox {
        validate_keys(keys, &path.child("secretbox"), &[32], errors);
    }
}

fn overlaps(resources: &[String], path: &FieldPath, errors: &mut FieldErrors) {
    let all: Vec<GroupResource> = resources.iter().map(|r| group_resource(r)).collect();
    let (mut twice, mut masked) = (false, false);
    for (i, a) in all.iter().enumerate() {
        for b in all.iter().skip(i + 1) {
            if a == b && !twice {
                twice = true;
                continue;
            }
            let everything = |r: &GroupResource| r.group == "*" && r.resource == "*";
            masked |= everything(a) || everything(b);
            masked |= a.group == b.group && (a.resource == "*" || b.resource == "*");
        }
    }
    if twice {
        let why = "the same resource cannot be specified multiple times";
        errors.push(FieldError::invalid(path, json!(resources), why));
    }
    if masked {
        let why = "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be masked";
        errors.push(FieldError::invalid(path, json!(resources), why));
    }
}

fn bad_resource(name: &str) -> Option<&'static str> {
    let parsed = group_resource(name);
    if name.to_lowercase() != name {
        Some("resource name should not contain capital letters")
    } else if name == "*" {
        Some("use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources")
    } else if matches!(name, "apiserveripinfo" | "serviceipallocations" | "servicenodeportallocations") {
        Some("resources which do not have REST API/s cannot be encrypted")
    } else if parsed.group == "events.k8s.io" {
        Some(
            "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file",
        )
    } else if parsed.group == "extensions" {
        Some("'extensions' group has been removed and cannot be used for encryption")
    } else if parsed.group == "*" && parsed.resource != "*" {
        Some("encrypting the same resource across groups is not supported")
    } else {
        None
    }
}

fn validate_keys(keys: &Keys, path: &FieldPath, sizes: &[usize], errors: &mut FieldErrors) {
    let path = path.child("keys");
    if keys.keys.is_empty() {
        errors.push(at_least_one(&path, "keys"));
    }
    for (i, key) in keys.keys.iter().enumerate() {
        let path = path.index(i);
        if key.name.is_empty() {
            errors.push(mandatory(&path.child("name"), "name", "key"));
        }
        let path = path.child("secret");
        if key.secret.is_empty() {
            errors.push(mandatory(&path, "secret", "key"));
            continue;
        }
        match key.secret() {
            None => errors.push(FieldError::invalid(&path, "REDACTED", "secrets must be base64 encoded")),
            Some(secret) if !sizes.contains(&secret.len()) => {
                let sizes: Vec<String> = sizes.iter().map(usize::to_string).collect();
                let why = format!(
                    "secret is not of the expected length, got {}, expected one of [{}]",
                    secret.len(),
                    sizes.join(" ")
                );
                errors.push(FieldError::invalid(&path, "REDACTED", why));
            }
            Some(_) => {}
        }
    }
}

fn validate_kms(
    kms: &KmsConfiguration,
    path: &FieldPath,
    names: &[&str],
    reload: bool,
    errors: &mut FieldErrors,
) {
    let is_v1 = kms.api_version == "v1";
    let name = path.child("name");
    if kms.name.is_empty() {
        errors.push(mandatory(&name, "name", "provider"));
    }
    if !is_v1 && kms.name.contains(':') {
        let why = format!("invalid KMS provider name {}, must not contain ':'", kms.name);
        errors.push(FieldError::invalid(&name, kms.name.as_str(), why));
    }
    if (reload || !is_v1) && names.contains(&kms.name.as_str()) {
        let why = format!("duplicate KMS provider name {}, names must be unique", kms.name);
        errors.push(FieldError::invalid(&name, kms.name.as_str(), why));
    }
    if let Some(text) = &kms.timeout
        && machinery::go_duration(text).is_none_or(|d| d.is_zero())
    {
        let why = "timeout should be a positive value";
        errors.push(FieldError::invalid(&path.child("timeout"), text.as_str(), why));
    }
    let endpoint = path.child("endpoint");
    if kms.endpoint.is_empty() {
        errors.push(FieldError::invalid(&endpoint, "", "endpoint is a mandatory field for a kms"));
    } else if !kms.endpoint.starts_with("unix:") {
        let scheme = kms.endpoint.split_once(':').map_or("", |(scheme, _)| scheme);
        let why = format!("unsupported scheme {scheme:?} for KMS provider, only unix is supported");
        errors.push(FieldError::invalid(&endpoint, kms.endpoint.as_str(), why));
    }
    if let (false, Some(size)) = (is_v1, kms.cachesize) {
        let why = "cachesize is not supported in v2";
        errors.push(FieldError::invalid(&path.child("cachesize"), size, why));
    }
    if is_v1 {
        let why = "KMSv1 is deprecated and has been removed here. Use KMSv2 instead: set apiVersion: v2";
        errors.push(FieldError::invalid(&path.child("apiVersion"), "v1", why));
    } else if kms.api_version != "v2" {
        // Upstream's text names the field in place of the value.
        let why = "unsupported apiVersion apiVersion for KMS provider, only v1 and v2 are supported";
        errors.push(FieldError::invalid(&path.child("apiVersion"), kms.api_version.as_str(), why));
    }
}

#[cfg(test)]
mod tests;
