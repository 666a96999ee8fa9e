//! Configuration files of the parts (`--config`): upstream's kinds, read strictly. Every field is accounted for: it is
//! taken, or it says what is done anyway, or it is named in a warning or an error.
pub mod kubelet;
pub mod proxy;
pub mod scheduler;

use std::path::Path;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::output::Failure;

/// The longest file that is read.
const MOST_BYTES: u64 = 1 << 20;

/// What is wrong with a file; the file itself is named by whoever reads it.
type Wrong = String;

/// Fields of the kind that upstream knows and we do nothing with: path and upstream's default, as JSON. A path stands
/// for all below it.
type Ignored = [(&'static str, &'static str)];

/// Default of `logging`, which all these kinds have.
const LOGGING: &str = r#"{"format":"text","flushFrequency":"5s","verbosity":0,
    "options":{"json":{"infoBufferSize":"0","splitStream":false},"text":{"infoBufferSize":"0","splitStream":false}}}"#;

/// What is left to be read of an object.
#[derive(Debug, Default)]
pub struct Fields {
    /// Where the object is, with a dot behind it; empty at the top.
    at: String,
    left: Map<String, Value>,
}

/// Reads a file of one kind with `read`; answers what it makes of it and the warnings.
pub fn load<T>(
    path: &Path,
    api_version: &str,
    kind: &str,
    read: impl FnOnce(&mut Fields) -> Result<T, Wrong>,
    ignored: &Ignored,
) -> Result<(T, Vec<String>), Failure> {
    let fail = |why: String| {
        Failure::new(format!("cannot use {}: {why}", path.display()), format!("--config wants a {kind}"))
    };
    let found = std::fs::metadata(path).map_err(|e| fail(e.to_string()))?;
    if found.is_dir() {
        // Long ago it was the directory of static pods.
        return Err(fail(
            "it is a directory; that of static pods is named with --pod-manifest-path of the kubelet".into(),
        ));
    }
    let size = found.len();
    if size > MOST_BYTES {
        return Err(fail(format!("it has {size} bytes, {MOST_BYTES} are read at most")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| fail(e.to_string()))?;
    parse(&text, api_version, kind, read, ignored).map_err(fail)
}

fn parse<T>(
    text: &str,
    api_version: &str,
    kind: &str,
    read: impl FnOnce(&mut Fields) -> Result<T, Wrong>,
    ignored: &Ignored,
) -> Result<(T, Vec<String>), Wrong> {
    let value: Value = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
    let Value::Object(left) = value else { return Err("it holds no object".into()) };
    let mut fields = Fields { at: String::new(), left };
    let version: String = fields.take("apiVersion")?.unwrap_or_default();
    let found: String = fields.take("kind")?.unwrap_or_default();
    if found == kind
        && let Some(since) = former(&version)
    {
        return Err(format!("{kind} of {version} is {since}; write apiVersion: {api_version}"));
    }
    if (version.as_str(), found.as_str()) != (api_version, kind) {
        return Err(format!(
            "no kind {found:?} is registered for version {version:?}; wanted {kind} of {api_version}"
        ));
    }
    let read = read(&mut fields)?;
    Ok((read, fields.end(ignored)?))
}

/// What became of a version of these kinds.
fn former(api_version: &str) -> Option<&'static str> {
    Some(match api_version {
        "componentconfig/v1alpha1" => "gone since v1.12, when each part got a group of its own",
        "kubescheduler.config.k8s.io/v1alpha1" => "removed in v1.19",
        "kubescheduler.config.k8s.io/v1alpha2" => "removed in v1.20",
        "kubescheduler.config.k8s.io/v1beta1" => "removed in v1.23",
        "kubescheduler.config.k8s.io/v1beta2" => "removed in v1.28",
        "kubescheduler.config.k8s.io/v1beta3" => "removed in v1.29",
        "kubelet.config.k8s.io/v1alpha1" => "gone since v1.10",
        _ => return None,
    })
}

/// What to write in place of a field that former versions of these kinds had.
fn former_field(path: &str) -> Option<&'static str> {
    Some(match path {
        "algorithmSource" => "use profiles",
        "bindTimeoutSeconds" => "use pluginConfig of VolumeBinding in a profile",
        "disablePreemption" => "disable DefaultPreemption among a profile's plugins",
        "hardPodAffinitySymmetricWeight" => "use pluginConfig of InterPodAffinity in a profile",
        "schedulerName" => "use schedulerName in a profile",
        "healthzBindAddress" | "metricsBindAddress" => "use --bind-address and --secure-port",
        "resourceContainer" | "udpIdleTimeout" => "leave it out",
        _ => return None,
    })
}

