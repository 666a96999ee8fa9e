//! Gives the images to containerd, through its own tool.

use std::{
    io::{self, Read as _},
    path::Path,
    process::{Command, Stdio},
    thread,
};

use crate::{BuildError, SystemImages};

/// Why an import failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ImportError {
    /// `ctr` did not start.
    #[error("cannot start ctr; it comes with the package containerd")]
    Start(#[source] io::Error),
    /// The images could not be written to it.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// containerd said no.
    #[error("containerd did not take the system images: {said}")]
    Refused {
        /// The last line that `ctr` printed.
        said: String,
    },
}

/// The namespace in containerd where the CRI looks.
const NAMESPACE: &str = "k8s.io";

/// Imports the images into the containerd behind `socket` and unpacks them for `snapshotter`.
///
/// Blocks for as long as containerd takes to store and unpack the layers: call it where that is fine.
pub fn import(images: &SystemImages, socket: &Path, snapshotter: &str) -> Result<(), ImportError> {
    let mut child = Command::new("ctr")
        .arg("--address")
        .arg(socket)
        .args(["--namespace", NAMESPACE, "images", "import", "--snapshotter", snapshotter, "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(ImportError::Start)?;
    let input = child.stdin.take();
    let errors = child.stderr.take();
    // Both pipes at once: neither side may wait for the other.
    let said = thread::spawn(move || {
        let mut text = String::new();
        if let Some(errors) = errors {
            let _ = errors.take(64 * 1024).read_to_string(&mut text);
        }
        text
    });
    let written = match input {
        Some(input) => images.write(input),
        None => Ok(()),
    };
    let status = child.wait().map_err(ImportError::Start)?;
    let said = said.join().unwrap_or_default();
    if !status.success() {
        // Its own words say more than our broken pipe.
        let said =
            said.lines().rfind(|l| !l.trim().is_empty()).unwrap_or("nothing was said").trim().to_owned();
        return Err(ImportError::Refused { said });
    }
    written?;
    Ok(())
}
