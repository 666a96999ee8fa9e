//! How a server is asked about images, and what its answers are worth.
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use crate::settings::ConfigError;

const SECOND: Duration = Duration::from_secs(1);
const MILLISECOND: Duration = Duration::from_millis(1);

/// Settled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    /// How long a yes is kept; zero: not at all.
    pub allow_ttl: Duration,
    /// How long a no is kept; zero: not at all.
    pub deny_ttl: Duration,
    /// The first pause between two tries.
    pub retry_backoff: Duration,
    /// Whether pods are let in where there is no answer.
    pub default_allow: bool,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct File {
    #[serde(default)]
    image_policy: Given,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Given {
    #[serde(default)]
    kube_config_file: String,
    #[serde(default, rename = "allowTTL")]
    allow_ttl: i64,
    #[serde(default, rename = "denyTTL")]
    deny_ttl: i64,
    #[serde(default)]
    retry_backoff: i64,
    #[serde(default)]
    default_allow: bool,
}

/// A number of `unit`s within bounds; 0 means the default, -1 none.
fn settled(
    given: i64,
    unit: Duration,
    least: Duration,
    most: Duration,
    default: Duration,
) -> Result<Duration, ConfigError> {
    match given {
        -1 => return Ok(Duration::ZERO),
        0 => return Ok(default),
        _ => {}
    }
    let value = u32::try_from(given).ok().and_then(|n| unit.checked_mul(n));
    value.filter(|value| (least..=most).contains(value)).ok_or_else(|| {
        ConfigError(format!("valid value is between {least:?} and {most:?}, got {given} times {unit:?}"))
    })
}

/// The path of the kubeconfig and all else.
pub(super) fn read(config: &Value) -> Result<(String, Options), ConfigError> {
    let file: File = serde_json::from_value(config.clone()).map_err(|e| ConfigError(e.to_string()))?;
    let given = file.image_policy;
    let half_hour = SECOND * 30 * 60;
    let options = Options {
        retry_backoff: settled(
            given.retry_backoff,
            MILLISECOND,
            MILLISECOND,
            SECOND * 300,
            MILLISECOND * 500,
        )?,
        allow_ttl: settled(given.allow_ttl, SECOND, SECOND, half_hour, SECOND * 300)?,
        deny_ttl: settled(given.deny_ttl, SECOND, SECOND, half_hour, SECOND * 30)?,
        default_allow: given.default_allow,
    };
    Ok((given.kube_config_file, options))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn times_have_defaults_and_bounds() {
        let times = |config: Value| {
            let options = read(&json!({"imagePolicy": config})).map_err(|e| e.0)?.1;
            Ok((options.retry_backoff.as_millis(), options.allow_ttl.as_secs(), options.deny_ttl.as_secs()))
        };
        let wrong = |least: &str, most: &str, got: &str| {
            Err(format!("valid value is between {least} and {most}, got {got}"))
        };
        for (config, want) in [
            (json!({}), Ok((500, 300, 30))),
            (json!({"retryBackoff": 1, "allowTTL": 1, "denyTTL": 1800}), Ok((1, 1, 1800))),
            (json!({"retryBackoff": -1, "allowTTL": -1, "denyTTL": -1}), Ok((0, 0, 0))),
            (json!({"allowTTL": 1801}), wrong("1s", "1800s", "1801 times 1s")),
            (json!({"denyTTL": -2}), wrong("1s", "1800s", "-2 times 1s")),
            (json!({"retryBackoff": 300_001}), wrong("1ms", "300s", "300001 times 1ms")),
        ] {
            assert_eq!(times(config.clone()), want, "{config}");
        }
        assert!(read(&json!({"imagePolicy": {"allowTTL": "30s"}})).is_err());
        let (path, options) =
            read(&json!({"imagePolicy": {"kubeConfigFile": "/k", "defaultAllow": true}})).unwrap();
        assert_eq!((path.as_str(), options.default_allow), ("/k", true));
    }
}
