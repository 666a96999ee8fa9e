//! What is asked of a host, whatever lies between it and us.

use std::{collections::BTreeMap, path::Path, path::PathBuf};

use async_trait::async_trait;
use serde::{Deserialize, Serialize};

use super::Images;
use crate::plan::{PlannedRuntime, PlannedService, Ready};

/// Why a host could not be asked, or refused.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HostError {
    /// It is not reached.
    #[error("{0}")]
    Unreachable(String),
    /// It refused.
    #[error("cannot {step}: {said}")]
    Refused {
        /// What was asked.
        step: String,
        /// What it said.
        said: String,
    },
}

/// What failed on which host.
#[derive(Debug, thiserror::Error)]
#[error("host {host}: {what}")]
pub struct ApplyError {
    /// The host.
    pub host: String,
    /// What failed and why.
    pub what: String,
}

/// What is at a path.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum FileFacts {
    /// A file, with the SHA-256 of its content.
    File {
        /// In hexadecimal.
        sha256: String,
        /// Permission bits.
        mode: u32,
    },
    /// A directory.
    Directory {
        /// Permission bits.
        mode: u32,
    },
    /// A symbolic link.
    Link(PathBuf),
}

/// A service that is installed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// What it was started with, as whoever started it called that.
    pub digest: String,
    /// Whether it runs now.
    pub active: bool,
    /// How often it was started again because it ended.
    pub restarts: u64,
}

/// What a command said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// Exit code; -1 where a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// Something that is put on a host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Piece<'a> {
    /// A directory with its parents; one that is there gets the mode.
    Directory(&'a Path, u32),
    /// A symbolic link, in place of whatever is there, and where it leads.
    Link(&'a Path, &'a Path),
    /// A file, its mode, its content.
    File(&'a Path, u32, &'a [u8]),
}

/// A host that is made what a plan says.
#[async_trait]
pub trait Host: Send + Sync {
    /// Its name.
    fn name(&self) -> &str;

    /// Runs a command to its end.
    async fn run(&self, command: &[&str], input: &[u8]) -> Result<Output, HostError>;

    /// What is at these paths; what is not there is left out.
    async fn inspect(&self, paths: &[&Path]) -> Result<BTreeMap<PathBuf, FileFacts>, HostError>;

    /// Makes a directory with its parents, or gives it the mode.
    async fn make_directory(&self, path: &Path, mode: u32) -> Result<(), HostError>;

    /// Writes a file, whole or not at all; nobody can open it before it has its mode.
    async fn write_file(&self, path: &Path, mode: u32, content: &[u8]) -> Result<(), HostError>;

    /// Makes a symbolic link in place of whatever is there.
    async fn link(&self, path: &Path, to: &Path) -> Result<(), HostError>;

    /// All of these, in this order.
    async fn put(&self, pieces: &[Piece<'_>]) -> Result<(), HostError> {
        for piece in pieces {
            match piece {
                Piece::Directory(path, mode) => self.make_directory(path, *mode).await?,
                Piece::Link(path, to) => self.link(path, to).await?,
                Piece::File(path, mode, content) => self.write_file(path, *mode, content).await?,
            }
        }
        Ok(())
    }

    /// Brings the `cox` of this machine; says whether it was another one before.
    async fn bring_cox(&self, from: &Path, identity: &str, path: &Path) -> Result<bool, HostError>;

    /// Installs packages; those it installed.
    async fn install_packages(&self, packages: &[String]) -> Result<Vec<String>, HostError>;

    /// Loads kernel modules and sets kernel settings where they are the host's own; what it changed.
    async fn prepare_kernel(
        &self,
        modules: &[String],
        settings: &BTreeMap<String, String>,
    ) -> Result<Vec<String>, HostError>;

    /// The services that were started by [`Self::start_service`], by name.
    async fn services(&self) -> Result<BTreeMap<String, Running>, HostError>;

    /// Installs a service and starts it; one that runs is started anew.
    async fn start_service(&self, service: &PlannedService, digest: &str) -> Result<(), HostError>;

    /// Stops a service and forgets it.
    async fn remove_service(&self, name: &str) -> Result<(), HostError>;

    /// Whether a service works, asked on the host; the inner error says what stands in the way.
    async fn probe(&self, ready: &Ready) -> Result<Result<(), String>, HostError>;

    /// The last lines that a service said.
    async fn last_words(&self, service: &str) -> Result<String, HostError>;

    /// Sees to the system images; says whether they had to be imported.
    async fn import_images(&self, runtime: &PlannedRuntime, images: &Images) -> Result<bool, HostError>;
}
