//! Keeps the system images in the cluster's containerd those of this binary.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context as _;
use images::{Source, SystemImages};
use serde::{Deserialize, Serialize};
use tracing::info;

use crate::{Layout, files};

/// What the images were last made of, to save reading the whole binary at every start.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Made {
    from: String,
    ids: BTreeMap<String, String>,
}

/// Identifies the content of a source without reading it.
pub(crate) fn identity(source: &Source) -> anyhow::Result<String> {
    let of = |path: &Path| -> anyhow::Result<String> {
        let m = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?;
        Ok(format!("{}:{}:{}:{}.{}", path.display(), m.ino(), m.size(), m.mtime(), m.mtime_nsec()))
    };
    let busybox = source.busybox.as_deref().map(of).transpose()?.unwrap_or_default();
    Ok(format!("{}|{}|{busybox}", source.version, of(&source.binary)?))
}

/// Whether containerd has exactly the images of this source.
pub(crate) async fn system_images_present(
    layout: &Layout,
    cri: &cri::Cri,
    source: &Source,
) -> anyhow::Result<bool> {
    let from = identity(source)?;
    match files::read_json::<Made>(&record(layout)).filter(|m| m.from == from) {
        Some(made) => Ok(missing(cri, &made.ids).await?.is_none()),
        None => Ok(false),
    }
}

fn record(layout: &Layout) -> PathBuf {
    layout.containerd_root().join("system-images.json")
}

/// Imports the system images if containerd does not have exactly these; says whether it did.
pub async fn ensure_system_images(
    layout: &Layout,
    cri: &cri::Cri,
    source: Source,
    snapshotter: &str,
) -> anyhow::Result<bool> {
    if system_images_present(layout, cri, &source).await? {
        return Ok(false);
    }
    let from = identity(&source)?;
    let (socket, snapshotter) = (layout.containerd_socket(), snapshotter.to_owned());
    let ids = tokio::task::spawn_blocking(move || -> anyhow::Result<BTreeMap<String, String>> {
        let built = SystemImages::build(&source)?;
        images::import(&built, &socket, &snapshotter)?;
        Ok(built.ids())
    })
    .await??;
    // containerd tells its CRI part of new images behind the import's back.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    let mut pause = Duration::from_millis(1);
    while let Some(name) = missing(cri, &ids).await? {
        anyhow::ensure!(
            tokio::time::Instant::now() < deadline,
            "the image {name} was imported and does not appear"
        );
        tokio::time::sleep(pause).await;
        pause *= 2;
    }
    files::write_json(&record(layout), &Made { from, ids: ids.clone() })?;
    info!(images = ids.len(), "system images imported");
    Ok(true)
}

/// Sees to the system images in the containerd behind a socket, with a record beside its data; says whether they had to
/// be imported.
pub async fn import_system_images(
    socket: &Path,
    record: &Path,
    images: &crate::apply::Images,
    snapshotter: &str,
) -> anyhow::Result<bool> {
    let cri = cri::Cri::new(&format!("unix://{}", socket.display()))?;
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    // The CRI part answers a moment after its socket is there.
    while let Err(error) = cri.version().await {
        anyhow::ensure!(
            tokio::time::Instant::now() < deadline,
            "the container runtime does not answer: {error}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let made = files::read_json::<Made>(record).filter(|m| m.from == images.identity);
    if let Some(made) = made
        && missing(&cri, &made.ids).await?.is_none()
    {
        return Ok(false);
    }
    let built = images.get().await?;
    let (shared, at, snapshotter) = (built.clone(), socket.to_owned(), snapshotter.to_owned());
    tokio::task::spawn_blocking(move || images::import(&shared, &at, &snapshotter)).await??;
    let ids = built.ids();
    let mut pause = Duration::from_millis(1);
    while let Some(name) = missing(&cri, &ids).await? {
        anyhow::ensure!(
            tokio::time::Instant::now() < deadline,
            "the image {name} was imported and does not appear"
        );
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(200));
    }
    files::write_json(record, &Made { from: images.identity.clone(), ids })?;
    Ok(true)
}

/// The first name that does not lead to its image.
async fn missing<'a>(cri: &cri::Cri, ids: &'a BTreeMap<String, String>) -> anyhow::Result<Option<&'a str>> {
    for (name, id) in ids {
        if cri.image_status(name).await?.is_none_or(|found| found.id != *id) {
            return Ok(Some(name));
        }
    }
    Ok(None)
}
