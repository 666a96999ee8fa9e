//! Everything that services need before they start.

use std::path::Path;

use sha2::{Digest as _, Sha256};

use super::{ApplyError, Bringing, Change, FileFacts, Host, HostError, Piece, Tell};
use crate::plan::{BinarySource, HostPlan};

/// SHA-256 in hexadecimal.
pub(crate) fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// Packages, kernel settings, directories, programs and files: writes what differs.
pub async fn install(
    plan: &HostPlan,
    host: &dyn Host,
    bringing: &Bringing,
    tell: Tell<'_>,
) -> Result<Vec<Change>, ApplyError> {
    let failed = |e: HostError| ApplyError { host: plan.host.clone(), what: e.to_string() };
    let mut changes = Vec::new();
    if !plan.packages.is_empty() {
        tell(&plan.host, "packages");
        let installed = host.install_packages(&plan.packages).await.map_err(failed)?;
        changes.extend(installed.into_iter().map(Change::Package));
    }
    let set = host.prepare_kernel(&plan.modules, &plan.sysctls).await.map_err(failed)?;
    changes.extend(set.into_iter().map(Change::Setting));

    tell(&plan.host, "files");
    let directories = plan.directories.iter().map(|d| d.path.as_path());
    let files = plan.files.iter().map(|f| f.path.as_path());
    // Our own program is looked at by whoever brings it.
    let links = plan.binaries.iter().filter(|b| b.source != BinarySource::Cox).map(|b| b.path.as_path());
    let paths: Vec<&Path> = directories.chain(files).chain(links).collect();
    let found = host.inspect(&paths).await.map_err(failed)?;

    let mut pieces = Vec::new();
    for directory in &plan.directories {
        // One that lets fewer in was made so by who uses it.
        let fits = matches!(
            found.get(&directory.path),
            Some(FileFacts::Directory { mode }) if mode & !directory.mode == 0
        );
        if !fits {
            pieces.push(Piece::Directory(&directory.path, directory.mode));
            changes.push(Change::Directory(directory.path.clone()));
        }
    }
    for binary in &plan.binaries {
        let changed = match &binary.source {
            BinarySource::Cox => {
                tell(&plan.host, "cox");
                host.bring_cox(&bringing.cox, &bringing.cox_identity, &binary.path).await.map_err(failed)?
            }
            BinarySource::LinkTo(to) => {
                let differs = found.get(&binary.path) != Some(&FileFacts::Link(to.clone()));
                if differs {
                    pieces.push(Piece::Link(&binary.path, to));
                }
                differs
            }
        };
        if changed {
            changes.push(Change::Program(binary.path.clone()));
        }
    }
    for file in &plan.files {
        let wanted = FileFacts::File { sha256: sha256(file.content.bytes()), mode: file.mode };
        if found.get(&file.path) != Some(&wanted) {
            pieces.push(Piece::File(&file.path, file.mode, file.content.bytes()));
            changes.push(Change::File(file.path.clone()));
        }
    }
    if !pieces.is_empty() {
        host.put(&pieces).await.map_err(failed)?;
    }
    Ok(changes)
}
