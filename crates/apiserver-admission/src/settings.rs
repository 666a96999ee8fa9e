//! What plugins are told: `AdmissionConfiguration`, and the configuration of each plugin in it or beside it. Upstream:
//! apiserver/pkg/admission/config.go, 1.36.
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Why a configuration cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

/// What the plugins are told, by their names.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings(BTreeMap<String, Value>);

const VERSIONS: [&str; 2] = ["apiserver.config.k8s.io/v1", "apiserver.k8s.io/v1alpha1"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    plugins: Vec<FilePlugin>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FilePlugin {
    #[serde(default)]
    name: String,
    #[serde(default)]
    path: String,
    configuration: Option<Value>,
}

/// A configuration of some kind and version; unknown fields are errors.
pub(crate) fn typed<T: DeserializeOwned>(
    value: &Value,
    kind: &str,
    versions: &[&str],
) -> Result<T, ConfigError> {
    let (given, version) = (value["kind"].as_str().unwrap_or(""), value["apiVersion"].as_str().unwrap_or(""));
    if given != kind || !versions.contains(&version) {
        let first = versions.first().copied().unwrap_or_default();
        return Err(ConfigError(format!(
            "no kind {given:?} is registered for version {version:?}; want {kind} of {first}"
        )));
    }
    let mut fields = value.clone();
    if let Some(fields) = fields.as_object_mut() {
        fields.remove("kind");
        fields.remove("apiVersion");
    }
    serde_json::from_value(fields).map_err(|e| ConfigError(format!("strict decoding error: {e}")))
}

fn yaml(text: &str) -> Result<Value, ConfigError> {
    serde_saphyr::from_str(text).map_err(|e| ConfigError(e.to_string()))
}

impl Settings {
    /// Reads the text of an `AdmissionConfiguration`, YAML or JSON. `read` gives the text of the files it names, whose
    /// paths are relative to `directory`.
    pub fn parse(
        text: &str,
        directory: &Path,
        read: impl Fn(&Path) -> Result<String, String>,
    ) -> Result<Self, ConfigError> {
        let file: File = typed(&yaml(text)?, "AdmissionConfiguration", &VERSIONS)?;
        let mut all = BTreeMap::new();
        for plugin in file.plugins {
            let configuration = match (plugin.configuration, plugin.path.as_str()) {
                (Some(value), _) if !value.is_null() => value,
                (_, "") => continue,
                (_, path) => {
                    let path: PathBuf = directory.join(path);
                    let unusable =
                        |why: &dyn std::fmt::Display| ConfigError(format!("{}: {why}", path.display()));
                    let text = read(&path).map_err(|e| unusable(&e))?;
                    yaml(&text).map_err(|e| unusable(&e))?
                }
            };
            // Of several for one plugin, upstream takes the first.
            all.entry(plugin.name).or_insert(configuration);
        }
        Ok(Self(all))
    }

    /// The configuration of a plugin, where it has one.
    pub fn of(&self, plugin: &str) -> Option<&Value> {
        self.0.get(plugin)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const HEAD: &str = "apiVersion: apiserver.config.k8s.io/v1\nkind: AdmissionConfiguration\n";

    fn parse(text: &str) -> Result<Settings, ConfigError> {
        Settings::parse(text, Path::new("/etc/k8s"), |path| match path.to_str() {
            Some("/etc/k8s/rates.yaml") => Ok("a: 1\n".into()),
            Some("/abs.yaml") => Ok("{\"b\": 2}".into()),
            _ => Err("no such file".into()),
        })
    }

    #[test]
    fn configurations_stand_inside_or_beside() {
        let settings = parse(&format!(
            "{HEAD}plugins:\n- {{name: A, configuration: {{x: one}}}}\n- {{name: B, path: rates.yaml}}\n- {{name: C, path: \
             /abs.yaml}}\n- {{name: D}}\n- {{name: A, configuration: {{x: two}}}}\n"
        ));
        let settings = settings.unwrap();
        assert_eq!(settings.of("A"), Some(&json!({"x": "one"})));
        assert_eq!(settings.of("B"), Some(&json!({"a": 1})));
        assert_eq!(settings.of("C"), Some(&json!({"b": 2})));
        assert_eq!(settings.of("D"), None);
        assert_eq!(parse(HEAD), Ok(Settings::default()));
    }

    #[test]
    fn what_is_wrong_is_told() {
        for (text, want) in [
            ("kind: Pod\napiVersion: v1\n", "no kind \"Pod\" is registered for version \"v1\""),
            ("[]", "no kind \"\" is registered"),
            (&format!("{HEAD}plugin: []\n"), "unknown field `plugin`"),
            (&format!("{HEAD}plugins: [{{name: A, path: none}}]\n"), "/etc/k8s/none: no such file"),
            ("{", ""),
        ] {
            let got = parse(text).expect_err(text).0;
            assert!(got.contains(want), "{text}: {got}");
        }
    }
}
