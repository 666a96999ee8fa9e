//! What nobody may take without a quota that counts it: `ResourceQuotaConfiguration`.
use machinery::Object;
use machinery::field::{FieldError, FieldPath, aggregate};
use quota::{Amounts, Counted, Scope};
use serde::Deserialize;
use serde_json::Value;

use crate::settings::{ConfigError, typed};

/// What is limited by default, as the configuration names it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Limited(Vec<LimitedResource>);

#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct LimitedResource {
    #[serde(default)]
    api_group: String,
    #[serde(default)]
    resource: String,
    #[serde(default)]
    match_contains: Vec<String>,
    #[serde(default)]
    match_scopes: Vec<Scope>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(default)]
    limited_resources: Vec<LimitedResource>,
}

impl Limited {
    pub(super) fn from_config(config: Option<&Value>) -> Result<Self, ConfigError> {
        let Some(config) = config else { return Ok(Self::default()) };
        let file: File = if config["kind"] == "Configuration" {
            let versions =
                ["resourcequota.admission.k8s.io/v1beta1", "resourcequota.admission.k8s.io/v1alpha1"];
            typed(config, "Configuration", &versions)?
        } else {
            typed(config, "ResourceQuotaConfiguration", &["apiserver.config.k8s.io/v1"])?
        };
        let mut errors = Vec::new();
        for (i, limited) in file.limited_resources.iter().enumerate() {
            let path = FieldPath::new("limitedResources").index(i);
            if limited.resource.is_empty() {
                errors.push(FieldError::required(&path.child("resource"), ""));
            }
        }
        if errors.is_empty() {
            Ok(Self(file.limited_resources))
        } else {
            Err(ConfigError(aggregate(&errors)))
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Names that a quota has to count before a request may take of them.
    pub(super) fn names<'a>(&self, counted: &Counted<'_>, taken: &'a Amounts) -> Vec<&'a str> {
        let about = |l: &&LimitedResource| l.api_group == counted.group && l.resource == counted.resource;
        let of: Vec<&LimitedResource> = self.0.iter().filter(about).collect();
        let is_limited =
            |name: &str| of.iter().any(|l| l.match_contains.iter().any(|part| name.contains(part.as_str())));
        taken.keys().map(String::as_str).filter(|name| is_limited(name)).collect()
    }

    /// Scopes that the object is in, and that a quota has to name before there may be such objects; whatever resource
    /// the configuration names beside them.
    pub(super) fn scopes(&self, counted: &Counted<'_>, object: &Object) -> Vec<Scope> {
        let all = self.0.iter().flat_map(|l| &l.match_scopes);
        all.filter(|scope| counted.is_in(scope, object)).cloned().collect()
    }
}
