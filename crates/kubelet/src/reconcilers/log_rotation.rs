//! Keeps containers' log files from growing without end: a full one is renamed, and the runtime opens a new one.

use std::path::{Path, PathBuf};

use crate::actual::Phase;
use crate::desired::Directory;
use crate::shared::Shared;

/// What rotation leaves beside a log: older files to remove, the oldest first. Pure.
pub fn superseded(mut rotated: Vec<PathBuf>, keep: u32) -> Vec<PathBuf> {
    rotated.sort();
    // The file that is written to is one of those kept, and the one about to be renamed another.
    let room = usize::try_from(keep).unwrap_or(usize::MAX).saturating_sub(2);
    let excess = rotated.len().saturating_sub(room);
    rotated.truncate(excess);
    rotated
}

fn rotated_files(log: &Path) -> Vec<PathBuf> {
    let (Some(dir), Some(name)) = (log.parent(), log.file_name().and_then(|name| name.to_str())) else {
        return vec![];
    };
    let prefix = format!("{name}.");
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.path())
        .filter(|path| {
            path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(&prefix))
        })
        .collect()
}

/// Looks at the log of every running container once.
pub async fn rotate(shared: &Shared, directory: &Directory) {
    for view in directory.views() {
        for record in view.actual.containers.iter().filter(|record| record.phase == Phase::Running) {
            let log = Path::new(&record.log_path);
            let full = std::fs::metadata(log)
                .is_ok_and(|metadata| metadata.len() > shared.config.container_log_max_size);
            if full && let Err(error) = rotate_one(shared, log, &record.id).await {
                tracing::warn!(path = record.log_path, error, "log not rotated");
            }
        }
    }
}

async fn rotate_one(shared: &Shared, log: &Path, id: &str) -> Result<(), String> {
    for old in superseded(rotated_files(log), shared.config.container_log_max_files) {
        std::fs::remove_file(old).map_err(|error| error.to_string())?;
    }
    let stamp = jiff::Timestamp::now().strftime("%Y%m%d-%H%M%S");
    let aside = PathBuf::from(format!("{}.{stamp}", log.display()));
    std::fs::rename(log, &aside).map_err(|error| error.to_string())?;
    if let Err(error) = shared.cri.reopen_container_log(id).await {
        // The runtime still writes to the renamed file: it gets its name back.
        std::fs::rename(&aside, log).map_err(|error| error.to_string())?;
        return Err(error.to_string());
    }
    tracing::debug!(path = %log.display(), "log rotated");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_go_first() {
        let files = |names: &[&str]| names.iter().map(PathBuf::from).collect::<Vec<_>>();
        let three = files(&["l.20260103-000000", "l.20260101-000000", "l.20260102-000000"]);
        assert_eq!(superseded(three.clone(), 5), Vec::<PathBuf>::new());
        assert_eq!(superseded(three.clone(), 4), files(&["l.20260101-000000"]));
        assert_eq!(superseded(three, 1).len(), 3);
    }
}
