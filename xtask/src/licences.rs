//! Checks the licences of all dependencies against `deny.toml`, for machines without `cargo deny`.
use std::collections::BTreeSet;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

#[derive(Deserialize)]
struct Deny {
    licenses: Licenses,
    bans: Bans,
}

#[derive(Deserialize)]
struct Licenses {
    allow: Vec<String>,
}

#[derive(Deserialize)]
struct Bans {
    deny: Vec<Ban>,
}

#[derive(Deserialize)]
struct Ban {
    name: String,
    reason: String,
}

/// Whether an SPDX expression can be met with what is allowed. `OR` binds weaker than `AND`; `/` is an old `OR`.
fn is_allowed(expression: &str, allow: &[String]) -> bool {
    let words: String = expression.replace(['(', ')'], " ").replace('/', " OR ");
    words.split(" OR ").any(|alternative| {
        alternative.split(" AND ").all(|term| {
            let licence = term.split(" WITH ").next().unwrap_or(term).trim();
            allow.iter().any(|a| a == licence)
        })
    })
}

/// Every dependency whose licence is not allowed, or which is banned.
pub fn check(root: &Path) -> Result<Vec<String>> {
    let text = std::fs::read_to_string(root.join("deny.toml")).context("read deny.toml")?;
    let deny: Deny = toml::from_str(&text)?;
    // What is really built: `cargo metadata` also lists what only features that are off would bring.
    let output = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
        .args(["tree", "--workspace", "--locked", "--edges", "normal,build", "--prefix", "none"])
        .args(["--format", "{p}|{l}"])
        .current_dir(root)
        .output()
        .context("cargo tree")?;
    ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr));
    let tree = String::from_utf8(output.stdout)?;
    let mut wrong = BTreeSet::new();
    for (package, licence) in tree.lines().filter_map(|line| line.split_once('|')) {
        let name = package.split(' ').next().unwrap_or(package);
        if let Some(ban) = deny.bans.deny.iter().find(|b| b.name == name) {
            wrong.insert(format!("{name} is banned: {}", ban.reason));
        }
        let licence = licence.trim_end_matches(" (*)");
        if !is_allowed(licence, &deny.licenses.allow) {
            wrong.insert(format!("{name}: licence {licence:?} is not allowed"));
        }
    }
    ensure!(tree.lines().count() > 100, "cargo tree lists too little to be true");
    Ok(wrong.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_read() {
        let allow = ["MIT".to_owned(), "Apache-2.0".to_owned()];
        assert!(is_allowed("MIT OR GPL-3.0", &allow));
        assert!(is_allowed("MIT/GPL-3.0", &allow));
        assert!(is_allowed(
            "(MIT OR ISC) AND Apache-2.0",
            &["MIT".into(), "ISC".into(), "Apache-2.0".into()]
        ));
        assert!(is_allowed("Apache-2.0 WITH LLVM-exception", &allow));
        assert!(!is_allowed("MIT AND GPL-3.0", &allow));
        assert!(!is_allowed("GPL-3.0", &allow));
    }

    #[test]
    fn every_dependency_may_be_used() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        let wrong = check(root).unwrap();
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
