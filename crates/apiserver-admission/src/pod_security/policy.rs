//! Levels and versions: from labels of namespaces, and from `PodSecurityConfiguration`. Upstream:
//! pod-security-admission/{api/helpers.go,admission/api}, 1.36.
use std::fmt;

use machinery::field::{FieldError, FieldPath, aggregate};
use machinery::{Object, names};
use serde::Deserialize;
use serde_json::Value;

use crate::settings::{ConfigError, typed};

/// How much a pod may do to its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Privileged,
    Baseline,
    Restricted,
}

/// The release whose rules count: the minor number, or the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(u32);

impl Version {
    pub(super) const LATEST: Self = Self(u32::MAX);

    /// Whether the rules of release 1.`minor` count.
    pub(super) fn since(self, minor: u32) -> bool {
        self.0 >= minor
    }

    fn parse(text: &str) -> Result<Self, (Self, &'static str)> {
        if text == "latest" {
            return Ok(Self::LATEST);
        }
        let minor = text.strip_prefix("v1.").filter(|m| *m == "0" || !m.starts_with('0'));
        let minor = minor.filter(|m| !m.is_empty() && m.bytes().all(|b| b.is_ascii_digit()));
        let minor = minor.and_then(|m| m.parse().ok()).filter(|m| *m < u32::MAX);
        minor.map(Self).ok_or((Self::LATEST, "must be \"latest\" or \"v1.x\""))
    }
}

impl Level {
    /// What cannot be read counts as the strictest.
    fn parse(text: &str) -> Result<Self, (Self, &'static str)> {
        match text {
            "privileged" => Ok(Self::Privileged),
            "baseline" => Ok(Self::Baseline),
            "restricted" => Ok(Self::Restricted),
            _ => Err((Self::Restricted, "must be one of privileged, baseline, restricted")),
        }
    }
}

/// A level of a release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LevelVersion {
    pub level: Level,
    pub version: Version,
}

impl fmt::Display for LevelVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Privileged => "privileged",
            Level::Baseline => "baseline",
            Level::Restricted => "restricted",
        };
        if self.version == Version::LATEST {
            write!(f, "{level}:latest")
        } else {
            write!(f, "{level}:v1.{}", self.version.0)
        }
    }
}

const OPEN: LevelVersion = LevelVersion { level: Level::Privileged, version: Version::LATEST };

/// What holds in a namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Policy {
    pub enforce: LevelVersion,
    pub audit: LevelVersion,
    pub warn: LevelVersion,
}

impl Default for Policy {
    fn default() -> Self {
        Self { enforce: OPEN, audit: OPEN, warn: OPEN }
    }
}

const PREFIX: &str = "pod-security.kubernetes.io/";

impl Policy {
    /// As the labels of a namespace ask for it, and what is wrong with them. What they leave open is as in `self`.
    pub(super) fn of(&self, namespace: &Object) -> (Self, Vec<FieldError>) {
        let (mut policy, mut errors) = (*self, Vec::new());
        let labels = FieldPath::new("metadata").child("labels");
        let mut read = |mode: &str, of: &mut LevelVersion, fails_open: bool| {
            let mut wrong = |label: &str, text: &str, why: &str| {
                errors.push(FieldError::invalid(&labels.key(label), text.to_owned(), why));
            };
            let label = format!("{PREFIX}{mode}");
            if let Some(text) = namespace.label(&label) {
                of.level = Level::parse(text).unwrap_or_else(|(strict, why)| {
                    wrong(&label, text, why);
                    if fails_open { Level::Privileged } else { strict }
                });
            }
            let label = format!("{PREFIX}{mode}-version");
            if let Some(text) = namespace.label(&label) {
                of.version = Version::parse(text).unwrap_or_else(|(latest, why)| {
                    wrong(&label, text, why);
                    latest
                });
            }
        };
        read("enforce", &mut policy.enforce, false);
        read("audit", &mut policy.audit, true);
        read("warn", &mut policy.warn, true);
        (policy, errors)
    }
}

