//! Checks that the arrows between crates go the way `layers.toml` says.
use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context as _, Result};
use cargo_metadata::{DependencyKind, MetadataCommand};
use serde::Deserialize;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Layers {
    layers: BTreeMap<String, u32>,
    also: BTreeMap<String, Vec<String>>,
    never: BTreeMap<String, Vec<String>>,
}

impl Layers {
    /// What is wrong with an arrow.
    fn refuse(&self, from: &str, to: &str) -> Option<String> {
        let Some(upper) = self.layers.get(from) else {
            return Some(format!("{from} is in no layer: add it to xtask/layers.toml"));
        };
        let Some(lower) = self.layers.get(to) else {
            return Some(format!("{to} is in no layer: add it to xtask/layers.toml"));
        };
        let matches = |pattern: &String| match pattern.strip_suffix('*') {
            Some(prefix) => to.starts_with(prefix),
            None => pattern == to,
        };
        if self.never.get(from).is_some_and(|all| all.iter().any(matches)) {
            return Some(format!("{from} may never know {to}"));
        }
        let also = self.also.get(from).is_some_and(|all| all.iter().any(|a| a == to));
        (lower >= upper && !also)
            .then(|| format!("{from} (layer {upper}) may not depend on {to} (layer {lower})"))
    }
}

/// Every forbidden arrow of the workspace.
pub fn check(root: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(root.join("xtask/layers.toml")).context("read xtask/layers.toml")?;
    let layers: Layers = toml::from_str(&text)?;
    let metadata = MetadataCommand::new()
        .manifest_path(root.join("Cargo.toml"))
        .no_deps()
        .exec()
        .context("cargo metadata")?;
    let ours: Vec<&str> = metadata.packages.iter().map(|p| p.name.as_str()).collect();
    let mut wrong = Vec::new();
    for package in &metadata.packages {
        for dependency in &package.dependencies {
            // Tests may reach further: they bring their own fixtures.
            if dependency.kind == DependencyKind::Development || !ours.contains(&dependency.name.as_str()) {
                continue;
            }
            wrong.extend(layers.refuse(package.name.as_str(), &dependency.name));
        }
    }
    Ok(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrows_go_down_the_layers() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let wrong = check(root).unwrap();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    #[test]
    fn a_wrong_arrow_is_named() {
        let layers = Layers {
            layers: [("a".to_owned(), 1), ("b".to_owned(), 2), ("c".to_owned(), 1)].into(),
            also: [("a".to_owned(), vec!["c".to_owned()])].into(),
            never: [("b".to_owned(), vec!["c*".to_owned()])].into(),
        };
        assert_eq!(layers.refuse("b", "a"), None);
        assert_eq!(layers.refuse("a", "c"), None);
        assert!(layers.refuse("a", "b").unwrap().contains("may not depend"));
        assert!(layers.refuse("b", "c").unwrap().contains("may never know"));
        assert!(layers.refuse("x", "a").unwrap().contains("no layer"));
    }
}
