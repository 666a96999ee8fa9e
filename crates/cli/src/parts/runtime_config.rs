//! `--runtime-config` of the API server: which groups and versions are served. Upstream: resourceconfig, 1.36.
use std::collections::BTreeSet;

use api::kinds::KINDS;

fn value(text: &str) -> Result<bool, String> {
    match text {
        "" | "true" | "1" => Ok(true),
        "false" | "0" => Ok(false),
        other => Err(format!("invalid value {other:?}: want true or false")),
    }
}

fn is_of(version: &str, stage: &str) -> bool {
    match stage {
        "api/all" => true,
        "api/alpha" => version.contains("alpha"),
        "api/beta" => version.contains("beta"),
        _ => !version.contains("alpha") && !version.contains("beta"),
    }
}

/// The groups and versions that are there and are not to be served.
pub fn not_served(settings: &[String]) -> Result<BTreeSet<(String, String)>, String> {
    let there: BTreeSet<(String, String)> = KINDS
        .iter()
        .filter(|k| k.served_by_default())
        .map(|k| (k.group.to_string(), k.version.to_string()))
        .collect();
    let known = |group: &str| KINDS.iter().any(|k| k.group == group);
    let mut off = BTreeSet::new();
    let mut unknown = Vec::new();
    let pairs: Vec<(&str, bool)> = settings
        .iter()
        .map(|text| {
            let (key, text) = text.split_once('=').unwrap_or((text, ""));
            value(text.trim()).map(|on| (key.trim(), on)).map_err(|e| format!("runtime-config {key}: {e}"))
        })
        .collect::<Result<_, _>>()?;
    let stages = ["api/all", "api/ga", "api/beta", "api/alpha"];
    // What names many comes before what names one, in whatever order they are written.
    for stage in stages {
        for (_, on) in pairs.iter().filter(|(key, _)| *key == stage) {
            for one in there.iter().filter(|(_, version)| is_of(version, stage)) {
                if *on {
                    off.remove(one)
                } else {
                    off.insert(one.clone())
                };
            }
        }
    }
    for (key, on) in pairs.iter().filter(|(key, _)| !stages.contains(key)) {
        let (group, version) = match key.split('/').collect::<Vec<_>>().as_slice() {
            ["v1"] | ["api", "v1"] => (String::new(), "v1".to_owned()),
            [group, version] => ((*group).to_owned(), (*version).to_owned()),
            _ => return Err(format!("runtime-config invalid key {key}")),
        };
        if !known(&group) {
            unknown.push(group);
            continue;
        }
        let one = (group, version);
        match (there.contains(&one), on) {
            (true, true) => drop(off.remove(&one)),
            (true, false) => drop(off.insert(one)),
            (false, true) => {
                tracing::warn!(
                    group = one.0,
                    version = one.1,
                    "--runtime-config names a version that is not there"
                );
            }
            (false, false) => {}
        }
    }
    if unknown.is_empty() { Ok(off) } else { Err(format!("unknown api groups {}", unknown.join(","))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn off(settings: &[&str]) -> Result<Vec<String>, String> {
        let settings: Vec<String> = settings.iter().map(|s| (*s).to_owned()).collect();
        Ok(not_served(&settings)?.into_iter().map(|(group, version)| format!("{group}/{version}")).collect())
    }

    #[test]
    fn versions_are_turned_off_and_on() {
        let none: [&str; 0] = [];
        assert_eq!(off(&[]).unwrap(), none);
        assert_eq!(off(&["api/all"]).unwrap(), none);
        assert_eq!(off(&["api/all=true", "rbac.authorization.k8s.io/v1alpha1"]).unwrap(), none);
        assert_eq!(off(&["batch/v1=false", "api/all=true"]).unwrap(), ["batch/v1"]);
        let but_core = off(&["api/all=false", "api/v1=true", "apps/v1"]).unwrap();
        assert!(!but_core.contains(&"/v1".to_owned()) && !but_core.contains(&"apps/v1".to_owned()));
        assert!(but_core.contains(&"batch/v1".to_owned()) && but_core.contains(&"autoscaling/v2".to_owned()));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        let error =
            off(&["extensions/v1beta1=true", "extensions/v1beta1/thirdpartyresources=true"]).unwrap_err();
        assert_eq!(error, "runtime-config invalid key extensions/v1beta1/thirdpartyresources");
        assert_eq!(off(&["extensions/v1beta1=true"]).unwrap_err(), "unknown api groups extensions");
        assert!(off(&["batch/v1=maybe"]).unwrap_err().contains("maybe"));
    }
}