/// Who is let through unseen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Exemptions {
    #[serde(default)]
    usernames: Vec<String>,
    #[serde(default)]
    namespaces: Vec<String>,
    #[serde(default)]
    runtime_classes: Vec<String>,
}

impl Exemptions {
    pub(super) fn has_namespace(&self, name: &str) -> bool {
        !name.is_empty() && self.namespaces.iter().any(|n| n == name)
    }

    pub(super) fn has_user(&self, name: &str) -> bool {
        !name.is_empty() && self.usernames.iter().any(|n| n == name)
    }

    pub(super) fn has_runtime_class(&self, name: &str) -> bool {
        !name.is_empty() && self.runtime_classes.iter().any(|n| n == name)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    defaults: FileDefaults,
    #[serde(default)]
    exemptions: Exemptions,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
struct FileDefaults {
    enforce: Option<String>,
    enforce_version: Option<String>,
    audit: Option<String>,
    audit_version: Option<String>,
    warn: Option<String>,
    warn_version: Option<String>,
}

/// Reads `PodSecurityConfiguration`: what holds where labels say nothing, and who is exempt.
pub(super) fn configuration(config: Option<&Value>) -> Result<(Policy, Exemptions), ConfigError> {
    let Some(config) = config else { return Ok((Policy::default(), Exemptions::default())) };
    let versions = ["v1", "v1beta1", "v1alpha1"].map(|v| format!("pod-security.admission.config.k8s.io/{v}"));
    let file: File = typed(config, "PodSecurityConfiguration", &versions.each_ref().map(String::as_str))?;
    let mut errors = Vec::new();
    let mut level_version = |mode: &str, level: &Option<String>, version: &Option<String>| {
        let path = |field: &str| FieldPath::new("defaults").child(field);
        let mut of = OPEN;
        // Upstream fills in what is left out or empty.
        if let Some(text) = level.as_deref().filter(|t| !t.is_empty()) {
            of.level = Level::parse(text).unwrap_or_else(|(strict, why)| {
                errors.push(FieldError::invalid(&path(mode), text, why));
                strict
            });
        }
        if let Some(text) = version.as_deref().filter(|t| !t.is_empty()) {
            of.version = Version::parse(text).unwrap_or_else(|(latest, why)| {
                errors.push(FieldError::invalid(&path(&format!("{mode}-version")), text, why));
                latest
            });
        }
        of
    };
    let d = &file.defaults;
    let policy = Policy {
        enforce: level_version("enforce", &d.enforce, &d.enforce_version),
        warn: level_version("warn", &d.warn, &d.warn_version),
        audit: level_version("audit", &d.audit, &d.audit_version),
    };
    let mut each = |field: &str, all: &[String], wrong: fn(&str) -> Vec<String>| {
        for (i, name) in all.iter().enumerate() {
            let path = FieldPath::new("exemptions").child(field).index(i);
            let problems = wrong(name);
            if name.is_empty() && field == "usernames" {
                errors.push(FieldError::required(&path, ""));
            } else if !problems.is_empty() {
                errors.push(FieldError::invalid(&path, name.clone(), problems.join(", ")));
            } else if all[..i].contains(name) {
                errors.push(FieldError::duplicate(&path, name.clone()));
            }
        }
    };
    each("namespaces", &file.exemptions.namespaces, names::dns1123_label);
    each("runtimeClasses", &file.exemptions.runtime_classes, names::dns1123_subdomain);
    each("usernames", &file.exemptions.usernames, |_| Vec::new());
    if errors.is_empty() { Ok((policy, file.exemptions)) } else { Err(ConfigError(aggregate(&errors))) }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn namespace(labels: &[(&str, &str)]) -> Object {
        let labels: serde_json::Map<String, Value> =
            labels.iter().map(|(k, v)| (format!("{PREFIX}{k}"), (*v).into())).collect();
        Object::from_value(json!({"metadata": {"name": "a", "labels": labels}})).unwrap()
    }

    #[test]
    fn labels_name_levels_and_versions() {
        for (labels, want, errors) in [
            (&[][..], ["privileged:latest"; 3], 0),
            (
                &[("enforce", "baseline"), ("enforce-version", "v1.24"), ("warn", "restricted")],
                ["baseline:v1.24", "privileged:latest", "restricted:latest"],
                0,
            ),
            // What cannot be read is strict where it counts, and says nothing where it only tells.
            (
                &[("enforce", "x"), ("audit", "x"), ("warn", "x")],
                ["restricted:latest", "privileged:latest", "privileged:latest"],
                3,
            ),
            (
                &[("enforce", "baseline"), ("enforce-version", "1.24")],
                ["baseline:latest", "privileged:latest", "privileged:latest"],
                1,
            ),
            (&[("audit-version", "v1.01")], ["privileged:latest"; 3], 1),
            (
                &[("warn", "baseline"), ("warn-version", "v1.0")],
                ["privileged:latest", "privileged:latest", "baseline:v1.0"],
                0,
            ),
        ] {
            let (policy, wrong) = Policy::default().of(&namespace(labels));
            let got = [policy.enforce, policy.audit, policy.warn].map(|lv| lv.to_string());
            assert_eq!((got, wrong.len()), (want.map(str::to_owned), errors), "{labels:?}");
        }
        let (_, wrong) = Policy::default().of(&namespace(&[("enforce", "high")]));
        assert_eq!(
            aggregate(&wrong),
            "metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: \"high\": must be one of privileged, \
             baseline, restricted"
        );
    }

    #[test]
    fn the_file_sets_what_labels_leave_open() {
        let file = |defaults: Value, exemptions: Value| {
            json!({"apiVersion": "pod-security.admission.config.k8s.io/v1", "kind": "PodSecurityConfiguration",
                "defaults": defaults, "exemptions": exemptions})
        };
        let good = file(
            json!({"enforce": "baseline", "enforce-version": "v1.30", "audit": "restricted", "warn": ""}),
            json!({"usernames": ["a b"], "namespaces": ["kube-system"], "runtimeClasses": ["kata"]}),
        );
        let (policy, exempt) = configuration(Some(&good)).unwrap();
        assert_eq!(policy.enforce.to_string(), "baseline:v1.30");
        assert_eq!((policy.audit.to_string(), policy.warn), ("restricted:latest".to_owned(), OPEN));
        assert!(
            exempt.has_user("a b") && exempt.has_namespace("kube-system") && exempt.has_runtime_class("kata")
        );
        assert!(!exempt.has_user("") && !exempt.has_namespace("default"));
        let (labelled, _) = policy.of(&namespace(&[("enforce", "restricted")]));
        assert_eq!(labelled.enforce.to_string(), "restricted:v1.30");
        for (defaults, exemptions, want) in [
            (
                json!({"enforce": "x"}),
                json!({}),
                "defaults.enforce: Invalid value: \"x\": must be one of privileged, baseline, restricted",
            ),
            (
                json!({"warn-version": "1"}),
                json!({}),
                "defaults.warn-version: Invalid value: \"1\": must be \"latest\"",
            ),
            (json!({}), json!({"namespaces": ["A"]}), "exemptions.namespaces[0]: Invalid value: \"A\""),
            (
                json!({}),
                json!({"namespaces": ["a", "a"]}),
                "exemptions.namespaces[1]: Duplicate value: \"a\"",
            ),
            (json!({}), json!({"usernames": [""]}), "exemptions.usernames[0]: Required value"),
            (json!({"enforced": "x"}), json!({}), "unknown field `enforced`"),
        ] {
            let got = configuration(Some(&file(defaults, exemptions))).unwrap_err().0;
            assert!(got.contains(want), "{got}");
        }
    }
}