impl Fields {
    /// Takes a field by its path; absent and null are the same.
    pub fn take<T: DeserializeOwned>(&mut self, path: &str) -> Result<Option<T>, Wrong> {
        match remove(&mut self.left, path) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value).map(Some).map_err(|e| self.invalid(path, &e)),
        }
    }

    /// Takes a field that is text for something else: an address, a network.
    pub fn text<T>(&mut self, path: &str) -> Result<Option<T>, Wrong>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
    {
        let Some(text) = self.take::<String>(path)?.filter(|text| !text.is_empty()) else { return Ok(None) };
        text.parse().map(Some).map_err(|e| self.invalid(path, &format!("{text:?}: {e}")))
    }

    /// Takes a list of such texts.
    pub fn texts<T>(&mut self, path: &str) -> Result<Vec<T>, Wrong>
    where
        T: std::str::FromStr<Err: std::fmt::Display>,
    {
        let list: Vec<String> = self.take(path)?.unwrap_or_default();
        list.iter()
            .map(|text| text.parse().map_err(|e| self.invalid(path, &format!("{text:?}: {e}"))))
            .collect()
    }

    /// Takes a duration as Go writes it; 0 means the default, as upstream has it.
    pub fn duration(&mut self, path: &str) -> Result<Option<Duration>, Wrong> {
        let Some(text) = self.take::<String>(path)? else { return Ok(None) };
        let duration = machinery::go_duration(&text)
            .ok_or_else(|| self.invalid(path, &format!("{text:?} is no duration; one is 1m30s")))?;
        Ok(Some(duration).filter(|d| !d.is_zero()))
    }

    /// Takes a list of objects, to be read in turn.
    pub fn objects(&mut self, path: &str) -> Result<Vec<Fields>, Wrong> {
        let list: Vec<Map<String, Value>> = self.take(path)?.unwrap_or_default();
        let at = |i: usize| format!("{}{path}[{i}].", self.at);
        Ok(list.into_iter().enumerate().map(|(i, left)| Fields { at: at(i), left }).collect())
    }

    /// The text of an error about a field.
    pub fn invalid(&self, path: &str, why: &dyn std::fmt::Display) -> Wrong {
        format!("{}{path}: {why}", self.at)
    }

    /// Accounts for what nobody took: the warnings, or the field that the kind does not have.
    pub fn end(self, ignored: &Ignored) -> Result<Vec<String>, Wrong> {
        let mut warnings = Vec::new();
        leftovers("", &self.at, &Value::Object(self.left), ignored, &mut warnings)?;
        Ok(warnings)
    }
}

fn leftovers(
    path: &str,
    at: &str,
    value: &Value,
    ignored: &Ignored,
    warnings: &mut Vec<String>,
) -> Result<(), Wrong> {
    if let Some((_, default)) = ignored.iter().find(|(known, _)| *known == path) {
        let default: Value = serde_json::from_str(default).unwrap_or(Value::Null);
        if !is_idle(value, Some(&default)) {
            warnings.push(format!("{at}{path} has no effect: it is not supported"));
        }
        return Ok(());
    }
    match value {
        // Taken in part: what is left of it has names of its own.
        Value::Object(fields)
            if path.is_empty() || !ignored_below(path, ignored).is_empty() || fields.is_empty() =>
        {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                leftovers(&path, at, value, ignored, warnings)?;
            }
            Ok(())
        }
        _ => Err(match former_field(path) {
            Some(instead) => format!("unknown field \"{at}{path}\": former versions had it; {instead}"),
            None => format!("unknown field \"{at}{path}\""),
        }),
    }
}

