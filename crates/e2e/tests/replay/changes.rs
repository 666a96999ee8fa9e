//! What has to differ from a guide, and why: nothing else does.
use anyhow::{Context as _, Result, ensure};

use crate::hosts::Host;

/// One change of a guide's text.
pub struct Change {
    /// As the guide has it.
    pub from: &'static str,
    /// As it is now.
    pub to: &'static str,
    /// Why.
    pub why: &'static str,
}

/// A change with its reason.
pub const fn change(from: &'static str, to: &'static str, why: &'static str) -> Change {
    Change { from, to, why }
}

/// The text with all changes; each must apply, so that none outlives its reason.
pub fn changed(text: &str, changes: &[Change]) -> Result<String> {
    let mut text = text.to_owned();
    for change in changes {
        ensure!(!change.why.is_empty() && text.contains(change.from), "not in the guide: {}", change.from);
        text = text.replace(change.from, change.to);
    }
    Ok(text)
}

/// Starts a unit as the guide has it, and expects its part to name every flag that is gone and nothing that is not.
pub fn refused(host: &Host, unit: &str, script: &str, changes: &[Change]) -> Result<()> {
    host.sh(script)?;
    host.sh(&format!("systemctl daemon-reload; systemctl enable {unit}; systemctl start {unit}"))?;
    let said = host.until("the unit fails", &format!("cat {}", crate::units::log_of(unit)), |log| {
        log.contains("Main process exited")
    });
    host.sh(&format!("systemctl stop {unit}"))?;
    named_as_gone(&said.context("it does not end")?, unit, changes)?;
    host.sh(&format!("rm {}", crate::units::log_of(unit)))?;
    Ok(())
}

/// Whether what a part said names every flag that a change calls gone, and no other.
pub fn named_as_gone(said: &str, unit: &str, changes: &[Change]) -> Result<()> {
    // A container's log has a time before each line.
    let lines: std::collections::BTreeSet<&str> =
        said.lines().filter_map(|l| l.find("  --").map(|at| l[at..].trim())).collect();
    for change in changes.iter().filter(|c| c.why.contains("gone")) {
        let flag =
            change.from.split([' ', '=', '\n']).find(|word| word.starts_with("--")).unwrap_or_default();
        ensure!(said.contains(&format!("{flag}: ")), "{unit} says nothing of {flag}:\n{said}");
    }
    let gone = changes.iter().filter(|c| c.why.contains("gone")).count();
    ensure!(lines.len() == gone, "{} flags named, {gone} gone:\n{said}", lines.len());
    Ok(())
}