/// The known fields below a path.
fn ignored_below(path: &str, ignored: &Ignored) -> Vec<&'static str> {
    let below = |known: &str| known.strip_prefix(path).is_some_and(|rest| rest.starts_with('.'));
    ignored.iter().map(|(known, _)| *known).filter(|known| below(known)).collect()
}

/// Whether a value asks for nothing: it is upstream's default, or what Go leaves out, or a zero that means the default.
fn is_idle(value: &Value, default: Option<&Value>) -> bool {
    match value {
        Value::Null => true,
        Value::String(text) if text.is_empty() || text == "0s" => true,
        Value::Array(list) if list.is_empty() => true,
        Value::Number(number) if number.as_f64() == Some(0.0) => true,
        Value::Object(fields) => {
            fields.iter().all(|(name, value)| is_idle(value, default.and_then(|d| d.get(name))))
        }
        value => Some(value) == default,
    }
}

/// Takes a value by its path; objects that are empty then are taken with it.
fn remove(fields: &mut Map<String, Value>, path: &str) -> Option<Value> {
    let Some((first, rest)) = path.split_once('.') else { return fields.remove(path) };
    let (found, done) = match fields.get_mut(first)? {
        Value::Object(inner) => (remove(inner, rest), inner.is_empty()),
        other => (None, other.is_null()),
    };
    if done {
        fields.remove(first);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const IGNORED: &Ignored =
        &[("logging", r#"{"format":"text"}"#), ("limits.pids", "-1"), ("limits.files", "1000")];

    fn read(text: &str) -> Result<(Option<u8>, Vec<String>), String> {
        let text = format!("apiVersion: example.io/v1\nkind: Example\n{text}");
        parse(&text, "example.io/v1", "Example", |f| f.take("limits.pods"), IGNORED)
    }

    #[test]
    fn every_field_is_accounted_for() {
        let check = |text: &str, expect: Result<(Option<u8>, &[&str]), &str>| {
            let expect = expect
                .map(|(pods, warnings)| (pods, warnings.iter().map(|w| (*w).to_owned()).collect::<Vec<_>>()))
                .map_err(str::to_owned);
            assert_eq!(read(text), expect, "{text}");
        };
        check("", Ok((None, &[])));
        check(
            "limits: {pods: 3, pids: -1, files: 0}\nlogging: {verbosity: 0, format: text}",
            Ok((Some(3), &[])),
        );
        check(
            "limits: {pids: 7}\nlogging: {format: json}",
            Ok((
                None,
                &[
                    "limits.pids has no effect: it is not supported",
                    "logging has no effect: it is not supported",
                ],
            )),
        );
        check("limits: {pod: 3}", Err("unknown field \"limits.pod\""));
        check("limit: {pods: 3}", Err("unknown field \"limit\""));
        check("other: 1", Err("unknown field \"other\""));
        let former =
            "unknown field \"schedulerName\": former versions had it; use schedulerName in a profile";
        check("schedulerName: x", Err(former));
        check("limits: {pods: many}", Err("limits.pods: invalid type: string \"many\", expected u8"));
        check("limits: 3", Err("unknown field \"limits\""));
    }

    #[test]
    fn the_kind_has_to_be_right() {
        let kind = |text: &str| parse(text, "example.io/v1", "Example", |_| Ok(()), IGNORED).unwrap_err();
        assert_eq!(
            kind("apiVersion: example.io/v2\nkind: Example"),
            "no kind \"Example\" is registered for version \"example.io/v2\"; wanted Example of example.io/v1"
        );
        assert!(kind("{}").contains("wanted Example"));
        let old = kind("apiVersion: kubescheduler.config.k8s.io/v1alpha1\nkind: Example");
        assert_eq!(
            old,
            "Example of kubescheduler.config.k8s.io/v1alpha1 is removed in v1.19; write apiVersion: example.io/v1"
        );
        assert_eq!(kind("- 1"), "it holds no object");
        assert!(!kind("a: [").is_empty());
        assert!(kind("kind: Example\nkind: Example").contains("duplicate"));
    }
}
